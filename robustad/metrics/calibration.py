"""How far probabilities can be believed: calibration errors, log-likelihood, entropy."""

import numpy as np
import numpy.typing as npt

from robustad.metrics._bins import Places, check_predicted, equal_mass, equal_width, sums
from robustad.metrics._checks import BoolArray, FloatArray, check_probabilities
from robustad.verdict import binary_entropy


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
    p, truth = check_predicted(probabilities, labels)
    return _calibration_error(p, truth, equal_width(p, bins), bins)


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
    p, truth = check_predicted(probabilities, labels)
    confidence = np.maximum(p, 1.0 - p)
    return _calibration_error(confidence, (p >= 0.5) == truth, equal_width(confidence, bins), bins)


def ece_adaptive(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10) -> float:
    """Calibration error of the probability of the anomalous class, in bins of equal mass.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous.
    bins : int, default 10
        Bins that hold nearly n / bins images each; equal probabilities share a bin.

    Returns
    -------
    float in [0, 1]
        Mean over images of |mean label - mean probability| of the image's bin.

    Raises
    ------
    InputError
        As `ece_positive`.

    Notes
    -----
    Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural language
    processing models" (2015); the absolute form of Nixon et al., "Measuring Calibration in Deep
    Learning" (2019). Where most probabilities crowd at 0 and 1, bins of equal width leave the rest
    to a few images; these do not.

    Examples
    --------
    >>> round(ece_adaptive([0.1, 0.1, 0.8, 0.8], [0, 0, 1, 0], bins=2), 3)
    0.2
    """
    p, truth = check_predicted(probabilities, labels)
    return _calibration_error(p, truth, equal_mass(p, bins), bins)


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
    p, truth = check_predicted(probabilities, labels)
    happened = np.where(truth, p, 1.0 - p)
    return float(-np.log(np.maximum(happened, np.finfo(np.float64).eps)).mean())


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


def _calibration_error(p: FloatArray, truth: BoolArray, place: Places, bins: int) -> float:
    return float(np.abs(sums(place, bins, truth) - sums(place, bins, p)).sum() / p.size)
