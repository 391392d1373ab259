"""From probability to verdict: one small policy, shared by the detectors and the runtime."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError

FloatArray = npt.NDArray[np.float64]


class Verdict(StrEnum):
    """What to do with a part.

    `ACCEPT` and `REJECT` are confident calls, `DEFER` asks for a person's look (the entropy is
    above the flag), `UNCALIBRATED` says that the score has no meaning yet.
    """

    ACCEPT = "accept"
    REJECT = "reject"
    DEFER = "defer"
    UNCALIBRATED = "uncalibrated"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a calibrated probability becomes a verdict.

    Parameters
    ----------
    threshold : float in (0, 1), default 0.5
        Reject where the probability of an anomaly is at least this.
    entropy_threshold : float in nats in [0, ln 2] or None, default None
        Defer where the predictive entropy exceeds this; None never defers.

    Raises
    ------
    InputError
        If a value lies outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> policy = Policy(entropy_threshold=0.5)
    >>> [str(verdict) for verdict in policy.decide(np.array([0.01, 0.6, 0.99, np.nan]))]
    ['accept', 'defer', 'reject', 'uncalibrated']
    """

    threshold: float = 0.5
    entropy_threshold: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise InputError(f"threshold: expected a probability in (0, 1), got {self.threshold}")
        limit = self.entropy_threshold
        if limit is not None and not 0.0 <= limit <= float(np.log(2)) + 1e-6:
            raise InputError(f"entropy_threshold: expected nats in [0, 0.6931], got {limit}")

    def decide(self, probability: npt.NDArray[Any]) -> list[Verdict]:
        """Verdict for each probability (B,); NaN means uncalibrated."""
        entropy = binary_entropy(probability)
        return [self._one(float(p), float(h)) for p, h in zip(probability, entropy, strict=True)]

    def _one(self, probability: float, entropy: float) -> Verdict:
        if np.isnan(probability):
            return Verdict.UNCALIBRATED
        if self.entropy_threshold is not None and entropy > self.entropy_threshold:
            return Verdict.DEFER
        return Verdict.REJECT if probability >= self.threshold else Verdict.ACCEPT


def binary_entropy(probability: npt.NDArray[Any]) -> FloatArray:
    """Predictive entropy of a Bernoulli variable in nats, in [0, ln 2]; NaN stays NaN.

    Examples
    --------
    >>> import numpy as np
    >>> binary_entropy(np.array([0.0, 0.5, 1.0])).round(4).tolist()
    [0.0, 0.6931, 0.0]
    """
    p = np.asarray(probability, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = -p * np.log(p) - (1.0 - p) * np.log1p(-p)
    return np.where((p == 0.0) | (p == 1.0), 0.0, terms)
