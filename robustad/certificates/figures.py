"""Certified intervals over a set of images: AUROC, FPR and FNR that no attack can beat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robustad.certificates.orders import FloatArray
from robustad.errors import InputError
from robustad.metrics import auroc
from robustad.metrics.ranking import Rates


def certified_auroc(lower: npt.ArrayLike, upper: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """AUROC that remains when every image's score goes where it hurts most within its interval.

    Parameters
    ----------
    lower, upper : array, (n,)
        Certified intervals of the images' scores; infinite where there is no bound.
    labels : array, (n,), 0 or 1
        0 normal, 1 anomalous; both present.

    Returns
    -------
    float in [0, 1]
        Of normal images at their upper and anomalous images at their lower bound: AUROC rises with
        no normal image's and falls with no anomalous image's score, so that no choice of scores
        within the intervals gives less.

    Raises
    ------
    InputError
        If the lengths differ, a bound is NaN, the bounds are the wrong way round, or a class is
        missing.

    Examples
    --------
    >>> certified_auroc([0.0, 0.1, 0.35, 0.8], [0.2, 0.4, 0.6, 0.9], [0, 0, 1, 1])
    0.75
    """
    worst, truth = _worst(lower, upper, labels)
    # Ranks in place of values, so that infinite ones are welcome.
    return auroc(np.unique(worst, return_inverse=True)[1].astype(np.float64), truth)


def certified_rates(
    lower: npt.ArrayLike, upper: npt.ArrayLike, labels: npt.ArrayLike, threshold: float
) -> Rates:
    """Largest error rates at a threshold that any attack within the intervals can cause.

    Parameters
    ----------
    lower, upper, labels
        As `certified_auroc`.
    threshold : float
        An image is called anomalous where its score is at least this.

    Returns
    -------
    Rates
        Share of normal images whose upper bound reaches the threshold, and of anomalous images
        whose lower bound does not.

    Raises
    ------
    InputError
        As `certified_auroc`, or if the threshold is NaN.

    Examples
    --------
    >>> certified_rates([0.0, 0.1, 0.35, 0.8], [0.2, 0.4, 0.6, 0.9], [0, 0, 1, 1], 0.4)
    Rates(fpr=0.5, fnr=0.5)
    """
    if np.isnan(threshold):
        raise InputError("threshold: expected a score, got NaN")
    worst, truth = _worst(lower, upper, labels)
    alarm, anomalous = worst >= threshold, truth == 1
    return Rates(fpr=float(alarm[~anomalous].mean()), fnr=float(1.0 - alarm[anomalous].mean()))


def _worst(
    lower: npt.ArrayLike, upper: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Upper bounds of normal and lower bounds of anomalous images."""
    low, high = (np.asarray(bound, np.float64) for bound in (lower, upper))
    truth = np.asarray(labels)
    if low.ndim != 1 or low.shape != high.shape or low.shape != truth.shape:
        raise InputError(
            "lower, upper and labels: expected three arrays (n,), got "
            f"{low.shape}, {high.shape} and {truth.shape}"
        )
    if set(truth.tolist()) != {0, 1}:
        raise InputError(
            f"labels: expected 0 and 1, both present, got {sorted(set(truth.tolist()))}"
        )
    if not bool((low <= high).all()):  # also NaN
        raise InputError("lower and upper: expected bounds with lower <= upper and no NaN")
    return np.where(truth == 1, low, high), truth.astype(np.int64)
