"""Evaluate a detector on labelled images, clean and under attack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad.attacks import LinearProbe, attack, preset
from robustad.attacks.probe import FeatureScorer
from robustad.calibration import Calibrator, RawScore
from robustad.calibration.fit import fitted
from robustad.data import Sample
from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.evaluation.batches import Batch, batches
from robustad.evaluation.result import (
    CLEAN,
    WORST,
    CalibrationReport,
    Condition,
    Evaluation,
    Measures,
    Metrics,
)
from robustad.metrics import (
    PixelMetrics,
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
from robustad.progress import track
from robustad.verdict import Policy, binary_entropy

FloatArray = npt.NDArray[np.float64]
DEFAULT_ATTACKS = ("fgsm_probe", "fgsm", "pgd10")


@dataclass
class _Pass:
    """What one condition gathers while the batches go by."""

    name: str
    pixel: PixelMetrics | None
    score: list[float] = field(default_factory=list)
    distance: float = 0.0
    seconds: float = 0.0


def evaluate(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    calibration: Sequence[Sample] | None = None,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    eps: float = 8 / 255,
    pixel: bool = True,
    batch_size: int = 8,
    dataset: str = "",
    category: str = "",
    progress: bool = False,
) -> Evaluation:
    """Score images clean and under attack, and sum up.

    Parameters
    ----------
    detector : Detector
        Fitted; not changed.
    samples : sequence of Sample
        Labelled evaluation images with both classes.
    calibration : sequence of Sample, optional
        Labelled images, none of them in `samples`, to fit Platt's curve, thresholds and the linear
        probe on. Without them the detector's own calibrator and policy are used, if it has any.
    attacks : sequence of str, default ("fgsm_probe", "fgsm", "pgd10")
        Names as `robustad.attacks.preset` takes them. `fgsm_probe` needs `calibration` with masks;
        to objectives that look at masks, an anomalous image without one is anomalous everywhere.
    eps : float in (0, 1], default 8/255
        Radius of all attacks, each in its own norm.
    pixel : bool, default True
        Also compute pixel AUROC, AP and AUPRO, over the images that have masks.
    batch_size : int, default 8
        Images of equal prepared size attacked at once.
    dataset, category : str
        Names to record.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Evaluation
        With the clean pass, one condition an attack, and the worst case: each image's highest
        score (normal) or lowest (anomalous) over the clean pass and all attacks. AUROC is monotone
        in each score, so that worst case is exact.

    Raises
    ------
    InputError
        If samples and calibration overlap, a class is missing, or an attack lacks what it needs.
    DataError
        If an image or mask cannot be read.
    """
    for name in attacks:
        preset(name)
    if batch_size < 1:
        raise InputError(f"batch_size: expected >= 1, got {batch_size}")
    samples, held_out = list(samples), list(calibration or ())
    _check(samples, held_out)
    labels = np.array([sample.label for sample in samples])
    total = len(samples) + len(held_out)
    calibrator, policy, probe = detector.calibrator, detector.policy, None
    if held_out:
        steps = track(
            batches(detector, held_out, batch_size), "calibrate", enabled=progress and total > 50
        )
        calibrator, policy, probe = _calibrate(detector, list(steps), attacks)
    elif any(preset(name).objective == "probe" for name in attacks):
        raise InputError("calibration: attack 'fgsm_probe' fits its probe on calibration images")
    has_masks = pixel and _has_masks(samples)
    passes = [_Pass(name, PixelMetrics() if has_masks else None) for name in (CLEAN, *attacks)]
    for batch in track(
        batches(detector, samples, batch_size),
        "evaluate",
        total=-(-len(samples) // batch_size),
        enabled=progress,
    ):
        for one in passes:
            _run(detector, batch, one, eps, probe)
    conditions = {
        one.name: _condition(one, labels, calibrator, policy, passes[0].score) for one in passes
    }
    if attacks:
        conditions[WORST] = _worst(passes, labels, calibrator, policy)
    report = None
    if calibrator is not None:
        names = [sample.name for sample in held_out]
        report = _calibration_report(calibrator, policy, names, conditions[CLEAN], labels)
    return Evaluation(
        method=detector.method,
        dataset=dataset,
        category=category,
        names=[sample.name for sample in samples],
        defects=[sample.defect for sample in samples],
        labels=labels.tolist(),
        eps=eps,
        conditions=conditions,
        calibration=report,
        settings={
            "attacks": list(attacks),
            "batch_size": batch_size,
            "detector": detector.config().model_dump(mode="json"),
            "torch": torch.__version__,
            "robustad": version("robustad"),
        },
    )


def _check(samples: list[Sample], held_out: list[Sample]) -> None:
    overlap = sorted({sample.name for sample in samples} & {sample.name for sample in held_out})
    if overlap:
        raise InputError(
            f"calibration: expected images that are not evaluated on, but {len(overlap)} are in "
            f"both, first {overlap[0]!r}"
        )
    labels = [sample.label for sample in samples]
    if set(labels) != {0, 1}:
        raise InputError(
            "samples: expected both normal and anomalous images, got "
            f"{labels.count(0)} normal and {labels.count(1)} anomalous"
        )


def _calibrate(
    detector: Detector, held_out: list[Batch], attacks: Sequence[str]
) -> tuple[Calibrator, Policy, LinearProbe | None]:
    with torch.no_grad():
        scores = torch.cat([detector(batch.x) for batch in held_out])
    labels = torch.cat([batch.label for batch in held_out])
    calibrator, policy = fitted(scores.cpu().numpy(), labels.cpu().numpy())
    probe = None
    if any(preset(name).objective == "probe" for name in attacks):
        if not isinstance(detector, FeatureScorer):
            raise InputError(
                f"detector: attack 'fgsm_probe' needs patch_features, which "
                f"{type(detector).__name__} does not have"
            )
        known = [
            (batch, [i for i, p in enumerate(batch.pixels) if p is not None]) for batch in held_out
        ]
        probe = LinearProbe.fit(
            detector, ((batch.x[keep], batch.mask[keep]) for batch, keep in known if keep)
        )
    return calibrator, policy, probe


def _has_masks(samples: list[Sample]) -> bool:
    return any(sample.label == 1 and sample.mask is not None for sample in samples)


def _run(
    detector: Detector, batch: Batch, one: _Pass, eps: float, probe: LinearProbe | None
) -> None:
    start = time.perf_counter()
    if one.name == CLEAN:
        with torch.no_grad():
            patch_scores = detector.patch_scores(batch.x)
            score = detector.aggregate(patch_scores)
    else:
        result = attack(
            detector,
            batch.x,
            label=batch.label,
            mask=batch.mask,
            attack=one.name,
            eps=eps,
            probe=probe,
        )
        patch_scores, score = result.patch_scores, result.score
        one.distance = max(one.distance, float(result.distance.max()))
    one.score += score.tolist()
    one.seconds += time.perf_counter() - start
    if one.pixel is not None:
        _count_pixels(detector, batch, patch_scores, one.pixel)


@torch.no_grad()
def _count_pixels(
    detector: Detector, batch: Batch, patch_scores: Tensor, pixel: PixelMetrics
) -> None:
    maps = detector.anomaly_map(patch_scores, (batch.x.shape[2], batch.x.shape[3]))
    for anomaly_map, truth in zip(maps.cpu().numpy(), batch.pixels, strict=True):
        if truth is not None:
            pixel.update(anomaly_map, truth)


def _condition(
    one: _Pass,
    labels: npt.NDArray[np.int64],
    calibrator: Calibrator | None,
    policy: Policy,
    clean: list[float],
) -> Condition:
    score = np.asarray(one.score)
    metrics = Metrics(
        auroc=auroc(score, labels),
        ap=average_precision(score, labels),
        f1_max=f1_max(score, labels).value,
        gmean_max=gmean_max(score, labels).value,
    )
    # masks may lose their few pixels when resized, which leaves nothing to measure
    with suppress(InputError):
        if one.pixel is not None:
            found = one.pixel.compute()
            metrics.pixel_auroc, metrics.pixel_ap = found.auroc, found.ap
            metrics.aupro = found.aupro
    condition = Condition(
        name=one.name,
        score=one.score,
        metrics=metrics,
        raw_entropy_mean=float(binary_entropy(score.clip(0.0, 1.0)).mean()),
        distance=one.distance,
        seconds=one.seconds,
    )
    if calibrator is not None:
        probability = calibrator.predict_proba(score)
        entropy = binary_entropy(probability)
        metrics.fpr, metrics.fnr = rates_at(probability, labels, policy.threshold)
        condition.probability, condition.entropy = probability.tolist(), entropy.tolist()
        condition.entropy_mean = float(entropy.mean())
        if policy.entropy_threshold is not None:
            condition.flag_rate = float((entropy > policy.entropy_threshold).mean())
        if one.name != CLEAN:
            reference = binary_entropy(calibrator.predict_proba(np.asarray(clean)))
            condition.flag_auroc = flag_auroc(reference, entropy)
    return condition


def _worst(
    passes: list[_Pass],
    labels: npt.NDArray[np.int64],
    calibrator: Calibrator | None,
    policy: Policy,
) -> Condition:
    scores = np.array([one.score for one in passes])
    worst = np.where(labels == 0, scores.max(axis=0), scores.min(axis=0))
    merged = _Pass(
        WORST,
        None,  # pixel metrics are not separable by image, so no exact worst case exists
        worst.tolist(),
        max(one.distance for one in passes),
        sum(one.seconds for one in passes),
    )
    return _condition(merged, labels, calibrator, policy, passes[0].score)


def _calibration_report(
    calibrator: Calibrator,
    policy: Policy,
    names: list[str],
    clean: Condition,
    labels: npt.NDArray[np.int64],
) -> CalibrationReport:
    def measures(probability: FloatArray) -> Measures:
        return Measures(
            ece_positive=ece_positive(probability, labels),
            ece_top_label=ece_top_label(probability, labels),
            nll=nll(probability, labels),
            brier=brier(probability, labels),
        )

    score = np.asarray(clean.score)
    return CalibrationReport(
        calibrator=calibrator.to_dict(),
        names=names,
        score_threshold=float(getattr(calibrator, "score_at", lambda p: p)(policy.threshold)),
        entropy_threshold=policy.entropy_threshold,
        before=measures(RawScore().predict_proba(score)),
        after=measures(calibrator.predict_proba(score)),
    )
