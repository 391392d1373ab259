"""Conformal p-values: how unusual a score is among those of held-out normal images."""

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.metrics._checks import FloatArray, check_scores


def p_values(
    scores: npt.ArrayLike,
    calibration: npt.ArrayLike,
    *,
    smoothed: bool = False,
    seed: int | None = None,
) -> FloatArray:
    """Split conformal p-values (1 + #{S_i >= S}) / (n + 1).

    Parameters
    ----------
    scores : array-like, (B,)
        Finite scores of the images in question; there may be none.
    calibration : array-like, (n,)
        Finite scores S_i of held-out normal images, in any order.
    smoothed : bool, default False
        (#{S_i > S} + U (1 + #{S_i = S})) / (n + 1) with a uniform U in [0, 1) an image: breaks
        ties at random. It is below the plain one, depends on the draw, and has no smallest value.
    seed : int, optional
        Of the draws; None draws anew each time. Only with `smoothed`.

    Returns
    -------
    array, (B,), float64 in (0, 1]
        Small where the score is high for a normal image; at least 1 / (n + 1) unless `smoothed`.

    Raises
    ------
    InputError
        If a score is not finite, there is no calibration score, or a seed is given in vain.

    Notes
    -----
    P(p <= alpha) <= alpha for every alpha in (0, 1), for a normal image that is exchangeable with
    the n held-out ones: exact for every n, distribution and detector; the smoothed one has
    equality. The probability is over the n images and the new one; for a fixed calibration set it
    may be more or less (`Threshold.rate_interval`). Vovk, Gammerman & Shafer, "Algorithmic
    Learning in a Random World" (2005); Bates et al., "Testing for outliers with conformal
    p-values" (Annals of Statistics 2023). p-values of several images from one calibration set
    depend on each other, see `benjamini_hochberg`.

    Examples
    --------
    >>> p_values([0.5, 2.5, 9.0], [1.0, 2.0, 3.0, 4.0]).tolist()
    [1.0, 0.6, 0.2]
    """
    values, held_out = check_scores(scores, at_least=0), check_scores(calibration, "calibration")
    ordered = np.sort(held_out)
    below = np.searchsorted(ordered, values, side="left").astype(np.float64)
    at_least = held_out.size - below
    count = 1.0 + held_out.size
    if not smoothed:
        if seed is not None:
            raise InputError(f"seed: expected None without smoothed=True, got {seed}")
        plain: FloatArray = np.asarray((1.0 + at_least) / count, np.float64)
        return plain
    above = held_out.size - np.searchsorted(ordered, values, side="right")
    draws = np.random.default_rng(seed).random(values.size)
    return (above + draws * (1.0 + at_least - above)) / count


def weighted_p_values(
    scores: npt.ArrayLike,
    calibration: npt.ArrayLike,
    *,
    weights: npt.ArrayLike,
    score_weights: npt.ArrayLike,
) -> FloatArray:
    """Conformal p-values under a known shift between the held-out images and those in question.

    Parameters
    ----------
    scores : array-like, (B,)
        Finite scores of the images in question.
    calibration : array-like, (n,)
        Finite scores of held-out normal images.
    weights : array-like, (n,), finite and >= 0
        How much more often a normal image such as this one occurs now than when the n were
        collected: the density ratio dP_now / dP_then at each of them, up to a common factor.
    score_weights : array-like, (B,), finite and >= 0
        The same at each image in question; all weights of a p-value must not be 0.

    Returns
    -------
    array, (B,), float64 in [0, 1]
        (sum of w_i over S_i >= S, + w) / (sum of all w_i, + w). Equal weights give `p_values`.

    Raises
    ------
    InputError
        If a score or weight is not finite, a weight is negative, lengths differ, or all weights
        are 0.

    Notes
    -----
    P(p <= alpha) <= alpha where the weights are the true density ratio (Tibshirani et al.,
    "Conformal prediction under covariate shift", NeurIPS 2019). With estimated weights it holds
    as far as these are right, and nothing in the data says how far. Benjamini-Hochberg on
    weighted p-values has no such guarantee (Jin & Candès 2023).

    Examples
    --------
    >>> weighted_p_values([2.5], [1.0, 2.0, 3.0], weights=[0, 1, 3], score_weights=[1]).tolist()
    [0.8]
    """
    values, held_out = check_scores(scores, at_least=0), check_scores(calibration, "calibration")
    w = _weights(weights, "weights", held_out.size)
    own = _weights(score_weights, "score_weights", values.size)
    order = np.argsort(held_out, kind="stable")
    # sums over the scores from each one up, and 0 above the last
    from_top = np.append(np.cumsum(w[order][::-1])[::-1], 0.0)
    above = from_top[np.searchsorted(held_out[order], values, side="left")]
    total = from_top[0] + own
    if values.size and not bool((total > 0.0).all()):
        raise InputError("weights: expected one above 0, got only 0")
    found: FloatArray = (above + own) / total
    return found


def _weights(weights: npt.ArrayLike, name: str, size: int) -> FloatArray:
    values = check_scores(weights, name, at_least=0)
    if values.size != size:
        raise InputError(f"{name}: expected one a score, {size}, got {values.size}")
    if values.size and values.min() < 0.0:
        raise InputError(f"{name}: expected weights >= 0, got {values.min():g}")
    return values
