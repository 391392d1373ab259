"""Which sorted draws bound the median of noisy scores, with what confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError

FloatArray = npt.NDArray[np.float64]
# Whether each bound holds at the level alone, or both at once.
Sides: TypeAlias = Literal["one", "two"]


class Ranks(NamedTuple):
    """Places among n sorted draws, counted from 1.

    Attributes
    ----------
    lower : int in 0..n
        Whose draw is the lower bound; 0 for none, which is minus infinity.
    upper : int in 1..n + 1
        Whose draw is the upper bound; n + 1 for none, which is plus infinity.
    """

    lower: int
    upper: int


class Intervals(NamedTuple):
    """Certified intervals of B images at R radii.

    Attributes
    ----------
    lower, upper : array, (B, R), float64
        Infinite where n draws cannot bound the score at that radius.
    """

    lower: FloatArray
    upper: FloatArray


def median_ranks(
    n: int,
    shift: float,
    *,
    alpha: float = 0.001,
    sides: Sides = "two",
    test_draws: int | None = None,
) -> Ranks:
    """Order statistics that bound the median of f(x + d + noise) for all small enough d.

    Parameters
    ----------
    n : int >= 1
        Independent draws of f(x + noise).
    shift : float >= 0
        Largest l2 length of d, in standard deviations of the noise.
    alpha : float in (0, 1), default 0.001
        Chance, over the n draws, that a bound is wrong.
    sides : {"one", "two"}, default "two"
        With "two" the interval is wrong with a chance of at most alpha (Bonferroni: alpha / 2 each
        side); with "one" each bound is, for where only one of them matters.
    test_draws : int >= 1, optional
        Bound not the median itself, but the median of this many new draws at x + d, as a deployed
        detector computes it: on top of the above it lies outside with a chance of at most alpha
        (one side; both with "two") each time that an image is presented.

    Returns
    -------
    Ranks
        As few draws between them as the binomial distribution allows.

    Raises
    ------
    InputError
        If an argument is out of range.

    Notes
    -----
    Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing",
    NeurIPS 2020: theorem 1 and lemma 2. For d of length r the median lies between the quantiles
    Phi(-r / sigma) and Phi(r / sigma) of f(x + noise). The number of draws below a quantile q is
    binomial, so that the draw of rank k lies above it with a chance of P(Bin(n, q) <= k - 1).
    Ties only help. The median of m draws is the one of rank (m + 1) // 2.

    Examples
    --------
    >>> median_ranks(1000, 1.0, sides="one")
    Ranks(lower=124, upper=877)
    >>> median_ranks(100, 2.0, sides="one")  # out of reach: `reach`
    Ranks(lower=0, upper=101)
    """
    from scipy.special import betaincinv, ndtr, ndtri

    level = _level(n, alpha, sides)
    if not 0.0 <= shift < math.inf:
        raise InputError(f"shift: expected a finite length >= 0, got {shift}")
    below = above = 0.5
    if test_draws is not None:
        if test_draws < 1:
            raise InputError(f"test_draws: expected >= 1, got {test_draws}")
        rank = (test_draws + 1) // 2
        below = float(betaincinv(rank, test_draws - rank + 1, level))
        above = 1.0 - float(betaincinv(test_draws - rank + 1, rank, level))
    # Both as tails of a binomial, so that small chances keep their digits.
    lower = _rank(n, float(ndtr(ndtri(below) - shift)), level)
    upper = n + 1 - _rank(n, float(ndtr(-ndtri(above) - shift)), level)
    return Ranks(lower, upper)


def median_intervals(
    scores: npt.ArrayLike,
    radii: Sequence[float],
    *,
    sigma: float,
    alpha: float = 0.001,
    sides: Sides = "two",
    test_draws: int | None = None,
) -> Intervals:
    """Certified intervals of smoothed scores at several l2 radii, from one set of draws.

    Parameters
    ----------
    scores : array, (B, n) or (n,)
        Finite scores of n noisy copies of each image, see `robustad.certificates.noisy_scores`.
    radii : sequence of float >= 0
        l2 lengths of a perturbation of the whole image taken as one vector, in pixel range.
    sigma : float > 0
        Standard deviation of the noise.
    alpha, sides, test_draws
        As `median_ranks`; at each radius by itself.

    Returns
    -------
    Intervals
        (B, R), with B = 1 for scores (n,). Wider at larger radii; infinite out of reach.

    Raises
    ------
    InputError
        If an argument is out of range or a score is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> draws = np.random.default_rng(0).normal(5.0, 1.0, 10_000)
    >>> found = median_intervals(draws, [0.0, 0.25, 1.0], sigma=0.25)
    >>> found.upper[0].round(1).tolist()
    [5.0, 6.1, inf]
    """
    values = np.atleast_2d(np.asarray(scores, np.float64))
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"scores: expected (images, draws), got {np.shape(scores)}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise InputError(
            f"scores: expected finite ones, got NaN or infinity for images {bad.tolist()}"
        )
    check_radii(radii)
    check_sigma(sigma)
    n = values.shape[1]
    padded = np.pad(np.sort(values, axis=1), ((0, 0), (1, 1)))
    padded[:, 0], padded[:, -1] = -np.inf, np.inf
    ranks = [
        median_ranks(n, radius / sigma, alpha=alpha, sides=sides, test_draws=test_draws)
        for radius in radii
    ]
    return Intervals(
        padded[:, [rank.lower for rank in ranks]], padded[:, [rank.upper for rank in ranks]]
    )


@dataclass(frozen=True, kw_only=True)
class Level:
    """How sure bounds are, and of what noise; see `robustad.certificates.certify`."""

    sigma: float
    alpha: float
    sides: Sides
    test_draws: int | None

    def intervals(self, scores: FloatArray, radii: Sequence[float], share: int = 1) -> Intervals:
        """Intervals (1, R) of one image's draws (n,), at a share of the chance to be wrong."""
        return median_intervals(
            scores,
            radii,
            sigma=self.sigma,
            alpha=self.alpha / share,
            sides=self.sides,
            test_draws=self.test_draws,
        )


def reach(n: int, *, alpha: float = 0.001, sides: Sides = "one") -> float:
    """Largest radius, in standard deviations of the noise, at which n draws give finite bounds.

    Parameters
    ----------
    n : int >= 1
        Draws.
    alpha, sides
        As `median_ranks`.

    Returns
    -------
    float
        Below 0 where n draws do not even bound the median of the clean image.

    Raises
    ------
    InputError
        If an argument is out of range.

    Examples
    --------
    >>> [round(reach(n), 2) for n in (100, 1000, 10_000)]
    [1.5, 2.46, 3.2]
    """
    from scipy.special import ndtri

    level = _level(n, alpha, sides)
    # The largest draw bounds the quantile q if q^n <= alpha.
    return float(-ndtri(-math.expm1(math.log(level) / n)))


def draws_needed(shift: float, *, alpha: float = 0.001, sides: Sides = "one") -> int:
    """Fewest draws with finite bounds at a radius, in standard deviations of the noise.

    Raises
    ------
    InputError
        If an argument is out of range.

    Examples
    --------
    >>> draws_needed(0.0), draws_needed(2.0)
    (10, 301)
    """
    from scipy.special import ndtr

    level = _level(1, alpha, sides)
    if not 0.0 <= shift < math.inf:
        raise InputError(f"shift: expected a finite length >= 0, got {shift}")
    tail = float(ndtr(-shift))
    count = math.log(level) / math.log1p(-tail) if tail > 0.0 else math.inf
    if count > 2**53:
        raise InputError(f"shift: no number of draws reaches {shift} standard deviations")
    n = max(1, math.ceil(count))
    while _rank(n, tail, level) < 1:  # the logarithms are rounded
        n += 1
    return n


def median(scores: FloatArray) -> FloatArray:
    """Median (B,) of draws (B, n) as the certificates take it: the one of rank (n + 1) // 2."""
    n = scores.shape[1]
    return np.partition(scores, (n - 1) // 2, axis=1)[:, (n - 1) // 2]


def check_radii(radii: Sequence[float]) -> None:
    """Raise InputError unless there are radii, finite and not negative, each once."""
    if not len(radii):
        raise InputError("radii: expected at least one, got none")
    for radius in radii:
        if not 0.0 <= radius < math.inf:
            raise InputError(f"radii: expected finite l2 radii >= 0, got {radius}")
    if len(set(radii)) < len(radii):
        raise InputError(f"radii: expected each once, got {[*radii]}")


def check_sigma(sigma: float) -> None:
    """Raise InputError unless the noise has a finite standard deviation above 0."""
    if not 0.0 < sigma < math.inf:
        raise InputError(f"sigma: expected a standard deviation > 0 of the noise, got {sigma}")


def _level(n: int, alpha: float, sides: Sides) -> float:
    if n < 1:
        raise InputError(f"n: expected at least one draw, got {n}")
    if not 0.0 < alpha < 1.0:
        raise InputError(f"alpha: expected a chance in (0, 1), got {alpha}")
    if sides not in ("one", "two"):
        raise InputError(f"sides: expected 'one' or 'two', got {sides!r}")
    return alpha / 2 if sides == "two" else alpha


def _rank(n: int, quantile: float, level: float) -> int:
    """Largest k with P(Bin(n, quantile) <= k - 1) <= level; 0 if there is none."""
    from scipy.stats import binom

    rank = int(binom.ppf(level, n, quantile))
    while rank > 0 and binom.cdf(rank - 1, n, quantile) > level:
        rank -= 1
    return rank
