"""The Brier score and what it is made of."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.metrics._bins import check_predicted, counts, equal_mass, equal_width, sums
from robustad.metrics.reliability import Binning


class BrierParts(NamedTuple):
    """A Brier score taken apart: the sum, with the signs of `total`, is exact.

    Attributes
    ----------
    reliability : float >= 0
        Mean squared difference between a bin's mean probability and its share of anomalies. 0 is
        calibrated; this is what a calibrator can lower.
    resolution : float >= 0
        Mean squared difference between a bin's share of anomalies and the overall one. Large is
        good: the detector tells images apart.
    uncertainty : float in [0, 0.25]
        Variance of the labels: the score of a constant probability that is right on average.
    within_variance : float >= 0
        Mean variance of the probabilities inside a bin.
    within_covariance : float
        Twice the mean covariance of probabilities and labels inside a bin.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def total(self) -> float:
        """Reliability - resolution + uncertainty + within_variance - within_covariance."""
        calibrated = self.reliability - self.resolution + self.uncertainty
        return calibrated + self.within_variance - self.within_covariance


def brier(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Brier score: mean squared difference between probability and label.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous.

    Returns
    -------
    float in [0, 1]
        0.25 is what a constant 0.5 gets.

    Raises
    ------
    InputError
        As `ece_positive`.

    Examples
    --------
    >>> round(brier([0.5, 0.9], [0, 1]), 4)
    0.13
    """
    p, truth = check_predicted(probabilities, labels)
    return float(np.square(p - truth).mean())


def brier_parts(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    bins: int = 10,
    binning: Binning = "width",
) -> BrierParts:
    """Take the Brier score apart into calibration and discrimination.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous.
    bins : int, default 10
        Bins of the probability.
    binning : {"width", "mass"}, default "width"
        See `reliability_curve`.

    Returns
    -------
    BrierParts
        Whose `total` is `brier` up to rounding, whatever the bins.

    Raises
    ------
    InputError
        As `ece_positive`, or if `binning` is none of these.

    Notes
    -----
    Murphy, "A New Vector Partition of the Probability Score" (1973); the two terms within bins by
    Stephenson, Coelho and Jolliffe, "Two Extra Components in the Brier Score Decomposition"
    (2008). With few images in a bin, chance alone makes reliability and resolution larger, by
    equal amounts.

    Examples
    --------
    >>> parts = brier_parts([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], bins=2)
    >>> round(parts.reliability, 4), round(parts.resolution, 4), round(parts.uncertainty, 4)
    (0.0225, 0.25, 0.25)
    >>> round(parts.total, 4)
    0.025
    """
    p, truth = check_predicted(probabilities, labels)
    if binning not in ("width", "mass"):
        raise InputError(f"binning: expected width or mass, got {binning!r}")
    place = equal_width(p, bins) if binning == "width" else equal_mass(p, bins)
    count = np.maximum(counts(place, bins), 1)
    mean_p, mean_y = sums(place, bins, p) / count, sums(place, bins, truth) / count
    off_p, off_y = p - mean_p[place], truth - mean_y[place]
    base = float(truth.mean())
    return BrierParts(
        reliability=float(np.square(mean_p - mean_y)[place].mean()),
        resolution=float(np.square(mean_y - base)[place].mean()),
        uncertainty=base * (1.0 - base),
        within_variance=float(np.square(off_p).mean()),
        within_covariance=float(2.0 * (off_p * off_y).mean()),
    )
