"""Sorting probabilities into bins, of equal width or of equal mass."""

import numpy as np
import numpy.typing as npt

from robustad.metrics._checks import (
    BoolArray,
    FloatArray,
    check_bins,
    check_probabilities,
    check_scored,
)

Places = npt.NDArray[np.intp]


def check_predicted(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[FloatArray, BoolArray]:
    """Probabilities and labels of equal length; one class alone will do."""
    return check_scored(
        check_probabilities(probabilities), labels, name="probabilities", both_classes=False
    )


def equal_width(p: FloatArray, bins: int) -> Places:
    """Bin (a, b] of each probability, of equal-width bins over [0, 1]; the first includes 0."""
    edges = np.linspace(0.0, 1.0, check_bins(bins) + 1)[1:-1]
    return np.searchsorted(edges, p, side="left")


def equal_mass(p: FloatArray, bins: int) -> Places:
    """Bin of each probability, of bins of nearly equal counts; equal probabilities stay together.

    The bin of the (mid)rank r = 0.5, 1.5, ... of n is floor(r * bins / n).
    """
    check_bins(bins)
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - 0.5 * count
    return np.floor(middle * bins / p.size).astype(np.intp)[place]


def sums(place: Places, bins: int, values: FloatArray | BoolArray) -> FloatArray:
    """Sum of values in each bin."""
    return np.bincount(place, weights=values, minlength=bins).astype(np.float64)


def counts(place: Places, bins: int) -> npt.NDArray[np.int64]:
    """Number of values in each bin."""
    return np.bincount(place, minlength=bins).astype(np.int64)
