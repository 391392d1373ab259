from collections.abc import Callable

import numpy as np
import pytest

from robustad.calibration import Platt, RawScore
from robustad.evaluation import CalibrationReport, Condition, Evaluation, Example, Measures, Metrics
from robustad.metrics import (
    auroc,
    average_precision,
    brier,
    ece_positive,
    ece_top_label,
    f1_max,
    flag_auroc,
    gmean_max,
    nll,
    rates_at,
)
from robustad.verdict import binary_entropy

SHIFT = {"clean": 1.2, "fgsm_probe": 0.9, "fgsm": 0.1, "pgd10": -1.5}


def make_evaluation(
    *,
    n: int = 20,
    attacks: tuple[str, ...] = ("fgsm_probe", "fgsm", "pgd10"),
    calibrated: bool = True,
    pixel: bool = True,
    method: str = "anomaly_dino",
    category: str = "metal",
    seed: int = 0,
) -> Evaluation:
    """Scores of two overlapping classes that each attack moves together or apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [n, n + 4])
    noise = rng.normal(size=labels.size)
    scores = {
        name: 0.3 + 0.06 * (noise + SHIFT.get(name, 0.4) * labels) for name in ("clean", *attacks)
    }
    if attacks:
        stacked = np.array(list(scores.values()))
        scores["worst_case"] = np.where(labels == 0, stacked.max(axis=0), stacked.min(axis=0))
    platt = Platt().fit(scores["clean"][::2], labels[::2]) if calibrated else None
    conditions = {
        name: _condition(name, score, scores["clean"], labels, platt, pixel and name[0] != "w")
        for name, score in scores.items()
    }
    report = None
    if platt is not None:
        clean = scores["clean"]
        report = CalibrationReport(
            calibrator=platt.to_dict(),
            names=[f"held/{i}.png" for i in range(11)],
            score_threshold=platt.score_at(0.5),
            entropy_threshold=0.6,
            before=_measures(RawScore().predict_proba(clean), labels),
            after=_measures(platt.predict_proba(clean), labels),
        )
    return Evaluation(
        method=method,
        dataset="surfaces",
        category=category,
        names=[f"test/{i:03}.png" for i in range(labels.size)],
        defects=["scratch" if label else "good" for label in labels],
        labels=labels.tolist(),
        eps=8 / 255,
        conditions=conditions,
        calibration=report,
        settings={
            "robustad": "0.1.0",
            "detector": {"k": 1, "sigma": 4.0},
            "attacks": list(attacks),
        },
    )


def _condition(name, score, clean, labels, platt, pixel) -> Condition:
    metrics = Metrics(
        auroc=auroc(score, labels),
        ap=average_precision(score, labels),
        f1_max=f1_max(score, labels).value,
        gmean_max=gmean_max(score, labels).value,
    )
    if pixel:
        metrics.pixel_auroc, metrics.pixel_ap, metrics.aupro = 0.9123, 0.4321, 0.8234
    condition = Condition(
        name=name,
        score=score.tolist(),
        metrics=metrics,
        raw_entropy_mean=float(binary_entropy(score.clip(0, 1)).mean()),
        distance=0.0 if name == "clean" else 8 / 255,
        seconds=1.25,
    )
    if platt is not None:
        probability = platt.predict_proba(score)
        entropy = binary_entropy(probability)
        metrics.fpr, metrics.fnr = rates_at(probability, labels, 0.5)
        condition.probability, condition.entropy = probability.tolist(), entropy.tolist()
        condition.entropy_mean = float(entropy.mean())
        condition.flag_rate = float((entropy > 0.6).mean())
        if name != "clean":
            condition.flag_auroc = flag_auroc(binary_entropy(platt.predict_proba(clean)), entropy)
    return condition


def _measures(probability, labels) -> Measures:
    return Measures(
        ece_positive=ece_positive(probability, labels),
        ece_top_label=ece_top_label(probability, labels),
        nll=nll(probability, labels),
        brier=brier(probability, labels),
    )


def make_examples(
    evaluation: Evaluation, *, count: int = 4, size: tuple[int, int] = (64, 96), masks: bool = True
) -> list[Example]:
    """The images with the highest and the lowest clean score, as smooth texture plus noise."""
    rng = np.random.default_rng(3)
    order = np.argsort(-evaluation.scores(), kind="stable")
    attacked = evaluation.attacks[-1] if evaluation.attacks else "clean"
    examples = []
    for index in [*order[: count // 2], *order[-(count // 2) :]]:
        grain = 0.03 * rng.normal(size=(*size, 3))
        rows, columns = np.mgrid[: size[0], : size[1]]
        image = 0.5 + 0.2 * np.sin(rows / 9 + columns / 23)[..., None] + grain
        change = rng.choice([-1, 0, 1], size=image.shape) * evaluation.eps
        label = evaluation.labels[index]
        mask = np.zeros(size, np.bool_)
        mask[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 2] = label == 1
        heat = np.where(mask, 0.8, 0.2).astype(np.float32)
        heat += rng.random(size, np.float32) * np.float32(0.1)
        examples.append(
            Example(
                name=evaluation.names[index],
                defect=evaluation.defects[index],
                label=label,
                image=image.clip(0, 1).astype(np.float32),
                attacked=(image.clip(0.1, 0.9) + change).clip(0, 1).astype(np.float32),
                mask=mask if masks else None,
                clean_map=heat,
                attacked_map=1.5 * heat[::-1].copy(),
                clean_score=evaluation.clean.score[index],
                attacked_score=evaluation.conditions[attacked].score[index],
                attack=attacked,
            )
        )
    return examples


@pytest.fixture
def evaluation_of() -> Callable[..., Evaluation]:
    return make_evaluation


@pytest.fixture
def examples_of() -> Callable[..., list[Example]]:
    return make_examples


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    return make_evaluation()


@pytest.fixture(scope="session")
def examples(evaluation: Evaluation) -> list[Example]:
    return make_examples(evaluation)
