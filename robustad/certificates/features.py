"""The nearest-neighbour certificate over a set of images, beside angles that attacks produce."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from robustad.attacks import attack, preset
from robustad.attacks.probe import FeatureScorer
from robustad.certificates.angles import feature_angles, feature_bounds
from robustad.certificates.figures import certified_auroc, certified_rates
from robustad.certificates.result import (
    AnglePoint,
    ErrorRates,
    FeatureCertificate,
    MeasuredAngles,
)
from robustad.data import Sample, sample_hash
from robustad.detectors import AnomalyDINO, Detector
from robustad.errors import InputError
from robustad.evaluation.batches import batches
from robustad.evaluation.fixed import score_threshold
from robustad.evaluation.hashes import seeds_of
from robustad.metrics import auroc, gmean_max
from robustad.progress import track

BATCH = 4


def certify_features(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    angles: Sequence[float],
    attacks: Sequence[str] = (),
    eps: float = 8 / 255,
    seed: int = 0,
    progress: bool = False,
) -> FeatureCertificate:
    """AUROC, FPR and FNR that remain while no feature turns by more than an angle.

    Parameters
    ----------
    detector : AnomalyDINO
        Fitted.
    samples : sequence of Sample
        Labelled images with both classes.
    angles : sequence of float in [0, 180]
        In degrees.
    attacks : sequence of str, optional
        Whose effect on the features is measured; see `robustad.attacks.preset`.
    eps : float, default 8/255
        Their radius, each in its own norm.
    seed : int, default 0
        Of the attacks.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    FeatureCertificate
        Exact, without any chance to be wrong; but about features. Which angle an attack on pixels
        can reach is not known: `measured` says what these attacks reached.

    Raises
    ------
    InputError
        If the detector is of another kind, or an angle is out of range.
    """
    if not isinstance(detector, AnomalyDINO):
        raise InputError(
            f"angles: expected a nearest-neighbour detector (anomaly_dino), got {detector.method!r}"
        )
    for angle in angles:
        if not 0.0 <= angle <= 180.0:
            raise InputError(f"angles: expected degrees in [0, 180], got {angle}")
    for name in attacks:
        preset(name)
    ascending = sorted({float(angle) for angle in angles})
    labels = [sample.label for sample in samples]
    clean: list[float] = []
    ends = np.empty((2, len(ascending), len(samples)))
    for batch in track(
        batches(detector, samples, BATCH),
        "angles",
        total=-(-len(samples) // BATCH),
        enabled=progress,
    ):
        with torch.no_grad():
            clean += detector(batch.x).double().tolist()
        for place, angle in enumerate(ascending):
            _, image = feature_bounds(detector, batch.x, math.radians(angle))
            ends[0, place, batch.index] = image.lower.cpu().double().numpy()
            ends[1, place, batch.index] = image.upper.cpu().double().numpy()
    own = score_threshold(detector.calibrator, detector.policy)
    limit = gmean_max(clean, labels).threshold if own is None else own
    return FeatureCertificate(
        auroc=auroc(clean, labels),
        thresholds=[limit],
        points=[
            AnglePoint(
                degrees=angle,
                auroc=certified_auroc(lower, upper, labels),
                rates=[
                    ErrorRates(
                        threshold=limit, **certified_rates(lower, upper, labels, limit)._asdict()
                    )
                ],
            )
            for angle, lower, upper in zip(ascending, *ends, strict=True)
        ],
        measured=[
            measure_angles(detector, samples, name, eps=eps, seed=seed, progress=progress)
            for name in attacks
        ],
    )


def measure_angles(
    detector: FeatureScorer,
    samples: Sequence[Sample],
    name: str,
    *,
    eps: float,
    seed: int = 0,
    progress: bool = False,
) -> MeasuredAngles:
    """Attack images and measure how far their features turn. Empirical: it certifies nothing.

    Parameters
    ----------
    detector : Detector with `patch_features`
        Fitted.
    samples : sequence of Sample
        Labelled images.
    name : str
        The attack, as `robustad.attacks.preset` takes it.
    eps : float
        Its radius.
    seed : int, default 0
        Of the attack.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    MeasuredAngles
        In degrees, over all patches of all images.
    """
    if not isinstance(detector, Detector):
        raise InputError(f"detector: expected a Detector, got {type(detector).__name__}")
    seeds = seeds_of([sample_hash(sample) for sample in samples], seed)
    found = []
    for batch in track(
        batches(detector, samples, BATCH),
        name,
        total=-(-len(samples) // BATCH),
        enabled=progress,
    ):
        result = attack(
            detector,
            batch.x,
            label=batch.label,
            mask=batch.mask,
            attack=name,
            eps=eps,
            seeds=[seeds[i] for i in batch.index],
        )
        found.append(feature_angles(detector, batch.x, result.x_worst).cpu().flatten().numpy())
    degrees = np.degrees(np.concatenate(found))
    return MeasuredAngles(
        attack=name,
        norm=preset(name).norm,
        eps=eps,
        median=float(np.median(degrees)),
        p99=float(np.quantile(degrees, 0.99)),
        largest=float(degrees.max()),
    )
