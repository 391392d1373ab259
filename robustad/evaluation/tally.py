"""From scores to conditions: what each pass gathered, and the figures made of it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.evaluation.batches import Batch
from robustad.evaluation.fixed import Fixed
from robustad.evaluation.flags import attack_flags
from robustad.evaluation.result import CLEAN, Condition, Metrics
from robustad.evaluation.store import Outcome
from robustad.metrics import (
    PixelMetrics,
    auroc,
    auroc_interval,
    average_precision,
    f1_max,
    flag_auroc,
    gmean_max,
    rates_at,
)
from robustad.verdict import binary_entropy

Labels = npt.NDArray[np.int64]
CURVE_BINS = 1 << 14  # of the pixel histograms away from the first radius: a curve needs no more


@dataclass(kw_only=True, eq=False)
class Pass:
    """What one condition gathers while the batches go by, image after image."""

    name: str
    eps: float | None = None
    pixel: PixelMetrics | None = None
    order: PixelMetrics | None = None  # of a second choice of versions; the worse one counts
    score: list[float] = field(default_factory=list)
    worst_score: list[float] = field(default_factory=list)
    forward: list[int] = field(default_factory=list)
    backward: list[int] = field(default_factory=list)
    flags: Counter[str] = field(default_factory=Counter)
    chosen: list[str] | None = None
    distance: float = 0.0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Take in one batch."""
        self.score += outcome.score.tolist()
        self.worst_score += outcome.worst_score.tolist()
        self.forward += outcome.forward.tolist()
        self.backward += outcome.backward.tolist()
        self.flags.update(dict.fromkeys(outcome.flags, len(outcome.score)))
        self.distance = max(self.distance, float(outcome.distance.max()))
        self.seconds += outcome.seconds

    @torch.no_grad()
    def add_pixels(
        self,
        detector: Detector,
        batch: Batch,
        patch_scores: npt.NDArray[Any],
        *,
        order: bool = False,
    ) -> None:
        """Count the pixels of one batch, of the images that have ground truth."""
        counted = self.order if order else self.pixel
        if counted is None:
            return
        size = (batch.x.shape[2], batch.x.shape[3])
        maps = detector.anomaly_map(torch.from_numpy(patch_scores).to(batch.x.device), size)
        for anomaly_map, truth in zip(maps.cpu().numpy(), batch.pixels, strict=True):
            if truth is not None:
                counted.update(anomaly_map, truth)


def condition(one: Pass, labels: Labels, fixed: Fixed, clean: list[float]) -> Condition:
    """Figures of one pass.

    Parameters
    ----------
    one : Pass
        Complete: one score an image.
    labels : array, (n,), 0 or 1
        Of the images.
    fixed : Fixed
        Calibrator and policy.
    clean : list of float
        Scores of the clean pass, which the entropy flag is judged against.
    """
    score = np.asarray(one.score)
    low, high = auroc_interval(score, labels)
    metrics = Metrics(
        auroc=auroc(score, labels),
        ap=average_precision(score, labels),
        f1_max=f1_max(score, labels).value,
        gmean_max=gmean_max(score, labels).value,
        auroc_interval=(low, high),
    )
    # masks may lose their few pixels when resized, which leaves nothing to measure
    with suppress(InputError):
        if one.pixel is not None:
            found = one.pixel.compute()
            if one.order is not None:
                found = min(found, one.order.compute(), key=lambda measured: measured.auroc)
            metrics.pixel_auroc, metrics.pixel_ap = found.auroc, found.ap
            metrics.aupro = found.aupro
    attacked = one.name != CLEAN
    made = Condition(
        name=one.name,
        eps=one.eps,
        score=one.score,
        worst_score=one.worst_score if attacked else None,
        chosen=one.chosen,
        metrics=metrics,
        raw_entropy_mean=float(binary_entropy(score.clip(0.0, 1.0)).mean()),
        distance=one.distance,
        forward=one.forward if attacked else None,
        backward=one.backward if attacked else None,
        flags=dict(sorted(one.flags.items())),
        seconds=one.seconds,
    )
    calibrator, policy = fixed.calibrator, fixed.policy
    if fixed.conformal is not None:
        made.p_value = fixed.conformal.p_values(score).tolist()
    made.attack_flags = attack_flags(
        score,
        labels,
        calibrator=calibrator,
        conformal=fixed.conformal,
        policy=policy,
        clean=clean if attacked else None,
    )
    if calibrator is not None:
        probability = calibrator.predict_proba(score)
        entropy = binary_entropy(probability)
        metrics.fpr, metrics.fnr = rates_at(probability, labels, policy.threshold)
        made.probability, made.entropy = probability.tolist(), entropy.tolist()
        made.entropy_mean = float(entropy.mean())
        if policy.entropy_threshold is not None:
            made.flag_rate = float((entropy > policy.entropy_threshold).mean())
        if attacked:
            reference = binary_entropy(calibrator.predict_proba(np.asarray(clean)))
            made.flag_auroc = flag_auroc(reference, entropy)
    return made
