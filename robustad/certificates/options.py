"""What a certification is asked to do, checked before anything is scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustad.attacks import preset
from robustad.certificates.noise import Denoiser
from robustad.certificates.smoothed import SmoothedDetector
from robustad.data import Sample
from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.evaluation.fixed import score_threshold
from robustad.evaluation.target import Target, load_target

DEFAULT_SIGMA = 0.25
BATCH = 64


def smoothed_target(
    model: Any,
    sigma: float | None,
    denoiser: Denoiser | None,
    seed: int | None,
    batch_size: int | None,
    image_size: int,
) -> tuple[SmoothedDetector, str]:
    """The smoothed detector and a name for it."""
    detector = load_target(model, image_size=image_size)
    if detector.training:
        raise InputError("model: is in training mode; call eval() before certifying it")
    name = detector.method
    if isinstance(detector, Target):
        name = detector.config().name
    elif isinstance(model, str | Path):
        name = Path(model).name
    if not isinstance(detector, SmoothedDetector):
        made = SmoothedDetector(
            detector,
            sigma=DEFAULT_SIGMA if sigma is None else sigma,
            seed=seed or 0,
            batch_size=BATCH if batch_size is None else batch_size,
            denoiser=denoiser,
        )
        return made, name
    # A copy, as some options may be others; its noise is what its users know it by.
    for option, given, own in (("sigma", sigma, detector.sigma), ("seed", seed, detector.seed)):
        if given is not None and given != own:
            raise InputError(f"{option}: the smoothed detector has its own, {own}, got {given}")
    if denoiser is not None and detector.denoiser is not None:
        raise InputError("denoiser: the smoothed detector has its own, got another one")
    made = SmoothedDetector(
        detector.base,
        sigma=detector.sigma,
        draws=detector.draws,
        seed=detector.seed,
        batch_size=detector.batch_size if batch_size is None else batch_size,
        denoiser=denoiser or detector.denoiser,
    )
    made.calibrator, made.policy = detector.calibrator, detector.policy
    made.conformal, made.pixel_threshold = detector.conformal, detector.pixel_threshold
    return made, name


def checked_labels(
    samples: Sequence[Sample], attacks: Sequence[str], attack_draws: int
) -> list[int]:
    """Labels of the images; raise InputError unless both are there and all attacks are l2 ones."""
    labels = [sample.label for sample in samples]
    if set(labels) != {0, 1}:
        raise InputError(
            "samples: expected both normal and anomalous images, got "
            f"{labels.count(0)} normal and {labels.count(1)} anomalous"
        )
    for name in attacks:
        if preset(name).norm != "l2":
            raise InputError(
                f"attacks: expected l2 attacks, {name!r} is one in {preset(name).norm}"
            )
    if attack_draws < 1:
        raise InputError(f"attack_draws: expected >= 1, got {attack_draws}")
    return labels


def given_thresholds(smoothed: Detector, thresholds: Sequence[float] | None) -> list[float] | None:
    """Thresholds that are known before anything is scored."""
    if thresholds is None:
        own = score_threshold(smoothed.calibrator, smoothed.policy)
        return None if own is None else [own]
    if not len(thresholds):
        raise InputError("thresholds: expected at least one, got none")
    for one in thresholds:
        if not math.isfinite(one):
            raise InputError(f"thresholds: expected finite scores, got {one}")
    return [float(one) for one in thresholds]
