"""A policy's verdicts in operations that ONNX knows: the table of `Policy`, without intervals."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad.detectors import Detector
from robustad.runtime._metadata import ANOMALOUS
from robustad.runtime._verdicts import VERDICTS, policy_numbers
from robustad.verdict import Verdict

CODES = {verdict: place for place, verdict in enumerate(VERDICTS)}


def verdict_inputs(detector: Detector) -> dict[str, npt.NDArray[Any]]:
    """Names and defaults of what verdicts need beside scores: anomalies' scores, thresholds.

    Returns
    -------
    dict of str to array
        `conformal_anomalous` (m,), float32, one NaN where there are none; then the policy's
        thresholds, scalars, float64, NaN where a part is not set.
    """
    anomalous = None if detector.conformal is None else detector.conformal.anomalous
    scores = np.array([np.nan], np.float32) if anomalous is None else anomalous
    return {ANOMALOUS: scores, **policy_numbers(detector.policy)}


def verdicts(
    score: Tensor,
    probability: Tensor,
    normal: Tensor,
    anomalous: Tensor,
    threshold: Tensor,
    entropy_at: Tensor,
    p_value_at: Tensor,
    p_value_defer: Tensor,
    anomaly_at: Tensor,
    suspicion_at: Tensor,
) -> Tensor:
    """Verdicts of images, as `Policy.decide` gives them.

    Parameters
    ----------
    score, probability : Tensor, (B,), float32
        Image scores and their probabilities, NaN where not known.
    normal, anomalous : Tensor, (n,) and (m,), float32
        Held-out scores; NaN where there are none.
    threshold, ..., suspicion_at : Tensor, (), float64
        The policy, in the order of its fields; NaN for a part that is not set.

    Returns
    -------
    Tensor, (B,), int64
        Place of the verdict in `Verdict`: accept 0, reject 1, defer 2, uncalibrated 3.
    """
    p = probability.double()  # in float64 throughout, as fractions are compared exactly
    p_value = rank_share(score, normal)
    low_p_value = rank_share(-score, -normal)
    anomaly_p = rank_share(-score, -anomalous)
    rules = (
        (~p.isnan() & ~threshold.isnan(), p >= threshold),
        (~p_value.isnan() & ~p_value_at.isnan(), p_value <= p_value_at),
        (~anomaly_p.isnan() & ~anomaly_at.isnan(), anomaly_p > anomaly_at),
    )
    in_force = rules[0][0] | rules[1][0] | rules[2][0]
    reject, accept = torch.zeros_like(in_force), torch.zeros_like(in_force)
    for force, says in rules:
        reject, accept = reject | (force & says), accept | (force & ~says)
    # A comparison with NaN is false: parts that are not set ask for nothing.
    defer = (
        (reject & accept)
        | (_entropy(p) > entropy_at)
        | (low_p_value <= suspicion_at)
        | ((p_value > p_value_at) & (p_value <= p_value_defer))
    )
    lacking = (
        (~entropy_at.isnan() & p.isnan())
        | (~p_value_at.isnan() & p_value.isnan())
        | (~anomaly_at.isnan() & anomaly_p.isnan())
        | (~suspicion_at.isnan() & low_p_value.isnan())
    )
    found = torch.where(reject, CODES[Verdict.REJECT], CODES[Verdict.ACCEPT])
    found = torch.where(defer, CODES[Verdict.DEFER], found)
    return torch.where(lacking | ~in_force, CODES[Verdict.UNCALIBRATED], found)


def rank_share(score: Tensor, held_out: Tensor) -> Tensor:
    """Conformal p-values (B,), float64: (1 + number of `held_out` of at least `score`) / (n + 1).

    Parameters
    ----------
    score : Tensor, (B,)
        Image scores.
    held_out : Tensor, (n,)
        In any order; NaN where there are none.

    Returns
    -------
    Tensor, (B,), float64
        NaN without held-out scores, and for a score that is NaN.
    """
    # Counting takes B n comparisons: nothing beside the network, and a plain operation everywhere.
    reached = (held_out >= score.unsqueeze(1)).double().sum(dim=1)
    p = (1.0 + reached) / (1.0 + torch.ones_like(held_out, dtype=torch.float64).sum())
    unknown = score.isnan() | held_out.isnan().any()
    return torch.where(unknown, torch.full_like(p, torch.nan), p)


def _entropy(p: Tensor) -> Tensor:
    """As `robustad.verdict.binary_entropy`."""
    terms = -p * p.log() - (1.0 - p) * torch.log1p(-p)
    return torch.where((p == 0.0) | (p == 1.0), torch.zeros_like(p), terms)
