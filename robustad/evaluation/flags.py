"""How well the attack flags tell attacked images from clean ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robustad.calibration import Calibrator
from robustad.conformal.scores import ConformalScores
from robustad.conformal.thresholds import allowed_errors
from robustad.evaluation.result import FlagResult
from robustad.metrics import auroc, flag_curve
from robustad.verdict import Policy, binary_entropy

FloatArray = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
SUSPICION = 0.05  # false alarms allowed of the flag where the policy sets none


def attack_flags(
    score: FloatArray,
    labels: Labels,
    *,
    calibrator: Calibrator | None,
    conformal: ConformalScores | None,
    policy: Policy,
    clean: Sequence[float] | None,
) -> dict[str, FlagResult]:
    """Judge every flag there is on one condition.

    Parameters
    ----------
    score : array, (n,)
        Image scores of the condition.
    labels : array, (n,), 0 or 1
        Of the images.
    calibrator : Calibrator or None
        For the flag "entropy": the predictive entropy is high.
    conformal : ConformalScores or None
        For the flag "too_normal": the low p-value is small, the score lower than normal images
        have it.
    policy : Policy
        Where the flags are raised; 5% of normal images for "too_normal" where it says nothing.
    clean : sequence of float or None
        Scores of the clean pass; None if this is the clean pass.

    Returns
    -------
    dict of str to FlagResult
        By the name of the flag.
    """
    reference = None if clean is None else np.asarray(clean)
    found = {}
    if calibrator is not None:
        limit = policy.entropy_threshold
        values = [
            None if one is None else binary_entropy(calibrator.predict_proba(one))
            for one in (score, reference)
        ]
        raised = None if limit is None or values[0] is None else values[0] > limit
        found["entropy"] = _judged(values[0], values[1], raised, labels)
    if conformal is not None:
        values = [None if one is None else 1.0 - conformal.low_p_values(one)
                  for one in (score, reference)]  # fmt: skip
        at = policy.suspicion_threshold
        if at is None and (allowed := allowed_errors(len(conformal), SUSPICION)) >= 0:
            at = (allowed + 1) / (len(conformal) + 1)
        raised = None if at is None else conformal.low_p_values(score) <= at
        found["too_normal"] = _judged(values[0], values[1], raised, labels)
    return found


def _judged(
    values: FloatArray | None,
    clean: FloatArray | None,
    raised: npt.NDArray[np.bool_] | None,
    labels: Labels,
) -> FlagResult:
    assert values is not None
    rates: list[float | None] = [None, None, None]
    if raised is not None:
        parts = (raised, raised[labels == 0], raised[labels == 1])
        rates = [float(one.mean()) for one in parts]
    result = FlagResult(rate=rates[0], rate_normal=rates[1], rate_anomalous=rates[2])
    if clean is None:
        return result

    def against_clean(some: FloatArray) -> float:
        return auroc(np.concatenate([clean, some]), np.repeat([0, 1], [clean.size, some.size]))

    curve = flag_curve(clean, values)
    result.false_alarm, result.detection = curve.false_alarm.tolist(), curve.detection.tolist()
    result.auroc = against_clean(values)
    result.auroc_normal = against_clean(values[labels == 0])
    result.auroc_anomalous = against_clean(values[labels == 1])
    return result
