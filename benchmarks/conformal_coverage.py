"""Are the promised error rates kept? Random splits of generated images, clean and attacked.

    python benchmarks/conformal_coverage.py --out benchmarks/results/conformal_surfaces.json
    python benchmarks/render_results.py

Scores are computed once; every split only draws which normal images are held out. Rates are
fractions of 1, and every figure comes with the standard error of its mean over the splits.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from render_results import machine

from robustad.attacks import attack
from robustad.conformal import (
    ConformalScores,
    LeftOut,
    jackknife_plus_p_values,
    p_values,
    threshold_for_fpr,
)
from robustad.data import Sample, calibration_split, shots
from robustad.data.surfaces import Surfaces
from robustad.detectors import AnomalyDINO
from robustad.evaluation import evaluate

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
CONFIDENCE = 0.9
EPS = 8 / 255
Rows = npt.NDArray[np.float64]


def detector_of(size: int, **options: Any) -> AnomalyDINO:
    return AnomalyDINO("filters", image_size=size, **options)


def scored(category: str, size: int, count: int) -> tuple[Rows, Rows]:
    """Scores of `count` normal images, clean and under PGD-10."""
    images = Surfaces(size=size, train=4, test_good=count, per_defect=0).load(category)
    detector = detector_of(size).fit([sample.image for sample in images.train])
    clean, attacked = [], []
    for start in range(0, count, 16):
        x = detector.prepare([sample.image for sample in images.test[start : start + 16]])
        found = attack(detector, x, label=torch.zeros(len(x)), attack="pgd10", eps=EPS)
        clean += found.clean_score.tolist()
        attacked += found.score.tolist()
    return np.array(clean), np.array(attacked)


def mean_and_error(values: Rows) -> dict[str, list[float]]:
    """Mean over the splits (first axis) and its standard error."""
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return {"mean": values.mean(axis=0).round(5).tolist(), "error": error.round(5).tolist()}


def splits(clean: Rows, attacked: Rows, *, held_out: int, count: int) -> dict[str, Any]:
    """Realised false alarm rates over random splits, of p-values and of both thresholds."""
    plain, under_attack, sure, broken = [], [], [], []
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(clean.size)
        known, rest = clean[order[:held_out]], order[held_out:]
        for scores, rates in ((clean, plain), (attacked, under_attack)):
            p = p_values(scores[rest], known)
            rates.append([(p <= alpha).mean() for alpha in ALPHAS])
        limits = [
            threshold_for_fpr(known, alpha, confidence=CONFIDENCE, if_too_few="infinite").value
            for alpha in ALPHAS
        ]
        sure.append([(clean[rest] >= limit).mean() for limit in limits])
        broken.append([rate > alpha for rate, alpha in zip(sure[-1], ALPHAS, strict=True)])
    return {
        "held_out": held_out,
        "rest": int(clean.size - held_out),
        "splits": count,
        "clean": mean_and_error(np.array(plain)),
        "pgd10": mean_and_error(np.array(under_attack)),
        "with_confidence": mean_and_error(np.array(sure)),
        "with_confidence_broken": mean_and_error(np.array(broken, float)),
    }


def few_shots(
    category: str, size: int, *, k: int, draws: int, others: int, whiten: bool
) -> dict[str, Any]:
    """Realised rates of leave-one-out and jackknife+ p-values of k shots, drawn anew each time."""
    pool = Surfaces(size=size, train=0, test_good=240, per_defect=0).load(category).test
    alphas = [j / (k + 1) for j in (1, 2, 3, 4)]
    alone, plus = [], []
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(pool))
        bank = [pool[i].image for i in order[:k]]
        new = [pool[i].image for i in order[k : k + others]]
        detector = detector_of(size, whiten=whiten).fit(bank)
        left_out = LeftOut(detector, bank)
        loo = ConformalScores(left_out.scores, method="leave_one_out", monotone=left_out.monotone)
        one = loo.p_values(detector.predict(new).score)
        other = jackknife_plus_p_values(left_out.scores_of(new), left_out.scores)
        for p, rates in ((one, alone), (other, plus)):
            rates.append([(p <= alpha + 1e-9).mean() for alpha in alphas])
    return {
        "k": k,
        "draws": draws,
        "whiten": whiten,
        "alphas": alphas,
        "leave_one_out": mean_and_error(np.array(alone)),
        "jackknife_plus": mean_and_error(np.array(plus)),
    }


def flags(category: str, size: int) -> dict[str, Any]:
    """Both attack flags, clean, under plain attacks and under the one that knows of them."""
    images = Surfaces(size=size, train=4, test_good=60, per_defect=8).load(category)
    detector = detector_of(size).fit([s.image for s in shots(images, 4).train])
    held_out, rest = calibration_split(images.test, fraction=0.5)
    few: list[Sample] = [s for label in (0, 1) for s in [r for r in rest if r.label == label][:20]]
    result = evaluate(
        detector, few, calibration=held_out, attacks=["fgsm", "pgd10", "adaptive"], pixel=False
    )
    rows = {}
    for name in ("clean", "fgsm", "pgd10", "adaptive"):
        one = result.conditions[name]
        found = {
            flag: judged.model_dump(exclude={"false_alarm", "detection"})
            for flag, judged in one.attack_flags.items()
        }
        rows[name] = {
            "auroc": one.metrics.auroc, "fpr": one.metrics.fpr, "fnr": one.metrics.fnr, **found
        }  # fmt: skip
    return {"held_out": len(held_out), "images": len(few), "conditions": rows}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--images", type=int, default=400, help="normal images a category")
    parser.add_argument("--draws", type=int, default=150, help="of shots")
    parser.add_argument("--size", type=int, default=64, help="edge of the images in pixels")
    parser.add_argument(
        "--category", nargs="+", default=["cloth", "metal"], help="added to those in the file"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    document: dict[str, Any] = {
        "machine": machine(),
        "date": datetime.now(tz=UTC).date().isoformat(),
        "settings": {
            "backbone": "filters", "image_size": options.size, "images": options.images,
            "eps": "8/255", "confidence": CONFIDENCE,
        },
        "alphas": list(ALPHAS),
        "coverage": {},
        "shots": {},
        "flags": {},
    }  # fmt: skip
    if options.out.is_file():
        earlier = json.loads(options.out.read_text())
        if earlier["settings"] != document["settings"]:
            parser.error(f"{options.out}: was made with {earlier['settings']}")
        document |= {part: earlier[part] for part in ("coverage", "shots", "flags")}
    for category in options.category:
        clean, attacked = scored(category, options.size, options.images)
        document["coverage"][category] = [
            splits(clean, attacked, held_out=n, count=options.splits) for n in (20, 100, 200)
        ]
        document["shots"][category] = [
            few_shots(category, options.size, k=9, draws=options.draws, others=10, whiten=whiten)
            for whiten in (False, True)
        ]
        document["flags"][category] = flags(category, options.size)
    options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
