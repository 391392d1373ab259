"""The argument checks that all metrics and calibrators share."""

from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
LN2 = float(np.log(2.0))
# Entropies computed in float32 may exceed ln 2 by a rounding error.
ENTROPY_TOLERANCE = 1e-6


def check_scores(scores: npt.ArrayLike, name: str = "scores", *, at_least: int = 1) -> FloatArray:
    """Finite numbers (n,) as float64; anything else, or too few, is an InputError."""
    array = _vector(scores, name, at_least)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        index = int(bad[0])
        raise InputError(
            f"{name}: expected finite values, got {array[index]} at index {index}"
            f" ({bad.size} of {array.size} are not finite)"
        )
    return array


def check_labels(labels: npt.ArrayLike, name: str = "labels") -> BoolArray:
    """Labels (n,), each 0 (normal) or 1 (anomalous), as bool."""
    array = _vector(labels, name)
    bad = np.flatnonzero((array != 0.0) & (array != 1.0))
    if bad.size:
        index = int(bad[0])
        raise InputError(
            f"{name}: expected 0 (normal) or 1 (anomalous), got {array[index]:g} at index {index}"
        )
    return np.equal(array, 1.0)


def check_scored(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    name: str = "scores",
    both_classes: bool = True,
) -> tuple[FloatArray, BoolArray]:
    """Scores and labels of equal length, by default with both classes present."""
    values = check_scores(scores, name)
    truth = check_labels(labels)
    if values.size != truth.size:
        raise InputError(
            f"{name} and labels: expected equal lengths, got {values.size} and {truth.size}"
        )
    if both_classes and truth.all() == truth.any():
        only = "1 (anomalous)" if truth.any() else "0 (normal)"
        raise InputError(
            "labels: expected both 0 (normal) and 1 (anomalous), "
            f"got only {only}, {truth.size} times"
        )
    return values, truth


def check_probabilities(probabilities: npt.ArrayLike, name: str = "probabilities") -> FloatArray:
    """Probabilities (n,), finite and in [0, 1]."""
    array = _vector(probabilities, name)
    _refuse_outside(array, 1.0, "probabilities in [0, 1]", name)
    return array


def check_entropies(entropy: npt.ArrayLike, name: str) -> FloatArray:
    """Predictive entropies (n,) in nats, finite and in [0, ln 2]."""
    array = _vector(entropy, name)
    _refuse_outside(array, LN2 + ENTROPY_TOLERANCE, "nats in [0, 0.6931]", name)
    return array


def check_fraction(value: float, name: str, *, low: bool = True, high: bool = True) -> float:
    """Check for a number in 0..1; `low` and `high` say whether 0 and 1 are allowed."""
    number = float(value)
    inside = 0.0 < number < 1.0 or (low and number == 0.0) or (high and number == 1.0)
    if not inside:
        interval = f"{'[' if low else '('}0, 1{']' if high else ')'}"
        raise InputError(f"{name}: expected a number in {interval}, got {value}")
    return number


def check_bins(bins: int) -> int:
    """At least one bin."""
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
        raise InputError(f"bins: expected a whole number >= 1, got {bins!r}")
    return int(bins)


def _vector(values: npt.ArrayLike, name: str, at_least: int = 1) -> FloatArray:
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of unequal lengths
        raise InputError(f"{name}: expected shape (n,): {error}") from error
    if array.size and array.dtype.kind not in "fiub":
        raise InputError(f"{name}: expected numbers, got an array of {array.dtype}")
    if array.ndim != 1 or array.size < at_least:
        raise InputError(f"{name}: expected shape (n,) with n >= {at_least}, got {array.shape}")
    return array.astype(np.float64)


def _refuse_outside(array: npt.NDArray[Any], high: float, expected: str, name: str) -> None:
    bad = np.flatnonzero(~((array >= 0.0) & (array <= high)))  # also catches NaN
    if bad.size:
        index = int(bad[0])
        hint = "; a detector that is not calibrated gives NaN" if np.isnan(array[index]) else ""
        raise InputError(f"{name}: expected {expected}, got {array[index]} at index {index}{hint}")
