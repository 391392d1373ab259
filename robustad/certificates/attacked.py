"""What l2 attacks make of a smoothed detector, beside what is certified."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import robustad
from robustad.attacks import attack, preset
from robustad.certificates.draws import FORMAT, Draws
from robustad.certificates.orders import FloatArray, Level, median
from robustad.certificates.result import AttackedPoint, Certification, ErrorRates
from robustad.data import Sample, sample_hash
from robustad.errors import InputError
from robustad.evaluation.batches import Batch, batches
from robustad.evaluation.hashes import seeds_of
from robustad.evaluation.store import unit_key
from robustad.metrics import auroc, rates_at
from robustad.progress import counter

# Images attacked at once: each is already a batch of noisy copies.
IMAGES = 4


def run_attacks(
    made: Certification,
    draws: Draws,
    samples: Sequence[Sample],
    scores: Sequence[FloatArray],
    level: Level,
    share: int,
    *,
    attacks: Sequence[str],
    attack_draws: int,
    progress: bool,
) -> None:
    """Attack every image at every radius and fill in the points of a certification.

    Parameters
    ----------
    made : Certification
        Whose `points` get their `attacked`.
    draws : Draws
        The detector, and where finished work is kept.
    samples : sequence of Sample
        The images.
    scores : sequence of array
        Their draws, which the bounds are made of.
    level : Level
        How sure the bounds are.
    share : int
        Looks that an early stop may have taken, see `Level.intervals`.
    attacks, attack_draws, progress
        As `robustad.certificates.certify`.

    Notes
    -----
    Attacks look for the worst image by the median of `attack_draws` copies. The image they find is
    scored with n new copies, whose noise differs as its pixels do, so that luck with few copies is
    not taken for an effect. Radii go upwards: what a small ball holds, a larger one holds too.
    """
    labels = np.array([one.label for one in made.images])
    worst = np.array([one.score for one in made.images])
    chosen = ["clean"] * len(samples)
    hashes = [sample_hash(sample) for sample in samples]
    searched = copy.copy(draws.detector)
    searched.draws = attack_draws
    steps = sum(radius > 0 for radius in made.radii) * len(attacks)
    seen, total = 0, steps * len(samples)
    with counter("attack", enabled=progress) as count:
        for point in made.points:
            for name in attacks if point.radius > 0 else ():
                for batch in batches(searched, samples, IMAGES):
                    found = _unit(made, draws, searched, batch, hashes, name, point.radius)
                    for index, score in zip(batch.index, found, strict=True):
                        if (score - worst[index]) * (1 - 2 * labels[index]) > 0:
                            worst[index], chosen[index] = score, name
                    seen += len(batch.index)
                    count(seen, total)
            # What is compared is the median of n copies, so the bounds have to allow for that.
            allowed = replace(level, test_draws=made.n)
            ends = [allowed.intervals(one, [point.radius], share) for one in scores]
            point.attacked = AttackedPoint(
                auroc=auroc(worst, labels),
                rates=[
                    ErrorRates(threshold=limit, **rates_at(worst, labels, limit)._asdict())
                    for limit in made.thresholds
                ],
                scores=worst.tolist(),
                chosen=[*chosen],
                violations=[
                    image.name
                    for image, score, end in zip(made.images, worst, ends, strict=True)
                    if not end.lower[0, 0] <= score <= end.upper[0, 0]
                ],
            )


def _unit(
    made: Certification,
    draws: Draws,
    searched: Any,
    batch: Batch,
    hashes: Sequence[str],
    name: str,
    radius: float,
) -> FloatArray:
    """Scores (B,) of the images that one attack finds, with n new copies each."""
    parts: dict[str, Any] = {
        "format": FORMAT,
        "robustad": robustad.__version__,
        "unit": "smoothed attack",
        "detector": draws.detector_hash,
        "images": [hashes[i] for i in batch.index],
        "device": batch.x.device.type,
        "attack": name,
        "radius": radius,
        "draws": searched.draws,
        "n": made.n,
        "threshold": made.thresholds[0],
        "seed": made.seed,
    }
    key = unit_key(parts)
    kept = draws.store.read(key) if draws.store is not None and draws.reuse else None
    if kept is not None and kept[0].get("scores", np.empty(0)).shape == (len(batch.index),):
        return np.asarray(kept[0]["scores"], np.float64)
    if "probe" in preset(name).needs or "surrogate" in preset(name).needs:
        raise InputError(f"attacks: {name!r} needs what a certification has not")
    result = attack(
        searched,
        batch.x,
        label=batch.label,
        mask=batch.mask,
        attack=name,
        eps=radius,
        seeds=seeds_of([hashes[i] for i in batch.index], made.seed),
        threshold=made.thresholds[0],
    )
    scores = draws.detector.noise.scores(draws.detector.base, result.x_worst, made.n)
    found = median(scores.cpu().double().numpy())
    if draws.store is not None:
        draws.store.write(key, {"scores": found}, {"made_from": parts})
    return found
