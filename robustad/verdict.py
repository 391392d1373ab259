"""From evidence to verdict: one small policy, shared by the detectors and the runtime."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
NOT_KNOWN: Any = None  # becomes an array of NaN


class Verdict(StrEnum):
    """What to do with a part.

    `ACCEPT` and `REJECT` are confident calls, `DEFER` asks for a person's look, `UNCALIBRATED`
    says that the score has no meaning yet.
    """

    ACCEPT = "accept"
    REJECT = "reject"
    DEFER = "defer"
    UNCALIBRATED = "uncalibrated"


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What is known of B images; NaN, or None for all of them, where something is not known.

    Attributes
    ----------
    probability : array, (B,), in [0, 1]
        Calibrated probability of an anomaly.
    p_value : array, (B,), in [0, 1]
        Chance of a normal image to score at least as high.
    low_p_value : array, (B,), in [0, 1]
        Chance of a normal image to score at most as high: small where an image is too normal.
    anomaly_p_value : array, (B,), in [0, 1]
        Chance of an anomalous image to score at most as high.

    Raises
    ------
    InputError
        If all are None, or their shapes differ.
    """

    probability: npt.NDArray[Any] = NOT_KNOWN
    p_value: npt.NDArray[Any] = NOT_KNOWN
    low_p_value: npt.NDArray[Any] = NOT_KNOWN
    anomaly_p_value: npt.NDArray[Any] = NOT_KNOWN

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        known = {name: np.asarray(value, np.float64) for name, value in given.items()
                 if value is not None}  # fmt: skip
        shapes = {value.shape for value in known.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            found = ", ".join(f"{name} {value.shape}" for name, value in known.items()) or "none"
            raise InputError(f"evidence: expected arrays of one shape (B,), got {found}")
        for name in given:
            value = known.get(name, np.full(next(iter(shapes)), np.nan))
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.probability)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How evidence becomes a verdict.

    Parameters
    ----------
    threshold : float in (0, 1), default 0.5
        The probability rule: reject where the probability is at least this, else accept.
    entropy_threshold : float in nats in [0, ln 2] or None, default None
        The entropy flag: defer where the predictive entropy exceeds this.
    p_value_threshold : float in [0, 1) or None, default None
        The p-value rule: reject where the conformal p-value is at most this, else accept. Bounds
        the share of normal parts rejected, see `robustad.conformal`; 0 rejects none.
    p_value_defer : float in (0, 1) or None, default None
        Defer where the p-value is above `p_value_threshold`, but at most this. Bounds the share
        of normal parts that are not accepted, as far as this rule goes.
    anomaly_threshold : float in [0, 1) or None, default None
        The anomaly rule: accept where the p-value as an anomaly is at most this, else reject.
        Bounds the share of anomalies accepted; 0 accepts none.
    suspicion_threshold : float in (0, 1) or None, default None
        Defer where the low p-value is at most this: the score is lower than normal images have
        it, as after an attack that hides a defect. Bounds the share of normal parts deferred so.

    Raises
    ------
    InputError
        If a value lies outside its range, `p_value_defer` is not above `p_value_threshold`, or is
        given without it.

    Notes
    -----
    Three *rules* say accept or reject. The probability rule is in force where the probability is
    known; the p-value rule and the anomaly rule are where their thresholds are set. The first
    line of this table that applies decides:

    ============  ================================================================================
    verdict       where
    ============  ================================================================================
    uncalibrated  no rule is in force, or a part that is set lacks its number (it is NaN)
    defer         the entropy exceeds `entropy_threshold`
    defer         the low p-value is at most `suspicion_threshold`
    defer         the p-value lies between `p_value_threshold` and `p_value_defer`
    defer         two rules in force contradict each other
    defer         a certified interval straddles a rule's threshold, or its certificate abstained
    reject        every rule in force says reject
    accept        every rule in force says accept
    ============  ================================================================================

    So nothing is accepted that a rule rejects, nor rejected that a rule accepts; deferring never
    breaks a promise about either. Setting one more part can only turn a verdict into `defer` (or
    `uncalibrated`), never accept into reject, nor the other way round, where another rule was in
    force before.

    Examples
    --------
    >>> import numpy as np
    >>> policy = Policy(entropy_threshold=0.5)
    >>> [str(verdict) for verdict in policy.decide(np.array([0.01, 0.6, 0.99, np.nan]))]
    ['accept', 'defer', 'reject', 'uncalibrated']
    >>> normal_only = Policy(p_value_threshold=0.05, p_value_defer=0.2)
    >>> found = normal_only.decide(Evidence(p_value=np.array([0.6, 0.15, 0.02])))
    >>> [str(verdict) for verdict in found]
    ['accept', 'defer', 'reject']
    >>> found = Policy().decide(np.array([0.3, 0.3]), interval=np.array([[0.1, 0.4], [0.2, 0.7]]))
    >>> [str(verdict) for verdict in found]
    ['accept', 'defer']
    """

    threshold: float = 0.5
    entropy_threshold: float | None = None
    p_value_threshold: float | None = None
    p_value_defer: float | None = None
    anomaly_threshold: float | None = None
    suspicion_threshold: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise InputError(f"threshold: expected a probability in (0, 1), got {self.threshold}")
        limit = self.entropy_threshold
        if limit is not None and not 0.0 <= limit <= float(np.log(2)) + 1e-6:
            raise InputError(f"entropy_threshold: expected nats in [0, 0.6931], got {limit}")
        for name in ("p_value_threshold", "anomaly_threshold"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise InputError(f"{name}: expected a share in [0, 1), got {value}")
        for name in ("p_value_defer", "suspicion_threshold"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < 1.0:
                raise InputError(f"{name}: expected a share in (0, 1), got {value}")
        if self.p_value_defer is not None and (
            self.p_value_threshold is None or self.p_value_defer <= self.p_value_threshold
        ):
            raise InputError(
                "p_value_defer: expected more than p_value_threshold "
                f"({self.p_value_threshold}), got {self.p_value_defer}"
            )

    def decide(
        self,
        evidence: Evidence | npt.NDArray[Any],
        *,
        interval: tuple[Evidence, Evidence] | npt.NDArray[Any] | None = None,
    ) -> list[Verdict]:
        """Verdict for each image.

        Parameters
        ----------
        evidence : Evidence or array, (B,)
            What is known; an array is taken for the probabilities.
        interval : (Evidence, Evidence) or array, (B, 2), optional
            The evidence at the low and the high end of each image's certified score interval; an
            array is taken for probabilities. NaN stands for a certificate that abstained, and a
            rule in force that the interval says nothing of defers.

        Returns
        -------
        list of Verdict
            By the table of `Policy`.

        Raises
        ------
        InputError
            If the shapes do not fit, or an interval of probabilities has its ends interchanged.
        """
        known = evidence if isinstance(evidence, Evidence) else Evidence(probability=evidence)
        rules = self._rules(known)
        in_force = np.array([force for force, _ in rules])  # (3, B)
        rejects = np.array([says for _, says in rules])
        defer = self._flagged(known)
        defer |= (in_force & rejects).any(axis=0) & (in_force & ~rejects).any(axis=0)
        for end in () if interval is None else _ends(interval, len(known)):
            there = self._rules(end)
            differs = np.array(
                [~f | (says != r) for (f, says), r in zip(there, rejects, strict=True)]
            )
            defer |= (in_force & differs).any(axis=0)
        unknown = ~in_force.any(axis=0) | self._lacking(known)
        reject = (in_force & rejects).any(axis=0)
        return [
            Verdict.UNCALIBRATED if u else Verdict.DEFER if d else (
                Verdict.REJECT if r else Verdict.ACCEPT
            )
            for u, d, r in zip(unknown, defer, reject, strict=True)
        ]  # fmt: skip

    def to_dict(self) -> dict[str, float | None]:
        """Ready for JSON, without the parts that are not set and that older versions lack."""
        old = ("threshold", "entropy_threshold")
        return {k: v for k, v in asdict(self).items() if v is not None or k in old}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave, of this version or an older one.

        Raises
        ------
        InputError
            If a key is unknown, or a value is no number or out of range.
        """
        names = [one.name for one in fields(cls)]
        for name, value in state.items():
            if name not in names:
                raise InputError(f"policy: expected {', '.join(names)}, got {name!r}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number and (value is not None or name == "threshold"):
                raise InputError(f"policy: {name}: expected a number, got {value!r}")
        return cls(**state)

    def _rules(self, known: Evidence) -> list[tuple[BoolArray, BoolArray]]:
        """For each rule, where it is in force and where it says reject."""
        off = np.zeros(len(known), bool)
        p_value, anomaly = known.p_value, known.anomaly_p_value
        at, anomaly_at = self.p_value_threshold, self.anomaly_threshold
        return [
            (~np.isnan(known.probability), known.probability >= self.threshold),
            (off, off) if at is None else (~np.isnan(p_value), p_value <= at),
            (off, off) if anomaly_at is None else (~np.isnan(anomaly), anomaly > anomaly_at),
        ]

    def _flagged(self, known: Evidence) -> BoolArray:
        """Where something other than a rule or an interval asks for a person."""
        defer = np.zeros(len(known), bool)
        if self.entropy_threshold is not None:
            defer |= binary_entropy(known.probability) > self.entropy_threshold
        if self.suspicion_threshold is not None:
            defer |= known.low_p_value <= self.suspicion_threshold
        if self.p_value_defer is not None and self.p_value_threshold is not None:
            p_value = known.p_value
            defer |= (p_value > self.p_value_threshold) & (p_value <= self.p_value_defer)
        return defer

    def _lacking(self, known: Evidence) -> BoolArray:
        """Where a part that is set has no number to look at."""
        lacking = np.zeros(len(known), bool)
        for setting, value in (
            (self.entropy_threshold, known.probability),
            (self.p_value_threshold, known.p_value),
            (self.anomaly_threshold, known.anomaly_p_value),
            (self.suspicion_threshold, known.low_p_value),
        ):
            if setting is not None:
                lacking |= np.isnan(value)
        return lacking


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


def _ends(
    interval: tuple[Evidence, Evidence] | npt.NDArray[Any], count: int
) -> tuple[Evidence, Evidence]:
    """The evidence at both ends of an interval."""
    if not isinstance(interval, tuple):
        ends = np.asarray(interval, np.float64)
        if ends.shape != (count, 2):
            raise InputError(f"interval: expected shape ({count}, 2), got {ends.shape}")
        if (ends[:, 0] > ends[:, 1]).any():
            row = int(np.argmax(ends[:, 0] > ends[:, 1]))
            raise InputError(f"interval: expected low <= high, got {ends[row].tolist()}")
        interval = Evidence(probability=ends[:, 0]), Evidence(probability=ends[:, 1])
    low, high = interval
    if len(low) != count or len(high) != count:
        raise InputError(f"interval: expected {count} images, got {len(low)} and {len(high)}")
    return low, high
