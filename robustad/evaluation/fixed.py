"""What is fixed on held-out images before anything is evaluated: calibrator, threshold, probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad.attacks import LinearProbe
from robustad.attacks.probe import FeatureScorer
from robustad.calibration import Calibrator, RawScore
from robustad.calibration.fit import fitted
from robustad.conformal.scores import ConformalScores
from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.evaluation.batches import Batch
from robustad.evaluation.hashes import probe_hash
from robustad.evaluation.result import CalibrationReport, Condition, ConformalReport, Measures
from robustad.metrics import brier, ece_positive, ece_top_label, nll
from robustad.verdict import Policy

FloatArray = npt.NDArray[np.float64]
TAU_QUANTILE = 0.95  # of held-out normal patches: where a distance starts to mean an anomaly


@dataclass(frozen=True, kw_only=True, eq=False)
class Fixed:
    """What attacks and figures take as given.

    Attributes
    ----------
    calibrator : Calibrator or None
        Fitted on held-out images, or the detector's own.
    policy : Policy
        That goes with it.
    probe : LinearProbe or None
        For `fgsm_probe`.
    threshold : float or None
        Image score from which the verdict is anomalous.
    scale : (float, float) or None
        0.95 quantile and standard deviation of held-out normal patches, which make logits of
        distances; None without held-out images, and where scores are logits.
    names : list of str
        The held-out images.
    conformal : ConformalScores or None
        Scores of the held-out normal images, or the detector's own.
    """

    calibrator: Calibrator | None
    policy: Policy
    probe: LinearProbe | None = None
    threshold: float | None = None
    scale: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    conformal: ConformalScores | None = None

    @property
    def typical(self) -> float | None:
        """Score that normal images have: the median of the held-out ones."""
        return None if self.conformal is None else float(np.median(self.conformal.normal))

    def parts(self) -> dict[str, Any]:
        """What of this can change an adversarial image, for JSON."""
        return {
            "threshold": self.threshold,
            "scale": self.scale,
            "probe": probe_hash(self.probe),
            "calibrator": None if self.calibrator is None else self.calibrator.to_dict(),
        }


def own(detector: Detector) -> Fixed:
    """What a detector brings along."""
    return Fixed(
        calibrator=detector.calibrator,
        policy=detector.policy,
        threshold=verdict_threshold(detector.calibrator, detector.policy, detector.conformal),
        conformal=detector.conformal,
    )


@torch.no_grad()
def learned(
    detector: Detector, held_out: Sequence[Batch], names: Sequence[str], *, probe: bool
) -> Fixed:
    """Fit everything on held-out batches; see `robustad.evaluate`.

    Raises
    ------
    InputError
        If a class is missing, or the probe is wanted and the detector shows no features.
    """
    patches = [detector.patch_scores(batch.x) for batch in held_out]
    scores = torch.cat([detector.aggregate(part) for part in patches])
    labels = torch.cat([batch.label for batch in held_out])
    calibrator, policy = fitted(scores.cpu().numpy(), labels.cpu().numpy())
    return Fixed(
        calibrator=calibrator,
        policy=policy,
        probe=_probe(detector, held_out) if probe else None,
        threshold=score_threshold(calibrator, policy),
        scale=None
        if getattr(detector, "scores_are_logits", False)
        else _scale(
            [part[batch.label == 0] for part, batch in zip(patches, held_out, strict=True)]
        ),
        names=tuple(names),
        conformal=_conformal(scores[labels == 0].cpu().numpy()),
    )


def _conformal(normal: npt.NDArray[np.float32]) -> ConformalScores | None:
    """Held-out scores; None of scores that tell no image from another."""
    return ConformalScores(normal) if len(set(normal.tolist())) > 1 else None


def conformal_report(fixed: Fixed) -> ConformalReport | None:
    """What p-values rest on; None without held-out scores."""
    if fixed.conformal is None:
        return None
    return ConformalReport(
        scores=fixed.conformal.to_dict(),
        names=[*fixed.names],
        guarantee=fixed.conformal.guarantee,
    )


def score_threshold(calibrator: Calibrator | None, policy: Policy) -> float | None:
    """Image score at which the verdict changes; None if no score or the wrong side of one does."""
    if calibrator is None or getattr(calibrator, "inverted", False):
        return None
    value = float(getattr(calibrator, "score_at", lambda p: p)(policy.threshold))
    return value if np.isfinite(value) else None


def verdict_threshold(
    calibrator: Calibrator | None, policy: Policy, conformal: ConformalScores | None
) -> float | None:
    """Image score at which a rule's verdict changes: the probability's, else the p-value's."""
    found = score_threshold(calibrator, policy)
    if found is not None or conformal is None or policy.p_value_threshold is None:
        return found
    value = conformal.score_at(policy.p_value_threshold)
    return value if np.isfinite(value) else None


def _scale(normal: Sequence[Tensor]) -> tuple[float, float] | None:
    values = np.concatenate([part.flatten().double().cpu().numpy() for part in normal])
    spread = float(values.std()) if values.size else 0.0
    return (float(np.quantile(values, TAU_QUANTILE)), spread) if spread > 0.0 else None


@torch.enable_grad()
def _probe(detector: Detector, held_out: Sequence[Batch]) -> LinearProbe:
    if not isinstance(detector, FeatureScorer):
        raise InputError(
            f"detector: attack 'fgsm_probe' needs patch_features, which "
            f"{type(detector).__name__} does not have"
        )
    known = [
        (batch, [i for i, pixels in enumerate(batch.pixels) if pixels is not None])
        for batch in held_out
    ]
    return LinearProbe.fit(
        detector, ((batch.x[keep], batch.mask[keep]) for batch, keep in known if keep)
    )


def calibration_report(
    fixed: Fixed, clean: Condition, labels: npt.NDArray[np.int64]
) -> CalibrationReport | None:
    """What calibration changed on the clean evaluation images; None without a calibrator."""
    calibrator = fixed.calibrator
    if calibrator is None:
        return None

    def measures(probability: FloatArray) -> Measures:
        return Measures(
            ece_positive=ece_positive(probability, labels),
            ece_top_label=ece_top_label(probability, labels),
            nll=nll(probability, labels),
            brier=brier(probability, labels),
        )

    score, threshold = np.asarray(clean.score), fixed.policy.threshold
    changes = float(getattr(calibrator, "score_at", lambda p: p)(threshold))
    return CalibrationReport(
        calibrator=calibrator.to_dict(),
        names=[*fixed.names],
        threshold=threshold,
        score_threshold=changes if np.isfinite(changes) else None,
        entropy_threshold=fixed.policy.entropy_threshold,
        before=measures(RawScore().predict_proba(score)),
        after=measures(calibrator.predict_proba(score)),
    )
