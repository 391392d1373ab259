"""Score thresholds for a stated false alarm or miss rate, with a finite-sample guarantee."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from robustad.conformal._checks import check_confidence, check_held_out, check_rate
from robustad.errors import InputError
from robustad.metrics.ranking import allowed_alarms, next_above

ErrorRate: TypeAlias = Literal["fpr", "fnr"]
TooFew: TypeAlias = Literal["raise", "infinite"]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A score threshold and what is promised of it.

    Attributes
    ----------
    value : float
        An image is called anomalous where its score is at least this. `inf` calls none
        anomalous, `-inf` all: what is left where too few images were held out.
    error : {"fpr", "fnr"}
        The rate that is bounded: normal images called anomalous, or anomalous ones called normal.
    rate : float in (0, 1)
        Its bound.
    confidence : float in (0, 1) or None
        None: the rate holds on average over calibration sets. A number: the rate of this very
        threshold is at most `rate` in that share of all calibration sets.
    n : int
        Held-out images.
    allowed : int
        How many of them may lie on the wrong side; -1 where `value` is infinite.
    """

    value: float
    error: ErrorRate
    rate: float
    confidence: float | None
    n: int
    allowed: int

    @property
    def expected_rate(self) -> float:
        """Error rate on average over calibration sets: exactly this where scores never tie.

        Ties can only lower it.
        """
        return (self.allowed + 1) / (self.n + 1)

    def rate_interval(self, level: float = 0.9) -> tuple[float, float]:
        """Where the error rate of this very threshold lies.

        Parameters
        ----------
        level : float in (0, 1), default 0.9
            Share of calibration sets whose threshold has its rate inside.

        Returns
        -------
        (float, float)
            Central interval of the Beta(`allowed` + 1, `n` - `allowed`) distribution.

        Notes
        -----
        Vovk, "Conditional validity of inductive conformal predictors" (2012). Exact for scores
        that never tie; with ties both ends are too high.
        """
        from scipy.special import betaincinv

        check_rate(level, "level")
        if self.allowed < 0:
            return 0.0, 0.0
        tail = (1.0 - level) / 2.0
        shape = self.allowed + 1, self.n - self.allowed
        return float(betaincinv(*shape, tail)), float(betaincinv(*shape, 1.0 - tail))

    @property
    def guarantee(self) -> str:
        """What is promised, in words."""
        who, what, others = (
            ("normal", "called anomalous", "other normal images")
            if self.error == "fpr"
            else ("anomalous", "missed", "other anomalies of the same kinds")
        )
        if self.allowed < 0:
            all_or_none = "nothing" if self.error == "fpr" else "everything"
            return (
                f"{all_or_none} is called anomalous: {self.n} held-out images are too few to "
                f"promise {100 * self.rate:g}% otherwise"
            )
        at_most = f"at most {100 * self.rate:g}% of {who} images are {what}"
        low, high = self.rate_interval()
        if self.confidence is None:
            return (
                f"{at_most}, on average over {self.n} held-out images drawn like {others}; with "
                f"these {self.n} it may be {100 * low:.1f}% to {100 * high:.1f}%"
            )
        return (
            f"{at_most}, with {100 * self.confidence:g}% confidence in these {self.n} held-out "
            f"images, if they were drawn independently like {others}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All attributes, ready for JSON; an infinite value becomes None."""
        return {**asdict(self), "value": self.value if math.isfinite(self.value) else None}


def threshold_for_fpr(
    normal_scores: npt.ArrayLike,
    fpr: float,
    *,
    confidence: float | None = None,
    if_too_few: TooFew = "raise",
) -> Threshold:
    """Lowest threshold whose false alarm rate on new normal images is bounded.

    Parameters
    ----------
    normal_scores : array-like, (n,)
        Finite scores of held-out normal images: none of them may have been used to fit the
        detector or to choose anything about it.
    fpr : float in (0, 1)
        Bound of the false alarm rate.
    confidence : float in (0, 1), optional
        Without it the rate holds on average over calibration sets. With it, the rate of this very
        threshold is at most `fpr` with this confidence: a higher threshold.
    if_too_few : {"raise", "infinite"}, default "raise"
        What to do where n images cannot promise `fpr` (see `smallest_n`): an error, or the
        threshold `inf`, which calls nothing anomalous and keeps the promise that way.

    Returns
    -------
    Threshold
        Just above the ceil((n + 1)(1 - fpr))-th smallest score. "Just above" is meant in the
        precision of `normal_scores`.

    Raises
    ------
    InputError
        If there is no score, one is not finite, all are the same, a rate lies outside (0, 1), or
        there are too few.

    Notes
    -----
    P(score >= threshold) <= fpr for a new normal image exchangeable with the n: a rank argument,
    whatever the distribution and the detector (Vovk, Gammerman & Shafer 2005; Angelopoulos &
    Bates 2023). The probability is over the n images *and* the new one.
    Given the n images the rate follows a Beta distribution (see `Threshold.rate_interval`); the
    form with confidence takes the order statistic whose Beta quantile is at most `fpr`, which is
    the largest k with P(Binomial(n, fpr) <= k) <= 1 - confidence (Vovk 2012; the tolerance limits
    of Wilks 1941). That one needs independent draws, not only exchangeable ones.
    Both fail under drift and under attack.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.arange(1.0, 21.0)
    >>> found = threshold_for_fpr(scores, 0.1)
    >>> round(found.value, 6), found.allowed, round(found.expected_rate, 4)
    (19.0, 1, 0.0952)
    >>> threshold_for_fpr(scores, 0.3, confidence=0.95).allowed, smallest_n(0.05, 0.95)
    (2, 59)
    """
    values = check_held_out(normal_scores, "normal_scores")
    rate, sure = check_rate(fpr, "fpr"), check_confidence(confidence)
    allowed = required(values.size, rate, sure, if_too_few=if_too_few, name="fpr")
    value = math.inf
    if allowed >= 0:
        value = next_above(float(np.sort(values)[::-1][allowed]), normal_scores)
    return Threshold(
        value=value, error="fpr", rate=rate, confidence=sure, n=values.size, allowed=allowed
    )


def threshold_for_fnr(
    anomalous_scores: npt.ArrayLike,
    fnr: float,
    *,
    confidence: float | None = None,
    if_too_few: TooFew = "raise",
) -> Threshold:
    """Highest threshold whose miss rate on new anomalous images is bounded.

    Parameters
    ----------
    anomalous_scores : array-like, (n,)
        Finite scores of held-out anomalous images.
    fnr : float in (0, 1)
        Bound of the miss rate.
    confidence : float in (0, 1), optional
        As for `threshold_for_fpr`.
    if_too_few : {"raise", "infinite"}, default "raise"
        An error, or the threshold `-inf`, which calls everything anomalous.

    Returns
    -------
    Threshold
        The floor(fnr (n + 1))-th smallest score.

    Raises
    ------
    InputError
        As `threshold_for_fpr`.

    Notes
    -----
    The mirror image of `threshold_for_fpr`, and worth less: it speaks of anomalies drawn like the
    held-out ones. Nobody promises that tomorrow's defects are of today's kinds.

    Examples
    --------
    >>> threshold_for_fnr([0.4, 0.5, 0.6, 0.7], 0.25).value
    0.4
    """
    values = check_held_out(anomalous_scores, "anomalous_scores")
    rate, sure = check_rate(fnr, "fnr"), check_confidence(confidence)
    allowed = required(values.size, rate, sure, if_too_few=if_too_few, name="fnr")
    return Threshold(
        value=-math.inf if allowed < 0 else float(np.sort(values)[allowed]),
        error="fnr",
        rate=rate,
        confidence=sure,
        n=values.size,
        allowed=allowed,
    )


def smallest_n(rate: float, confidence: float | None = None) -> int:
    """Fewest held-out images with which an error rate can be promised at all.

    Parameters
    ----------
    rate : float in (0, 1)
        The rate.
    confidence : float in (0, 1), optional
        As for `threshold_for_fpr`.

    Returns
    -------
    int
        Smallest n with 1 / (n + 1) <= rate, or (1 - rate)^n <= 1 - confidence.

    Raises
    ------
    InputError
        If a number lies outside (0, 1).

    Examples
    --------
    >>> smallest_n(0.05), smallest_n(0.01), smallest_n(0.01, confidence=0.95)
    (19, 99, 299)
    """
    rate, sure = check_rate(rate, "rate"), check_confidence(confidence)
    n = 1.0 / rate - 1.0 if sure is None else math.log(1.0 - sure) / math.log1p(-rate)
    fewest = max(1, math.floor(n) - 1)  # the quotient may be off by rounding
    while allowed_errors(fewest, rate, sure) < 0:
        fewest += 1
    return fewest


def allowed_errors(n: int, rate: float, confidence: float | None = None) -> int:
    """How many of n held-out images a threshold may get wrong to promise a rate.

    -1 if none is too many already. Without confidence floor(rate (n + 1)) - 1, the largest k with
    (k + 1) / (n + 1) <= rate; with it the largest k with P(Binomial(n, rate) <= k) <=
    1 - confidence.
    """
    if confidence is None:
        return allowed_alarms(rate, n + 1) - 1
    from scipy.stats import binom

    doubt = 1.0 - confidence
    k = int(binom.ppf(doubt, n, rate))
    while k >= 0 and binom.cdf(k, n, rate) > doubt:
        k -= 1
    return k


def required(
    n: int,
    rate: float,
    confidence: float | None = None,
    *,
    if_too_few: TooFew = "raise",
    name: str = "rate",
) -> int:
    """`allowed_errors` of checked arguments; where it is -1, an InputError that names the rate."""
    if if_too_few not in ("raise", "infinite"):
        raise InputError(f"if_too_few: expected 'raise' or 'infinite', got {if_too_few!r}")
    allowed = allowed_errors(n, check_rate(rate, name), check_confidence(confidence))
    if allowed < 0 and if_too_few == "raise":
        sure = "" if confidence is None else f" with confidence {confidence:g}"
        raise InputError(
            f"{name}: {rate:g}{sure} cannot be promised from {n} held-out images, it takes at "
            f"least {smallest_n(rate, confidence)}"
        )
    return allowed
