"""The calibration inside an exported graph: from image score to probability and entropy.

Its numbers are initialisers that a caller may override. `calibration_slope` and
`calibration_intercept` are always there: where the slope is no NaN, the probability is
sigmoid(slope * score + intercept), whatever the file was exported with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.probability import CURVES, NEAREST, beta_features, sigmoid
from robustad.runtime._metadata import CALIBRATION

FloatArray = npt.NDArray[np.float32]
# Further from 0 a logit is certainty, and its entropy 0; infinity would make it NaN.
FAR = 1e4
BETA = ("calibration_a", "calibration_b", "calibration_c")
RANGE = ("calibration_low", "calibration_high")
ISOTONIC = ("calibration_knots", "calibration_for", "calibration_against")
PIXEL = ("pixel_slope", "pixel_intercept")


def calibration_inputs(detector: Detector) -> dict[str, FloatArray]:
    """Names and defaults of a detector's overridable initialisers, in the graph's order.

    Returns
    -------
    dict of str to array, float32
        Scalars; of an isotonic calibration three arrays (K,). NaN where nothing applies.

    Raises
    ------
    InputError
        If the calibrator's method cannot be exported, or float32 cannot hold its numbers.
    """
    calibrator = detector.calibrator
    state: dict[str, Any] = {"method": "raw"} if calibrator is None else calibrator.to_dict()
    method = state.get("method")
    if method not in CURVES:
        raise InputError(
            f"calibrator: expected one of {', '.join(sorted(CURVES))} or none to export, got "
            f"{method or calibrator!r}"
        )
    found: dict[str, Any] = dict(zip(CALIBRATION, _line(state), strict=True))
    if method == "beta":
        found |= dict(zip(BETA, (state["a"], state["b"], state["c"]), strict=True))
        if state["low"] is not None:
            found |= dict(zip(RANGE, (state["low"], state["high"]), strict=True))
    elif method == "isotonic":
        found |= dict(zip(ISOTONIC, _table(state), strict=True))
    return {name: _float32(name, value) for name, value in found.items()}


def pixel_inputs(detector: Detector) -> dict[str, FloatArray]:
    """Names and defaults of what makes a map of probabilities; empty without it."""
    pixel = detector.pixel_calibrator
    if pixel is None:
        return {}
    numbers = dict(zip(PIXEL, (pixel.slope, pixel.intercept), strict=True))
    return {name: _float32(name, value) for name, value in numbers.items()}


def steepness(detector: Detector) -> float:
    """Largest change of the probability for a change of the score: how far rounding may carry.

    For the raw score and without a calibrator 1 and 0.
    """
    calibrator = detector.calibrator
    if calibrator is None:
        return 0.0
    state: dict[str, Any] = calibrator.to_dict()
    method = state["method"]
    if method in ("platt", "temperature"):
        return abs(_line(state)[0]) / 4.0
    if method == "isotonic":
        # A shift of the log odds steepens by no more than this factor.
        rise = np.diff(state["values"]) / np.diff(state["knots"])
        return float(rise.max() * np.exp(abs(state["shift"])))
    if method == "beta":
        return _beta_steepness(state)
    return 1.0


class Calibrated(nn.Module):
    """From image scores to probability and entropy.

    Parameters
    ----------
    detector : Detector
        With the calibrator; which kind of curve the graph has is fixed by it, its numbers are not.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        calibrator = detector.calibrator
        self.method = None if calibrator is None else calibrator.method

    def forward(
        self, score: Tensor, slope: Tensor, intercept: Tensor, *own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Probability and entropy (B,) of image scores (B,).

        Parameters
        ----------
        score : Tensor, (B,), float32
            NaN gives NaN.
        slope, intercept : Tensor, ()
            In place of the file's own curve where the slope is no NaN.
        own : Tensor
            What else `calibration_inputs` names.
        """
        line = slope * score + intercept
        if self.method == "beta":
            line = torch.where(slope.isnan(), _beta(score, *own), line)
        probability, entropy = _of_logits(line)
        if self.method == "isotonic":
            odds = _isotonic(score, *own)
        elif self.method == "raw":
            p = _between(score, 0.0, 1.0)
            odds = p, 1.0 - p
        else:
            return probability, entropy
        p, q = odds
        known = slope.isnan()
        probability = torch.where(known, p, probability)
        spread = torch.special.xlogy(p, p) + torch.special.xlogy(q, q)
        return probability, torch.where(known, -spread, entropy)


def _of_logits(logits: Tensor) -> tuple[Tensor, Tensor]:
    near = _between(logits, -FAR, FAR)
    p, q = torch.sigmoid(near), torch.sigmoid(-near)
    # -log sigmoid(z) = softplus(-z): no cancellation near probability 1
    return p, p * F.softplus(-near) + q * F.softplus(near)


def _beta(score: Tensor, a: Tensor, b: Tensor, c: Tensor, *ends: Tensor) -> Tensor:
    if ends:
        low, high = ends
        width = high - low
        log_u = _between((score - low) / width, NEAREST, 1.0 - NEAREST).log()
        log_v = _between((high - score) / width, NEAREST, 1.0 - NEAREST).log()
    else:
        near = _between(score, -1e30, 1e30)  # 0 times infinity would be NaN
        log_u, log_v = -F.softplus(-near), -F.softplus(near)
    return a * log_u - b * log_v + c


def _isotonic(score: Tensor, knots: Tensor, pro: Tensor, contra: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate the weights for and against an anomaly; their shares are p and 1 - p."""
    passed = (score[:, None] >= knots[None]).sum(dim=1)
    upper = passed.clamp(min=1, max=knots.shape[0] - 1)
    left, right = knots[upper - 1], knots[upper]
    width = right - left
    share = torch.where(width > 0, (score - left) / width, torch.ones_like(score))
    share = _between(share, 0.0, 1.0)
    towards = pro[upper - 1] + (pro[upper] - pro[upper - 1]) * share
    away = contra[upper - 1] + (contra[upper] - contra[upper - 1]) * share
    total = towards + away
    return towards / total, away / total


def _between(values: Tensor, low: float, high: float) -> Tensor:
    """Clip; NaN stays NaN, which engines do not agree on for their own clipping."""
    raised = torch.where(values < low, torch.full_like(values, low), values)
    return torch.where(raised > high, torch.full_like(values, high), raised)


def _line(state: dict[str, Any]) -> tuple[float, float]:
    """Slope and intercept of a logistic curve; NaN for all others."""
    if state["method"] == "platt":
        return state["slope"], state["intercept"]
    if state["method"] == "temperature":
        return 1.0 / state["temperature"], state["shift"]
    return float("nan"), float("nan")


def _table(state: dict[str, Any]) -> tuple[npt.NDArray[np.float64], ...]:
    """Knots, and the weights for and against an anomaly there.

    A shift of the log odds by s multiplies p by sigmoid(s) and 1 - p by sigmoid(-s), up to a common
    factor; both stay straight between knots, and small ones lose no digits in float32.
    """
    knots, values = np.asarray(state["knots"]), np.asarray(state["values"])
    pro, contra = sigmoid(np.array([state["shift"], -state["shift"]]))
    # Knots that float32 cannot tell apart: the last one counts.
    distinct = np.append(np.diff(knots.astype(np.float32)) > 0, True)
    if distinct.sum() < 2:
        raise InputError("calibrator: float32 cannot tell the knots of the isotonic curve apart")
    return knots[distinct], (values * pro)[distinct], ((1.0 - values) * contra)[distinct]


def _beta_steepness(state: dict[str, Any]) -> float:
    low, high = state["low"], state["high"]
    if low is None:
        return float(max(state["a"], state["b"])) / 4.0
    at = low + (high - low) * np.linspace(NEAREST, 1.0 - NEAREST, 100_001)
    log_u, log_v = beta_features(at, low=low, high=high)
    p = sigmoid(state["a"] * log_u - state["b"] * log_v + state["c"])
    rise = state["a"] / (at - low) + state["b"] / (high - at)
    return float((p * (1.0 - p) * rise).max())


def _float32(name: str, value: Any) -> FloatArray:
    array = np.asarray(value, np.float64)
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float32)
    if np.isinf(rounded).any():
        raise InputError(f"calibrator: {name} {value!r} does not fit float32")
    return rounded
