"""From raw score to probability: the formulas that calibrators, runtime and export share.

Needs numpy alone, so that an exported detector can be given another calibration on a line PC.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.errors import StateError

FloatArray = npt.NDArray[np.float64]
# Beta calibration takes logarithms of both distances to the ends of the score range; nearer than
# this share of the range counts as this near.
NEAREST = 1e-6


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-logits)).

    Examples
    --------
    >>> sigmoid(np.array([-800.0, 0.0, np.inf])).tolist()
    [0.0, 0.5, 1.0]
    """
    small = np.exp(-np.abs(logits))  # never overflows, and keeps tiny probabilities exact
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def logit(p: float) -> float:
    """Log odds of p in (0, 1)."""
    return float(np.log(p) - np.log1p(-p))


def shifted(probability: FloatArray, shift: float) -> FloatArray:
    """Probabilities with `shift` added to their log odds; 0 and 1 stay.

    Examples
    --------
    >>> shifted(np.array([0.0, 0.5, 1.0]), np.log(1 / 9)).round(3).tolist()
    [0.0, 0.1, 1.0]
    """
    if shift == 0.0:
        return probability
    with np.errstate(divide="ignore"):
        return sigmoid(np.log(probability) - np.log1p(-probability) + shift)


def linear(scores: FloatArray, *, slope: float, intercept: float) -> FloatArray:
    """Platt's curve: sigmoid(slope * score + intercept)."""
    with np.errstate(over="ignore"):  # to infinity, which is probability 0 or 1
        return sigmoid(slope * scores + intercept)


def temperature(scores: FloatArray, *, temperature: float, shift: float) -> FloatArray:
    """sigmoid(score / temperature + shift)."""
    with np.errstate(over="ignore"):
        return sigmoid(scores / temperature + shift)


def beta(
    scores: FloatArray, *, a: float, b: float, c: float, low: float | None, high: float | None
) -> FloatArray:
    """sigmoid(a ln u - b ln(1 - u) + c), u the score's place in its range; see `Beta`."""
    log_u, log_v = beta_features(scores, low=low, high=high)
    with np.errstate(over="ignore"):
        return sigmoid(a * log_u - b * log_v + c)


def beta_features(
    scores: FloatArray, *, low: float | None, high: float | None
) -> tuple[FloatArray, FloatArray]:
    """Logarithms ln u and ln(1 - u) of scores in [low, high], or of logits where both are None.

    The second is computed from the distance to the upper end, without cancellation.
    """
    if low is None or high is None:
        return -np.logaddexp(0.0, -scores), -np.logaddexp(0.0, scores)
    width = high - low
    above, below = (scores - low) / width, (high - scores) / width
    return (
        np.log(np.clip(above, NEAREST, 1.0 - NEAREST)),
        np.log(np.clip(below, NEAREST, 1.0 - NEAREST)),
    )


def isotonic(
    scores: FloatArray, *, knots: npt.ArrayLike, values: npt.ArrayLike, shift: float
) -> FloatArray:
    """Straight lines between (knot, value), level outside, then `shifted`."""
    # interpolation may pass its ends by a rounding error
    between = np.interp(scores, np.asarray(knots), np.asarray(values)).clip(0.0, 1.0)
    return shifted(between, shift)


def raw(scores: FloatArray) -> FloatArray:
    """The score itself, clipped to [0, 1]."""
    return scores.clip(0.0, 1.0)


# Each method's formula and the names of its parameters in a saved state.
CURVES: dict[str, tuple[Callable[..., FloatArray], tuple[str, ...]]] = {
    "platt": (linear, ("slope", "intercept")),
    "temperature": (temperature, ("temperature", "shift")),
    "beta": (beta, ("a", "b", "c", "low", "high")),
    "isotonic": (isotonic, ("knots", "values", "shift")),
    "raw": (raw, ()),
}


def probability_of(state: Mapping[str, Any], scores: npt.ArrayLike) -> FloatArray:
    """Probability of an anomaly by a saved calibrator, without building it.

    Parameters
    ----------
    state : mapping
        As a calibrator's `to_dict` gives it; see `check_state`.
    scores : array, (n,)
        Raw scores; NaN stays NaN.

    Returns
    -------
    array, (n,), float64 in [0, 1]
        As the calibrator's `predict_proba`.

    Examples
    --------
    >>> state = {"method": "platt", "slope": 10.0, "intercept": -2.0}
    >>> probability_of(state, [0.2, float("nan")]).tolist()
    [0.5, nan]
    """
    curve, names = CURVES[state["method"]]
    return curve(np.asarray(scores, np.float64), **{name: state[name] for name in names})


def interval_of(
    state: Mapping[str, Any], scores: npt.ArrayLike
) -> tuple[FloatArray, FloatArray] | None:
    """Interval of the probability by a saved calibrator's band; None if it has none.

    Parameters
    ----------
    state : mapping
        As a calibrator's `to_dict` gives it.
    scores : array, (n,)
        Raw scores; NaN stays NaN.

    Returns
    -------
    (low, high), each array (n,), float64 in [0, 1], or None
        Around `probability_of`: beyond the scores tabulated, wide enough to hold it.
    """
    band = state.get("band")
    if band is None:
        return None
    values, p = np.asarray(scores, np.float64), probability_of(state, scores)
    low, high = (np.interp(values, band["scores"], band[end]) for end in ("low", "high"))
    return np.minimum(low, p), np.maximum(high, p)


def check_state(state: Mapping[str, Any], where: str = "calibration") -> dict[str, Any]:
    """Check by hand what `probability_of` relies on: a line PC has no pydantic.

    Parameters
    ----------
    state : mapping
        With `method` and that method's parameters; other keys are kept.
    where : str
        For messages.

    Returns
    -------
    dict
        A copy.

    Raises
    ------
    StateError
        If the method is unknown, a parameter is missing or no finite number, or the numbers do
        not make a curve: a temperature or width that is not positive, knots that do not rise.
    """
    method = state.get("method") if isinstance(state, Mapping) else None
    if not isinstance(method, str) or method not in CURVES:
        raise StateError(
            f"{where}: expected a method of {', '.join(sorted(CURVES))}, got {method!r}"
        )
    found: dict[str, Any] = dict(state)
    for name in CURVES[method][1]:
        if name not in found:
            raise StateError(f"{where} ({method}): {name} is missing")
        value = found[name]
        if name in ("low", "high") and value is None:
            continue
        try:
            numbers = np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise StateError(f"{where} ({method}): {name}: expected numbers: {error}") from error
        if numbers.ndim != (name in ("knots", "values")) or not np.isfinite(numbers).all():
            raise StateError(
                f"{where} ({method}): {name}: expected "
                f"{'finite numbers' if name in ('knots', 'values') else 'a finite number'}, "
                f"got {value!r}"
            )
    _check_curve(method, found, where)
    return found


def _check_curve(method: str, state: Mapping[str, Any], where: str) -> None:
    if method == "temperature" and not state["temperature"] > 0:
        wrong = f"temperature: expected a number > 0, got {state['temperature']}"
    elif method == "beta" and (state["low"] is None) != (state["high"] is None):
        wrong = f"low and high: expected both or neither, got {state['low']} and {state['high']}"
    elif method == "beta" and state["low"] is not None and not state["low"] < state["high"]:
        wrong = f"low: expected less than high, got {state['low']} and {state['high']}"
    elif method == "beta" and min(state["a"], state["b"]) < 0:
        wrong = f"a and b: expected numbers >= 0, got {state['a']} and {state['b']}"
    elif method == "isotonic":
        knots, values = np.asarray(state["knots"]), np.asarray(state["values"])
        if knots.size == values.size >= 2 and (np.diff(knots) > 0).all():
            if (np.diff(values) >= 0).all() and values[0] >= 0 and values[-1] <= 1:
                return
            wrong = "values: expected probabilities that do not fall"
        else:
            wrong = (
                "knots: expected at least two that rise, as many as values, got "
                f"{knots.size} and {values.size} values"
            )
    else:
        return
    raise StateError(f"{where} ({method}): {wrong}")
