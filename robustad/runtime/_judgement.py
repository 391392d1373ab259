"""Outputs that follow from the score and the map, computed here in place of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustad.conformal.scores import evidence
from robustad.probability import linear, probability_of
from robustad.runtime import _verdicts
from robustad.verdict import Policy, binary_entropy

if TYPE_CHECKING:
    from robustad.conformal.scores import ConformalScores

FloatArray = npt.NDArray[np.float32]
# Outputs that a calibration of another kind than the graph's changes.
FROM_PROBABILITY = ("probability", "entropy", _verdicts.OUTPUT)
# What each output follows from.
SOURCES = {
    **dict.fromkeys((*FROM_PROBABILITY, "p_value"), "score"),
    "probability_map": "anomaly_map",
}


def judged(
    names: Sequence[str],
    found: Mapping[str, npt.NDArray[Any]],
    *,
    calibration: Mapping[str, Any] | None,
    pixels: Mapping[str, Any] | None,
    conformal: ConformalScores | None,
    policy: Policy,
) -> dict[str, npt.NDArray[Any]]:
    """Compute outputs as the graph would, in float64.

    Parameters
    ----------
    names : sequence of str
        Some of `SOURCES`.
    found : mapping of str to array
        What they follow from.
    calibration : mapping, optional
        A calibrator's state; without one probability and entropy are NaN.
    pixels : mapping, optional
        The same of the map, for `probability_map`.
    conformal : ConformalScores, optional
        Held-out scores; without them p-values are NaN.
    policy : Policy
        What verdicts follow.

    Returns
    -------
    dict of array
        By name: `probability`, `entropy`, `p_value` (B,) and `probability_map` (B, H, W),
        float32, and `verdict` (B,), int64.
    """
    made: dict[str, npt.NDArray[Any]] = {}
    if "probability_map" in names and pixels is not None:
        made["probability_map"] = pixel_probability(pixels, found["anomaly_map"])
    if not set(names) - {"probability_map"}:
        return made
    score = found["score"]
    exact = np.full(score.shape, np.nan)
    if calibration is not None:
        exact = probability_of(calibration, score)
    made["probability"] = exact.astype(np.float32)
    made["entropy"] = binary_entropy(exact).astype(np.float32)
    # of the rounded probability, as whoever reads it would judge
    known = evidence(score, made["probability"].astype(np.float64), conformal)
    made["p_value"] = known.p_value.astype(np.float32)
    made[_verdicts.OUTPUT] = _verdicts.codes_of(policy.decide(known))
    return {name: made[name] for name in names}


def pixel_probability(state: Mapping[str, Any], anomaly_map: FloatArray) -> FloatArray:
    """Probability (..., H, W) of each pixel of a map, by the state of a pixel calibrator."""
    values = np.asarray(anomaly_map, np.float64)
    made = linear(values, slope=state["slope"], intercept=state["intercept"])
    return made.astype(np.float32)
