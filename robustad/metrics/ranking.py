"""How well image scores rank anomalous above normal images, and what a threshold makes of them.

Everywhere a higher score is more anomalous, and an image is called anomalous where
`score >= threshold`.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustad.metrics._checks import FloatArray, check_fraction, check_scored, check_scores


class Best(NamedTuple):
    """The maximum of a measure over all thresholds.

    Attributes
    ----------
    value : float in [0, 1]
        The maximum.
    threshold : float
        A score that attains it; the highest one where several do.
    """

    value: float
    threshold: float


class Rates(NamedTuple):
    """Error rates at a threshold.

    Attributes
    ----------
    fpr : float in [0, 1]
        Share of the normal images called anomalous.
    fnr : float in [0, 1]
        Share of the anomalous images called normal.
    """

    fpr: float
    fnr: float


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Area under the ROC curve: the chance that an anomaly outscores a normal image.

    Parameters
    ----------
    scores : array, (n,)
        Finite image scores; ties count half.
    labels : array, (n,)
        0 normal, 1 anomalous; both present.

    Returns
    -------
    float in [0, 1]
        0.5 is chance.

    Raises
    ------
    InputError
        If the lengths differ, a score is not finite, a label is neither 0 nor 1, or a class is
        missing.

    Examples
    --------
    >>> auroc([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])
    0.875
    """
    from sklearn.metrics import roc_auc_score

    values, truth = check_scored(scores, labels)
    return float(roc_auc_score(truth, values))


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Area under the precision-recall curve, by steps (no interpolation).

    Parameters
    ----------
    scores : array, (n,)
        Finite image scores; ties are one step.
    labels : array, (n,)
        0 normal, 1 anomalous; both present.

    Returns
    -------
    float in (0, 1]
        The share of anomalies is what constant scores get.

    Raises
    ------
    InputError
        As `auroc`.

    Examples
    --------
    >>> average_precision([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1]).__round__(4)
    0.8333
    """
    from sklearn.metrics import average_precision_score

    values, truth = check_scored(scores, labels)
    return float(average_precision_score(truth, values))


def f1_max(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Best:
    """Highest F1 score over all thresholds; compare it with `trivial_f1`.

    Parameters
    ----------
    scores : array, (n,)
        Finite image scores.
    labels : array, (n,)
        0 normal, 1 anomalous; both present.

    Returns
    -------
    Best
        The value and its threshold.

    Raises
    ------
    InputError
        As `auroc`.

    Notes
    -----
    The threshold is chosen on the very labels it is judged by. That is what published tables
    report; a line has to fix its threshold beforehand, see `threshold_at_fpr` and `rates_at`.

    Examples
    --------
    >>> f1_max([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1])
    Best(value=0.8, threshold=0.4)
    """
    threshold, hits, alarms, anomalies, _ = _sweep(scores, labels)
    return _best(2.0 * hits / (hits + alarms + anomalies), threshold)


def gmean_max(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Best:
    """Highest sqrt(TPR * TNR) over all thresholds.

    Parameters
    ----------
    scores : array, (n,)
        Finite image scores.
    labels : array, (n,)
        0 normal, 1 anomalous; both present.

    Returns
    -------
    Best
        The value and its threshold. Unlike F1 it is 0 when everything is called anomalous.

    Raises
    ------
    InputError
        As `auroc`.

    Examples
    --------
    >>> gmean_max([0.1, 0.2, 0.3, 0.9], [0, 0, 1, 1])
    Best(value=1.0, threshold=0.3)
    """
    threshold, hits, alarms, anomalies, normals = _sweep(scores, labels)
    return _best(np.sqrt(hits / anomalies * (1.0 - alarms / normals)), threshold)


def trivial_f1(prevalence: float) -> float:
    """F1 score of calling everything anomalous: 2p / (1 + p), a floor under every F1-max.

    Parameters
    ----------
    prevalence : float in [0, 1]
        Share p of anomalous images.

    Returns
    -------
    float in [0, 1]
        The floor.

    Raises
    ------
    InputError
        If `prevalence` lies outside [0, 1].

    Examples
    --------
    >>> round(trivial_f1(0.729), 3)
    0.843
    """
    p = check_fraction(prevalence, "prevalence")
    return 2.0 * p / (1.0 + p)


def rates_at(scores: npt.ArrayLike, labels: npt.ArrayLike, threshold: float) -> Rates:
    """Compute the false positive and the false negative rate at a threshold.

    Parameters
    ----------
    scores : array, (n,)
        Finite image scores.
    labels : array, (n,)
        0 normal, 1 anomalous; both present.
    threshold : float
        An image is called anomalous where its score is at least this. Infinite is allowed.

    Returns
    -------
    Rates
        `(fpr, fnr)`.

    Raises
    ------
    InputError
        As `auroc`, or if `threshold` is NaN.

    Examples
    --------
    >>> rates_at([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], threshold=0.5)
    Rates(fpr=0.5, fnr=0.5)
    """
    values, truth = check_scored(scores, labels)
    if np.isnan(threshold):
        check_scores([threshold], "threshold")
    alarm = values >= threshold
    return Rates(fpr=float(alarm[~truth].mean()), fnr=float(1.0 - alarm[truth].mean()))


def threshold_at_fpr(normal_scores: npt.ArrayLike, fpr: float) -> float:
    """Smallest threshold that calls at most a share `fpr` of the given normal images anomalous.

    Parameters
    ----------
    normal_scores : array, (n,)
        Finite scores of normal images, better not those the detector was fitted on.
    fpr : float in [0, 1)
        The share of false alarms to allow. Below 1/n none is allowed.

    Returns
    -------
    float
        The next number above the (k + 1)-th largest score, k = floor(n * fpr). "Next" is meant
        in the precision of `normal_scores`: a threshold from float32 scores is a float32 number,
        so it holds for comparisons in float32 as well.

    Raises
    ------
    InputError
        If there is no score, one is not finite, or `fpr` lies outside [0, 1).

    Notes
    -----
    The rate holds on the given images. On new normal images exchangeable with them, the chance
    of a false alarm is at most (k + 1) / (n + 1), averaged over draws of the n images: with 20
    images and `fpr=0.05` that is 2/21, not 0.05.

    Examples
    --------
    >>> threshold = threshold_at_fpr([0.1, 0.2, 0.3, 0.4], 0.25)
    >>> round(threshold, 6)
    0.3
    >>> rates_at([0.1, 0.2, 0.3, 0.4, 0.9], [0, 0, 0, 0, 1], threshold)
    Rates(fpr=0.25, fnr=0.0)
    """
    values = check_scores(normal_scores, "normal_scores")
    rate = check_fraction(fpr, "fpr", high=False)
    limit = np.sort(values)[::-1][allowed_alarms(rate, values.size)]
    return next_above(float(limit), normal_scores)


def next_above(value: float, like: npt.ArrayLike) -> float:
    """Next number above `value` in the precision of the scores `like`."""
    dtype = np.asarray(like).dtype
    precise = dtype.type(value) if dtype.kind == "f" else np.float64(value)
    return float(np.nextafter(precise, precise.dtype.type(np.inf)))


def allowed_alarms(rate: float, count: int) -> int:
    """Largest k with k / count <= rate, free of the rounding in rate * count."""
    k = int(np.floor(rate * count))
    if (k + 1) / count <= rate:
        return k + 1
    return k if k / count <= rate else k - 1


def _sweep(
    scores: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray, int, int]:
    """Distinct scores from high to low, and how many anomalies and normals reach each."""
    values, truth = check_scored(scores, labels)
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(values)), values.size - 1)
    hits = np.cumsum(truth)[last_of_ties].astype(np.float64)
    anomalies = int(truth.sum())
    return (
        values[last_of_ties],
        hits,
        last_of_ties + 1.0 - hits,
        anomalies,
        truth.size - anomalies,
    )


def _best(value: FloatArray, threshold: FloatArray) -> Best:
    index = int(np.argmax(value))
    return Best(value=float(value[index]), threshold=float(threshold[index]))
