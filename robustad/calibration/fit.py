"""Giving a detector's score a meaning from labelled, held-out images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy.typing as npt

from robustad.calibration.platt import Platt
from robustad.errors import InputError
from robustad.verdict import Policy, binary_entropy

if TYPE_CHECKING:
    from robustad.detectors.base import Detector

    D = TypeVar("D", bound=Detector)


def fitted(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    threshold: float = 0.5,
    entropy_false_alarm: float | None = 0.05,
    defect_rate: float | None = None,
) -> tuple[Platt, Policy]:
    """Fit a calibrator and the policy that goes with it; see `calibrate`."""
    from robustad.metrics import entropy_threshold

    calibrator = Platt().fit(scores, labels)
    if defect_rate is not None:
        calibrator = calibrator.with_prior(defect_rate)
    limit = None
    if entropy_false_alarm is not None:
        entropy = binary_entropy(calibrator.predict_proba(scores))
        limit = entropy_threshold(entropy, entropy_false_alarm)
    return calibrator, Policy(threshold=threshold, entropy_threshold=limit)


def calibrate(
    detector: D,
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    threshold: float = 0.5,
    entropy_false_alarm: float | None = 0.05,
    defect_rate: float | None = None,
) -> D:
    """Fit Platt's curve to held-out scores and set the detector's calibrator and policy.

    Parameters
    ----------
    detector : Detector
        Changed in place.
    scores : array-like, (n,)
        Its image scores of held-out images.
    labels : array-like, (n,), 0 or 1
        Their labels; both classes are needed.
    threshold : float in (0, 1), default 0.5
        Probability from which a part is rejected.
    entropy_false_alarm : float in [0, 1) or None, default 0.05
        Share of these clean images that may be deferred for their entropy; sets the entropy flag.
        None never defers.
    defect_rate : float in (0, 1), optional
        Share of defective parts on the line, where it differs from that among `labels`: shifts
        the curve's prior.

    Returns
    -------
    Detector
        The same one.

    Raises
    ------
    InputError
        If only one class is present, the scores are constant or not finite, or an option is out
        of range.

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
        threshold=threshold,
        entropy_false_alarm=entropy_false_alarm,
        defect_rate=defect_rate,
    )
    # what rests on p-values stays
    detector.policy = replace(
        detector.policy or policy,
        threshold=policy.threshold,
        entropy_threshold=policy.entropy_threshold,
    )
    return detector
