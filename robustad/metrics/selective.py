"""What is left to a person: errors among the images that a detector is surest of.

An image is called anomalous where its probability p is at least the threshold. Its confidence is
max(p, 1 - p), which orders images as the entropy flag does. The least confident go to a person;
coverage is the share that does not, and the risk is what goes wrong among it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.metrics._bins import check_predicted
from robustad.metrics._checks import FloatArray, check_fraction, check_scores


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """Risk over coverage, from the surest image alone to all images.

    Attributes
    ----------
    coverage : array, (n,), float64 in (0, 1]
        1/n, 2/n, ..., 1.
    risk : array, (n,), float64
        Selective risk: mean loss of the covered images.
    generalised_risk : array, (n,), float64
        Share of all images that are covered and wrong (their summed loss over n).
    """

    coverage: FloatArray
    risk: FloatArray
    generalised_risk: FloatArray


def risk_coverage(confidence: npt.ArrayLike, loss: npt.ArrayLike) -> RiskCoverage:
    """Compute the curve for any confidence and any loss.

    Parameters
    ----------
    confidence : array, (n,)
        Finite; the highest are covered first.
    loss : array, (n,)
        Finite, >= 0: 1 for an error and 0 for none, or anything else that can be averaged.

    Returns
    -------
    RiskCoverage
        n points. Images of equal confidence come in no order: the curve is its mean over all of
        them.

    Raises
    ------
    InputError
        If the lengths differ, a value is not finite or a loss is negative.

    Examples
    --------
    >>> curve = risk_coverage([0.9, 0.8, 0.6, 0.6], [0, 0, 1, 0])
    >>> curve.risk.round(3).tolist()
    [0.0, 0.0, 0.167, 0.25]
    """
    sure, cost = check_scores(confidence, "confidence"), check_scores(loss, "loss")
    if sure.size != cost.size:
        raise InputError(
            f"confidence and loss: expected equal lengths, got {sure.size} and {cost.size}"
        )
    if (cost < 0.0).any():
        raise InputError(f"loss: expected numbers >= 0, got {cost.min():g}")
    # Sums are linear in the losses: their mean over all orders is that of each tie's mean loss.
    _, place, count = np.unique(-sure, return_inverse=True, return_counts=True)
    mean = np.bincount(place, weights=cost) / count
    total = np.cumsum(np.repeat(mean, count))
    covered = np.arange(1, sure.size + 1)
    return RiskCoverage(
        coverage=covered / sure.size, risk=total / covered, generalised_risk=total / sure.size
    )


def aurc(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, threshold: float = 0.5) -> float:
    """Area under the risk-coverage curve: mean error rate over all coverages.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous.
    threshold : float in (0, 1), default 0.5
        Called anomalous from here on.

    Returns
    -------
    float in [0, 1]
        0 is perfect. The area depends on the error rate itself as well as on the order.

    Raises
    ------
    InputError
        As `ece_positive`, or if `threshold` lies outside (0, 1).

    Notes
    -----
    Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks" (2017); as in Geifman,
    Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers" (2019) the
    mean of the n selective risks at coverage 1/n, ..., 1. Equal confidences count as the mean over
    their orders. Its weight on the surest few is large: one error there costs as much as many
    elsewhere, for which `augrc` is the remedy.

    Examples
    --------
    >>> aurc([0.1, 0.2, 0.4, 0.9], [0, 0, 1, 1])
    0.0625
    """
    return float(_curve(probabilities, labels, threshold).risk.mean())


def augrc(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, threshold: float = 0.5) -> float:
    """Area under the generalised-risk-coverage curve: the average rate of undetected errors.

    Parameters
    ----------
    probabilities, labels, threshold
        See `aurc`.

    Returns
    -------
    float in [0, 0.5]
        0 is perfect: the chance that an image is wrong and, at a coverage drawn at random, covered.

    Raises
    ------
    InputError
        As `aurc`.

    Notes
    -----
    Traub et al., "Overcoming Common Flaws in the Evaluation of Selective Classification Systems"
    (NeurIPS 2024): the area under generalised risk over coverage by trapezoids from (0, 0). Equals
    (1 - AUROC_f) a (1 - a) + (1 - a)^2 / 2, with the accuracy a and AUROC_f the chance that an
    error has a lower confidence than a right call, ties counted half.

    Examples
    --------
    >>> augrc([0.1, 0.2, 0.4, 0.9], [0, 0, 1, 1])
    0.03125
    """
    curve = _curve(probabilities, labels, threshold)
    risk = np.append(0.0, curve.generalised_risk)
    return float((risk[1:] + risk[:-1]).sum() / (2 * curve.coverage.size))


def risk_at_coverage(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    coverage: float = 0.9,
    *,
    threshold: float = 0.5,
) -> float:
    """Error rate among the surest images.

    Parameters
    ----------
    probabilities, labels, threshold
        See `aurc`.
    coverage : float in (0, 1], default 0.9
        Share of the images that no person looks at, rounded up to whole images.

    Returns
    -------
    float in [0, 1]
        Of equally sure images at the border, the mean over their orders.

    Raises
    ------
    InputError
        As `aurc`, or if `coverage` lies outside (0, 1].

    Examples
    --------
    >>> risk_at_coverage([0.1, 0.2, 0.4, 0.9], [0, 0, 1, 1], coverage=0.75)
    0.0
    """
    share = check_fraction(coverage, "coverage", low=False)
    curve = _curve(probabilities, labels, threshold)
    # 0.9 * 10 is a hair above 9 in floating point.
    covered = int(np.ceil(share * curve.risk.size - 1e-9))
    return float(curve.risk[max(covered, 1) - 1])


def _curve(probabilities: npt.ArrayLike, labels: npt.ArrayLike, threshold: float) -> RiskCoverage:
    p, truth = check_predicted(probabilities, labels)
    limit = check_fraction(threshold, "threshold", low=False, high=False)
    called = p >= limit
    return risk_coverage(np.maximum(p, 1.0 - p), called != truth)
