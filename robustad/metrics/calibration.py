"""How far probabilities can be believed: calibration errors, proper scores, reliability."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustad.metrics._checks import (
    BoolArray,
    FloatArray,
    check_bins,
    check_probabilities,
    check_scored,
)
from robustad.verdict import binary_entropy


@dataclass(frozen=True, kw_only=True)
class ReliabilityCurve:
    """Predicted against observed share of anomalies, in equal-width bins of the probability.

    Attributes
    ----------
    bin_centre : array, (bins,), float64
        Middle of each bin.
    mean_predicted : array, (bins,), float64
        Mean probability in the bin; NaN where it is empty.
    fraction_positive : array, (bins,), float64
        Share of anomalies in the bin; NaN where it is empty.
    count : array, (bins,), int64
        Images in the bin.
    """

    bin_centre: FloatArray
    mean_predicted: FloatArray
    fraction_positive: FloatArray
    count: npt.NDArray[np.int64]


def ece_positive(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10) -> float:
    """Calibration error of the probability of the anomalous class.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous.
    bins : int, default 10
        Equal-width bins over [0, 1], closed on the right; the first one includes 0.

    Returns
    -------
    float in [0, 1]
        Mean over images of |mean label - mean probability| of the image's bin.

    Raises
    ------
    InputError
        If the lengths differ, a probability is NaN or outside [0, 1], a label is neither 0 nor
        1, or `bins` is below 1.

    Notes
    -----
    The definition that published figures for uncalibrated anomaly scores follow, and what
    torchmetrics computes as binary calibration error. `ece_top_label` is the usual definition
    for classifiers; the two are not comparable.

    Examples
    --------
    >>> round(ece_positive([0.1, 0.1, 0.8, 0.8], [0, 0, 1, 0]), 3)
    0.2
    """
    p, truth = _checked(probabilities, labels)
    return _calibration_error(p, truth, check_bins(bins))


def ece_top_label(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10) -> float:
    """Calibration error of the predicted class, the usual ECE of classifiers.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability p of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous.
    bins : int, default 10
        Equal-width bins of the confidence over [0, 1], closed on the right. The confidence of
        two classes is at least 0.5, so the lower half of the bins stays empty.

    Returns
    -------
    float in [0, 1]
        Mean over images of |accuracy - mean confidence| of the image's bin, with confidence
        max(p, 1 - p) and the anomalous class predicted where p >= 0.5.

    Raises
    ------
    InputError
        As `ece_positive`.

    Examples
    --------
    >>> round(ece_top_label([0.1, 0.1, 0.8, 0.8], [0, 0, 1, 0]), 3)
    0.2
    """
    p, truth = _checked(probabilities, labels)
    return _calibration_error(np.maximum(p, 1.0 - p), (p >= 0.5) == truth, check_bins(bins))


def nll(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean negative log-likelihood in nats.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous.

    Returns
    -------
    float in [0, 36.05]
        A probability of 0 for what did happen is taken as 2.2e-16, so that one image costs 36
        nats and not infinity (as in scikit-learn).

    Raises
    ------
    InputError
        As `ece_positive`.

    Examples
    --------
    >>> round(nll([0.5, 0.9], [0, 1]), 4)
    0.3993
    """
    p, truth = _checked(probabilities, labels)
    happened = np.where(truth, p, 1.0 - p)
    return float(-np.log(np.maximum(happened, np.finfo(np.float64).eps)).mean())


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
    p, truth = _checked(probabilities, labels)
    return float(np.square(p - truth).mean())


def mean_entropy(probabilities: npt.ArrayLike) -> float:
    """Mean predictive entropy in nats.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].

    Returns
    -------
    float in [0, 0.6931]
        Mean of -p ln p - (1 - p) ln(1 - p).

    Raises
    ------
    InputError
        If a probability is NaN or outside [0, 1].

    Examples
    --------
    >>> round(mean_entropy([0.0, 0.5]), 4)
    0.3466
    """
    return float(binary_entropy(check_probabilities(probabilities)).mean())


def reliability_curve(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 10
) -> ReliabilityCurve:
    """Compute the data of a reliability diagram.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous.
    bins : int, default 10
        Equal-width bins over [0, 1], closed on the right; the first one includes 0.

    Returns
    -------
    ReliabilityCurve
        One entry a bin, empty bins included.

    Raises
    ------
    InputError
        As `ece_positive`.

    Examples
    --------
    >>> curve = reliability_curve([0.1, 0.2, 0.8], [0, 1, 1], bins=2)
    >>> curve.mean_predicted.round(2).tolist(), curve.fraction_positive.tolist()
    ([0.15, 0.8], [0.5, 1.0])
    """
    p, truth = _checked(probabilities, labels)
    count, predicted, positive = _binned(p, truth, check_bins(bins))
    with np.errstate(invalid="ignore"):
        return ReliabilityCurve(
            bin_centre=(np.arange(count.size) + 0.5) / count.size,
            mean_predicted=predicted / count,
            fraction_positive=positive / count,
            count=count,
        )


def _checked(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    return check_scored(
        check_probabilities(probabilities), labels, name="probabilities", both_classes=False
    )


def _calibration_error(confidence: FloatArray, correct: BoolArray, bins: int) -> float:
    _, predicted, positive = _binned(confidence, correct, bins)
    return float(np.abs(positive - predicted).sum() / confidence.size)


def _binned(
    p: FloatArray, truth: BoolArray, bins: int
) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
    """Count, sum of probabilities and sum of labels in each bin (a, b]."""
    index = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], p, side="left")
    return (
        np.bincount(index, minlength=bins).astype(np.int64),
        np.bincount(index, weights=p, minlength=bins).astype(np.float64),
        np.bincount(index, weights=truth, minlength=bins).astype(np.float64),
    )
