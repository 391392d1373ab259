"""Giving a detector's score a meaning from labelled, held-out images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy.typing as npt

from robustad.calibration.bootstrap import with_bootstrap_band
from robustad.calibration.choose import choose
from robustad.calibration.registry import FITTED, create
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.errors import InputError
from robustad.verdict import Policy, binary_entropy

if TYPE_CHECKING:
    from robustad.detectors.base import Detector

    D = TypeVar("D", bound=Detector)


def fitted(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    *,
    method: str | ScoreCalibrator[Any] = "platt",
    threshold: float = 0.5,
    entropy_false_alarm: float | None = 0.05,
    defect_rate: float | None = None,
    bootstrap: int = 0,
    detector: Detector | None = None,
) -> tuple[ScoreCalibrator[Any], Policy]:
    """Fit a calibrator and the policy that goes with it; see `calibrate`."""
    from robustad.metrics import entropy_threshold

    calibrator = _unfitted(method, scores, labels, sample_weight, detector)
    calibrator.fit(scores, labels, sample_weight)
    if defect_rate is not None:
        calibrator = calibrator.with_prior(defect_rate)
    if bootstrap:
        calibrator = with_bootstrap_band(calibrator, scores, labels, sample_weight, draws=bootstrap)
    limit = None
    if entropy_false_alarm is not None:
        entropy = binary_entropy(calibrator.predict_proba(scores))
        limit = entropy_threshold(entropy, entropy_false_alarm)
    return calibrator, Policy(threshold=threshold, entropy_threshold=limit)


def calibrate(
    detector: D,
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    *,
    method: str | ScoreCalibrator[Any] = "platt",
    threshold: float = 0.5,
    entropy_false_alarm: float | None = 0.05,
    defect_rate: float | None = None,
    bootstrap: int = 0,
) -> D:
    """Fit a curve to held-out scores and set the detector's calibrator and policy.

    Parameters
    ----------
    detector : Detector
        Changed in place.
    scores : array-like, (n,)
        Its image scores of held-out images.
    labels : array-like, (n,), 0 or 1
        Their labels; both classes are needed.
    sample_weight : array-like, (n,), optional
        How often each counts, >= 0; the entropy flag counts each image once.
    method : {"platt", "temperature", "beta", "isotonic", "auto"} or ScoreCalibrator
        Form of the curve, default "platt"; see `docs/calibration.md`. "auto" takes the best by
        cross-validated likelihood, see `robustad.calibration.choose`. Of a calibrator given, a new
        one of the same method and options is fitted.
    threshold : float in (0, 1), default 0.5
        Probability from which a part is rejected.
    entropy_false_alarm : float in [0, 1) or None, default 0.05
        Share of these clean images that may be deferred for their entropy; sets the entropy flag.
        None never defers.
    defect_rate : float in (0, 1), optional
        Share of defective parts on the line, where it differs from that among `labels`: shifts
        the curve's prior.
    bootstrap : int, default 0
        Resampled calibration sets for an interval of the probability, 0 for none; 200 are usual.

    Returns
    -------
    Detector
        The same one.

    Raises
    ------
    InputError
        If only one class is present, the scores are constant or not finite, they do not suit the
        method, or an option is out of range.

    Notes
    -----
    Study, section 3.3, with Platt's smoothed targets and no penalty.
    """
    if entropy_false_alarm is not None and not 0.0 <= entropy_false_alarm < 1.0:
        raise InputError(
            f"entropy_false_alarm: expected a share in [0, 1), got {entropy_false_alarm}"
        )
    detector.calibrator, policy = fitted(
        scores,
        labels,
        sample_weight,
        method=method,
        threshold=threshold,
        entropy_false_alarm=entropy_false_alarm,
        defect_rate=defect_rate,
        bootstrap=bootstrap,
        detector=detector,
    )
    # what rests on p-values stays
    detector.policy = replace(
        detector.policy or policy,
        threshold=policy.threshold,
        entropy_threshold=policy.entropy_threshold,
    )
    return detector


def _unfitted(
    method: str | ScoreCalibrator[Any],
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    detector: Detector | None,
) -> ScoreCalibrator[Any]:
    if isinstance(method, ScoreCalibrator):
        return method.unfitted()
    if method == "auto":
        return choose(scores, labels, sample_weight, detector=detector).calibrator
    if method not in FITTED:
        raise InputError(f"method: expected one of {', '.join(FITTED)}, auto, got {method!r}")
    return create(method, detector=detector)
