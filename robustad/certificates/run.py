"""Certify a detector on labelled images."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustad.certificates.attacked import run_attacks
from robustad.certificates.draws import Draws, base_scores, looks
from robustad.certificates.features import certify_features
from robustad.certificates.figures import certified_auroc, certified_rates
from robustad.certificates.noise import Denoiser
from robustad.certificates.options import checked_labels, given_thresholds, smoothed_target
from robustad.certificates.orders import (
    FloatArray,
    Intervals,
    Level,
    Sides,
    check_radii,
    draws_needed,
    median,
)
from robustad.certificates.result import (
    Certification,
    CertifiedImage,
    CertifiedPoint,
    ErrorRates,
)
from robustad.certificates.smoothed import SmoothedDetector
from robustad.data import Sample
from robustad.errors import InputError
from robustad.evaluation.batches import batches
from robustad.evaluation.hashes import detector_hash
from robustad.evaluation.store import Units
from robustad.metrics import auroc, gmean_max
from robustad.progress import counter

# l2 radii of published tables, from 0.06 to 0.5 of the pixel range.
DEFAULT_RADII = (16 / 255, 32 / 255, 64 / 255, 128 / 255)


def certify(
    model: Any,
    samples: Sequence[Sample],
    *,
    sigma: float | None = None,
    n: int = 1000,
    alpha: float = 0.001,
    radii: Sequence[float] = DEFAULT_RADII,
    thresholds: Sequence[float] | None = None,
    sides: Sides = "one",
    simultaneous: bool = False,
    test_draws: int | None = None,
    early: bool = False,
    denoiser: Denoiser | None = None,
    attacks: Sequence[str] = (),
    attack_draws: int = 32,
    angles: Sequence[float] = (),
    angle_attacks: Sequence[str] = (),
    angle_eps: float = 8 / 255,
    image_size: int = 224,
    seed: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    resume: bool = True,
    dataset: str = "",
    category: str = "",
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Certification:
    """Bound the score of every image, and what attacks can make of AUROC, FPR and FNR.

    Parameters
    ----------
    model : str, Path, Detector or callable
        As `robustad.evaluation.target.load_target`: a saved detector, an exported `.onnx` file,
        any callable, or such an object. What is certified is its smoothed version; a
        `SmoothedDetector` is taken with its own noise.
    samples : sequence of Sample
        Labelled images with both classes.
    sigma : float > 0, default 0.25
        Standard deviation of the noise in pixel range; that of a `SmoothedDetector` by default.
    n : int, default 1000
        Noisy copies an image, enough to bound it at radius 0 (`draws_needed`).
    alpha : float in (0, 1), default 0.001
        Chance that a bound is wrong, over the draws.
    radii : sequence of float >= 0, default 16, 32, 64 and 128 / 255
        l2 radii, all from one set of draws. Out of reach an image has no bound and counts as lost.
    thresholds : sequence of float, optional
        Scores of the smoothed detector at which error rates are given. Default that of a
        `SmoothedDetector`'s calibrator and policy, else the best G-mean of these very images.
    sides : {"one", "two"}, default "one"
        "one": each bound is wrong with a chance of at most alpha, which is what AUROC, FPR and FNR
        need, as only one bound of an image counts. "two": lower and upper bound together.
    simultaneous : bool, default False
        Hold each image at alpha / images, so that the figures of a radius are wrong with a chance
        of at most alpha. Else that chance is at most alpha times the images.
    test_draws : int >= 1, optional
        Certify what the median of so many new copies gives, as a deployed detector computes it,
        instead of the median itself; see `median_ranks`.
    early : bool, default False
        Stop drawing when an image is certified at the largest radius, or is on the wrong side
        already clean, at every threshold. Needs `thresholds` (or a calibrated
        `SmoothedDetector`). Looking several times takes a share of alpha each; intervals get wider.
    denoiser : callable, optional
        See `SmoothedDetector`.
    attacks : sequence of str, optional
        l2 attacks to run on the smoothed detector at each radius, for comparison: `pgd_l2`,
        `autoattack_l2`, `adaptive_l2`, ...; see `robustad.attacks.preset`.
    attack_draws : int >= 1, default 32
        Copies that attacks average over. What they find is scored with n new ones.
    angles : sequence of float in [0, 180], optional
        In degrees: certify the detector before smoothing against features that turn by these
        angles; for nearest-neighbour detectors (`feature_bounds`).
    angle_attacks : sequence of str, optional
        Attacks on the detector before smoothing whose angles are measured for comparison.
    angle_eps : float, default 8/255
        Their radius, each in its own norm.
    image_size : int, default 224
        For callables: images are stretched to squares of this many pixels.
    seed : int, default 0
        Of the noise and the attacks, together with each image's content.
    batch_size : int >= 1, default 64
        Copies scored at once.
    store : str or Path, optional
        Folder in which finished draws and attacks are kept: the same call goes on where a killed
        one stopped, other radii, levels and thresholds cost nothing, and a larger `n` only the
        copies that are missing.
    resume : bool, default True
        False computes everything anew and overwrites what the store has.
    dataset, category : str
        Names to record.
    device : str or torch.device, optional
        Where to compute; default where the detector is.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Certification
        With the attacks' figures beside the certified ones.

    Raises
    ------
    InputError
        If an option is out of range, a class is missing, or a score is not finite.
    DataError
        If an image cannot be read.

    Notes
    -----
    The certificate is about the smoothed detector: the median of its scores over Gaussian noise
    stays within the interval for every perturbation of an l2 length up to the radius. It says
    nothing of the detector without noise, and nothing useful of l-infinity 8/255, whose l2 length
    at 224 x 224 pixels is 12.2. Chiang et al., NeurIPS 2020.
    """
    start = time.perf_counter()
    smoothed, name = smoothed_target(model, sigma, denoiser, seed, batch_size, image_size)
    if device is not None:
        smoothed = smoothed.to(device)
    samples = list(samples)
    labels = checked_labels(samples, attacks, attack_draws)
    check_radii(radii)
    ascending = sorted(map(float, radii))
    level = Level(
        sigma=smoothed.sigma,
        alpha=alpha / len(samples) if simultaneous else alpha,
        sides=sides,
        test_draws=test_draws,
    )
    least = draws_needed(0.0, alpha=level.alpha, sides=sides)
    if n < least:
        raise InputError(
            f"n: expected at least {least} copies for a level of {level.alpha:g} "
            f"({sides}-sided), got {n}"
        )
    limits = given_thresholds(smoothed, thresholds)
    if early and limits is None:
        raise InputError("early: expected thresholds with it, got none")
    draws = Draws(
        detector=smoothed,
        detector_hash=_fingerprint(smoothed),
        store=None if store is None else Units(store),
        reuse=resume,
    )
    scores, base = _drawn(
        draws, samples, labels, n, level, ascending, limits if early else None, progress
    )
    share = len(looks(n)) if early else 1  # each look may be wrong
    found = _images(samples, scores, level, ascending, share)
    middle = np.array([one.score for one in found])
    source = "given" if thresholds is not None else "calibrator"
    if limits is None:
        limits, source = [gmean_max(middle, labels).threshold], "best G-mean of these images"
    made = Certification(
        model=name,
        sha256=detector_hash(smoothed),
        dataset=dataset,
        category=category,
        sigma=smoothed.sigma,
        n=n,
        alpha=alpha,
        sides=sides,
        simultaneous=simultaneous,
        test_draws=test_draws,
        early=early,
        denoiser=smoothed.config().denoiser,
        seed=smoothed.seed,
        radii=ascending,
        thresholds=limits,
        threshold_source=source,
        clean_auroc=auroc(middle, labels),
        base_auroc=auroc(base, labels),
        images=found,
        points=[],
        attacks=[*attacks],
        settings={
            "detector": smoothed.config().model_dump(mode="json"),
            "attack_draws": attack_draws if attacks else None,
            "torch": torch.__version__,
            "robustad": version("robustad"),
        },
    )
    made.points = [_point(made, place, labels) for place in range(len(ascending))]
    if attacks:
        run_attacks(
            made,
            draws,
            samples,
            scores,
            level,
            share,
            attacks=attacks,
            attack_draws=attack_draws,
            progress=progress,
        )
    if angles:
        made.features = certify_features(
            smoothed.base,
            samples,
            angles=angles,
            attacks=angle_attacks,
            eps=angle_eps,
            seed=smoothed.seed,
            progress=progress,
        )
    made.seconds = time.perf_counter() - start
    return made


def _fingerprint(smoothed: SmoothedDetector) -> str:
    """What the draws depend on: not how many of them the detector itself takes."""
    one = copy.copy(smoothed)
    one.draws = 1
    return detector_hash(one)


def _drawn(
    draws: Draws,
    samples: Sequence[Sample],
    labels: Sequence[int],
    n: int,
    level: Level,
    radii: Sequence[float],
    limits: Sequence[float] | None,
    progress: bool,
) -> tuple[list[FloatArray], FloatArray]:
    """Every image's draws, and its score before smoothing."""
    share, total = len(looks(n)), n * len(samples)
    scores: list[FloatArray] = []
    base = []
    with counter("certify", enabled=progress) as count:
        seen = 0

        def done(more: int) -> None:
            nonlocal seen
            seen += more
            count(seen, total)

        draws.done = done
        for batch in batches(draws.detector, samples, 1):
            label = labels[batch.index[0]]

            def settled(found: FloatArray, label: int = label) -> bool:
                ends = level.intervals(found, sorted({0.0, radii[-1]}), share)
                return all(_settled(ends, label, limit) for limit in limits or ())

            base.append(base_scores(draws.detector, batch.x))
            scores.append(draws.of(batch.x, n, None if limits is None else settled))
    return scores, np.concatenate(base)


def _settled(ends: Intervals, label: int, limit: float) -> bool:
    """Whether more draws change no verdict: right at the largest radius, or wrong at radius 0."""
    low, high = ends.lower[0], ends.upper[0]
    if label == 0:
        return bool(high[-1] < limit or low[0] >= limit)
    return bool(low[-1] >= limit or high[0] < limit)


def _images(
    samples: Sequence[Sample],
    scores: Sequence[FloatArray],
    level: Level,
    radii: Sequence[float],
    share: int,
) -> list[CertifiedImage]:
    found = []
    for sample, one in zip(samples, scores, strict=True):
        ends = level.intervals(one, radii, share)
        found.append(
            CertifiedImage(
                name=sample.name,
                defect=sample.defect,
                label=sample.label,
                score=float(median(one[None])[0]),
                draws=len(one),
                lower=[float(v) if np.isfinite(v) else None for v in ends.lower[0]],
                upper=[float(v) if np.isfinite(v) else None for v in ends.upper[0]],
            )
        )
    return found


def _point(made: Certification, place: int, labels: Sequence[int]) -> CertifiedPoint:
    ends = made.intervals()
    lower, upper = ends.lower[:, place], ends.upper[:, place]
    missing = np.where(np.array(labels) == 1, np.isinf(lower), np.isinf(upper))
    return CertifiedPoint(
        radius=made.radii[place],
        auroc=certified_auroc(lower, upper, labels),
        rates=[
            ErrorRates(threshold=limit, **certified_rates(lower, upper, labels, limit)._asdict())
            for limit in made.thresholds
        ],
        abstained=int(missing.sum()),
    )
