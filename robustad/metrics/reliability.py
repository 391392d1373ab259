"""Predicted against observed shares: the data of a reliability diagram."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.metrics._bins import check_predicted, counts, equal_mass, equal_width, sums
from robustad.metrics._checks import FloatArray, check_fraction, check_scores
from robustad.metrics.bootstrap import Interval

Binning = Literal["width", "mass"]


@dataclass(frozen=True, kw_only=True)
class ReliabilityCurve:
    """Predicted against observed share of anomalies, in bins of the probability.

    Attributes
    ----------
    bin_centre : array, (bins,), float64
        Middle of each bin; of equal-mass bins the middle of the probabilities in it.
    mean_predicted : array, (bins,), float64
        Mean probability in the bin; NaN where it is empty.
    fraction_positive : array, (bins,), float64
        Share of anomalies in the bin; NaN where it is empty.
    low, high : array, (bins,), float64
        Wilson interval of that share; NaN where the bin is empty.
    count : array, (bins,), int64
        Images in the bin.
    """

    bin_centre: FloatArray
    mean_predicted: FloatArray
    fraction_positive: FloatArray
    low: FloatArray
    high: FloatArray
    count: npt.NDArray[np.int64]


def reliability_curve(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    bins: int = 10,
    *,
    binning: Binning = "width",
    level: float = 0.95,
) -> ReliabilityCurve:
    """Compute the data of a reliability diagram.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous.
    bins : int, default 10
        Number of bins.
    binning : {"width", "mass"}, default "width"
        Bins of equal width over [0, 1], closed on the right, the first one including 0; or of
        equal mass, as `ece_adaptive` has them.
    level : float in (0, 1), default 0.95
        Of the Wilson interval of each bin's share.

    Returns
    -------
    ReliabilityCurve
        One entry a bin, empty bins included.

    Raises
    ------
    InputError
        As `ece_positive`, or if `level` or `binning` is none.

    Notes
    -----
    The interval is each bin's own, taking the bin as given. Where it holds the mean probability,
    the images of that bin are no evidence against the calibration; with ten bins at 0.95 a
    perfectly calibrated detector has one bin in two diagrams outside.

    Examples
    --------
    >>> curve = reliability_curve([0.1, 0.2, 0.8], [0, 1, 1], bins=2)
    >>> curve.mean_predicted.round(2).tolist(), curve.fraction_positive.tolist()
    ([0.15, 0.8], [0.5, 1.0])
    >>> curve.low.round(2).tolist(), curve.high.round(2).tolist()
    ([0.09, 0.21], [0.91, 1.0])
    """
    p, truth = check_predicted(probabilities, labels)
    if binning == "width":
        place = equal_width(p, bins)
        centre = (np.arange(bins) + 0.5) / bins
    elif binning == "mass":
        place = equal_mass(p, bins)
        centre = np.full(bins, np.nan)
        for one in np.unique(place):
            inside = p[place == one]
            centre[one] = inside.min() / 2 + inside.max() / 2
    else:
        raise InputError(f"binning: expected width or mass, got {binning!r}")
    count, positive = counts(place, bins), sums(place, bins, truth)
    low, high = _wilson(positive, count.astype(np.float64), level)
    with np.errstate(invalid="ignore"):
        return ReliabilityCurve(
            bin_centre=centre,
            mean_predicted=sums(place, bins, p) / count,
            fraction_positive=positive / count,
            low=low,
            high=high,
            count=count,
        )


def wilson_interval(positive: float, count: float, *, level: float = 0.95) -> Interval:
    """Interval of a share, from how often something happened among how many.

    Parameters
    ----------
    positive : float in [0, count]
        How often.
    count : float > 0
        Among how many.
    level : float in (0, 1), default 0.95
        Nominal coverage.

    Returns
    -------
    Interval
        In [0, 1]; never without width, also where all or none did.

    Raises
    ------
    InputError
        If a number is out of range.

    Notes
    -----
    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927), without
    correction for continuity.

    Examples
    --------
    >>> wilson_interval(0, 10).high.__round__(3)
    0.278
    """
    [k, n] = check_scores([positive, count], "positive and count")
    if not 0.0 <= k <= n or n == 0.0:
        raise InputError(f"positive and count: expected 0 <= positive <= count > 0, got {k}, {n}")
    low, high = _wilson(np.array([k]), np.array([n]), level)
    return Interval(float(low[0]), float(high[0]))


def _wilson(positive: FloatArray, count: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    from scipy.special import ndtri

    z = float(ndtri(0.5 + 0.5 * check_fraction(level, "level", low=False, high=False)))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = positive / count
        centre = share + z * z / (2.0 * count)
        half = z * np.sqrt(share * (1.0 - share) / count + (z / (2.0 * count)) ** 2)
        scale = 1.0 + z * z / count
        low, high = (centre - half) / scale, (centre + half) / scale
    # exactly so in exact arithmetic
    low = np.where(positive == 0.0, 0.0 * share, low)
    return low, np.where(positive == count, 1.0 + 0.0 * share, high)
