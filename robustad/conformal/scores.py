"""Held-out scores: what a detector's p-values, thresholds and part of its verdicts rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from robustad.conformal._checks import check_held_out
from robustad.conformal.pvalues import p_values
from robustad.conformal.thresholds import (
    Threshold,
    required,
    threshold_for_fnr,
    threshold_for_fpr,
)
from robustad.errors import InputError, StateError
from robustad.metrics._checks import FloatArray, check_fraction
from robustad.metrics.ranking import allowed_alarms, next_above
from robustad.verdict import Evidence, Policy

Method: TypeAlias = Literal["split", "leave_one_out", "cross"]
METHODS: tuple[Method, ...] = get_args(Method)
_KEYS = {"method", "monotone", "normal", "anomalous"}


class ConformalScores:
    """Scores of held-out images that new scores are compared with.

    Parameters
    ----------
    normal : array-like, (n,)
        Finite scores of normal images. Kept as float32, the precision of image scores.
    anomalous : array-like, (m,), optional
        Finite scores of held-out anomalous images, for the anomaly rule of a policy.
    method : {"split", "leave_one_out", "cross"}, default "split"
        How `normal` came about. "split": images that the detector was not fitted on.
        "leave_one_out": images it was fitted on, each scored by a detector fitted on the others.
        "cross": the same with whole folds left out.
    monotone : bool, default False
        That one more image to fit on never raises any score of the detector (true of a plain
        nearest-neighbour bank; neither with whitening nor with a coreset). Only for the last two
        methods.

    Attributes
    ----------
    normal, anomalous : array, float32, ascending; `anomalous` may be None
        The scores.
    method, monotone
        As given.

    Raises
    ------
    InputError
        If there is no score, one is not finite, all are the same, or an option is out of range.

    Notes
    -----
    What `p_values` promise of a normal image that is exchangeable with those behind `normal`, for
    every alpha:

    - split: P(p <= alpha) <= alpha (see `robustad.conformal.p_values`).
    - leave_one_out and cross of a monotone detector: P(p <= alpha) <= alpha. Let T_i be the score
      of image i by a detector fitted on all other n of the n images and the new one. T_1..T_n and
      the new image's own score T are exchangeable, so that the rank of T among them is valid. Each
      held-out score S_i comes from a detector fitted on fewer images, so S_i >= T_i, and comparing
      T with S_i in place of T_i can only raise the p-value.
    - leave_one_out and cross of any other detector: nothing in general; approximately alpha where
      one image more or less hardly changes the detector (Barber et al., "Predictive inference
      with the jackknife+", Annals of Statistics 2021, section 4). `JackknifePlus` promises 2 alpha.

    One image to fit on (one shot) leaves none to hold out: no method can promise anything then.

    Examples
    --------
    >>> held_out = ConformalScores([0.11, 0.14, 0.12, 0.17])
    >>> held_out.p_values([0.10, 0.15, 0.20]).tolist()
    [1.0, 0.4, 0.2]
    >>> held_out.smallest_p
    0.2
    """

    def __init__(
        self,
        normal: npt.ArrayLike,
        *,
        anomalous: npt.ArrayLike | None = None,
        method: Method = "split",
        monotone: bool = False,
    ) -> None:
        if method not in METHODS:
            raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        if monotone and method == "split":
            raise InputError("monotone: expected False with method 'split', which needs it not")
        self.method: Method = method
        self.monotone = bool(monotone)
        self.normal = _kept(normal, "normal")
        self.anomalous = None if anomalous is None else _kept(anomalous, "anomalous")

    def __len__(self) -> int:
        return self.normal.size

    def __repr__(self) -> str:
        anomalous = "" if self.anomalous is None else f", {self.anomalous.size} anomalous"
        return f"ConformalScores({self.normal.size} normal{anomalous}, {self.method})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConformalScores) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    @property
    def smallest_p(self) -> float:
        """Smallest p-value there can be, 1 / (n + 1)."""
        return 1.0 / (self.normal.size + 1.0)

    @property
    def guarantee(self) -> str:
        """What the p-values promise, in words."""
        if self.method == "split" or self.monotone:
            return (
                "a normal image like the held-out ones has a p-value of at most alpha with a "
                "chance of at most alpha, on average over held-out sets"
            )
        return (
            "nothing for certain: the detector was fitted on these images and one image more may "
            "raise its scores; jackknife+ p-values promise 2 alpha"
        )

    def p_values(
        self, scores: npt.ArrayLike, *, smoothed: bool = False, seed: int | None = None
    ) -> FloatArray:
        """Chance of a normal image to score at least as high; see `robustad.conformal.p_values`."""
        return p_values(_float32(scores), self.normal, smoothed=smoothed, seed=seed)

    def low_p_values(self, scores: npt.ArrayLike) -> FloatArray:
        """Chance of a normal image to score at most as high: (1 + #{S_i <= S}) / (n + 1)."""
        return p_values(-_float32(scores), -self.normal)

    def anomaly_p_values(self, scores: npt.ArrayLike) -> FloatArray:
        """Chance of an anomaly to score at most as high; NaN without held-out anomalies."""
        values = _float32(scores)
        if self.anomalous is None:
            return np.full(values.shape, np.nan)
        return p_values(-values, -self.anomalous)

    def score_at(self, p_value: float) -> float:
        """Lowest score (a float32) whose p-value is at most `p_value` in [0, 1]; inf if none is."""
        rank = allowed_alarms(check_fraction(p_value, "p_value"), self.normal.size + 1)
        if rank < 1:
            return float("inf")
        if rank > self.normal.size:
            return float("-inf")
        return next_above(float(self.normal[-rank]), self.normal)

    def threshold_for_fpr(self, fpr: float, *, confidence: float | None = None) -> Threshold:
        """Score threshold for a false alarm rate; see `robustad.conformal.threshold_for_fpr`.

        Raises
        ------
        InputError
            As there, or if `confidence` is asked for and the scores are not of method "split":
            leave-one-out scores depend on each other.
        """
        if confidence is not None and self.method != "split":
            raise InputError(
                "confidence: expected None, as scores of images that the detector was fitted on "
                f"(method {self.method!r}) depend on each other; hold out normal images for it"
            )
        return threshold_for_fpr(self.normal, fpr, confidence=confidence)

    def threshold_for_fnr(self, fnr: float, *, confidence: float | None = None) -> Threshold:
        """Score threshold for a miss rate; see `robustad.conformal.threshold_for_fnr`.

        Raises
        ------
        InputError
            As there, or if no anomalies were held out.
        """
        if self.anomalous is None:
            raise InputError("fnr: needs scores of held-out anomalous images, there are none")
        return threshold_for_fnr(self.anomalous, fnr, confidence=confidence)

    def policy(
        self,
        policy: Policy | None = None,
        *,
        fpr: float | None = 0.05,
        confidence: float | None = None,
        defer: float | None = None,
        suspicion: float | None = None,
        fnr: float | None = None,
    ) -> Policy:
        """Put error rates into a policy.

        Parameters
        ----------
        policy : Policy, optional
            To start from; the p-value parts not asked for are unset.
        fpr : float in (0, 1) or None, default 0.05
            Share of normal parts that may be rejected.
        confidence : float in (0, 1), optional
            That this very set of scores keeps `fpr` and `fnr`, see `threshold_for_fpr`.
        defer : float in (0, 1), optional
            Share of normal parts that may be rejected or deferred for their p-value; above `fpr`.
        suspicion : float in (0, 1), optional
            Share of normal parts that may be deferred for a score that is too low.
        fnr : float in (0, 1), optional
            Share of anomalous parts that may be accepted; needs held-out anomalies.

        Returns
        -------
        Policy
            With the p-value thresholds (allowed + 1) / (n + 1) that are equivalent to the score
            thresholds.

        Raises
        ------
        InputError
            If a rate is out of range or cannot be promised from so few images.
        """
        parts = (policy or Policy()).to_dict()
        for name in (
            "p_value_threshold", "p_value_defer", "anomaly_threshold", "suspicion_threshold"
        ):  # fmt: skip
            parts.pop(name, None)
        n = self.normal.size
        if fpr is not None:
            found = self.threshold_for_fpr(fpr, confidence=confidence)
            parts["p_value_threshold"] = found.expected_rate
        if defer is not None:
            limit = (required(n, defer, name="defer") + 1) / (n + 1)
            parts["p_value_defer"] = limit
            if limit <= (parts.get("p_value_threshold") or 1.0):
                raise InputError(f"defer: expected more than fpr ({fpr}), got {defer}")
        if suspicion is not None:
            parts["suspicion_threshold"] = (required(n, suspicion, name="suspicion") + 1) / (n + 1)
        if fnr is not None:
            found = self.threshold_for_fnr(fnr, confidence=confidence)
            parts["anomaly_threshold"] = found.expected_rate
        return Policy.from_dict(parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; numbers are the shortest that give the same float32."""
        return {
            "method": self.method,
            "monotone": self.monotone,
            "normal": _shortest(self.normal),
            "anomalous": None if self.anomalous is None else _shortest(self.anomalous),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave.

        Raises
        ------
        StateError
            If a key is missing or unknown, or a value is not what is expected.
        """
        if not isinstance(state, Mapping) or set(state) != _KEYS:
            found = ", ".join(map(str, state)) if isinstance(state, Mapping) else repr(state)
            raise StateError(f"conformal: expected {', '.join(sorted(_KEYS))}, got {found}")
        try:
            return cls(
                state["normal"],
                anomalous=state["anomalous"],
                method=state["method"],
                monotone=state["monotone"],
            )
        except InputError as error:
            raise StateError(f"conformal: {error}") from error


def evidence(
    score: npt.ArrayLike, probability: FloatArray, conformal: ConformalScores | None
) -> Evidence:
    """Gather what is known of image scores (B,) and their probabilities (B,)."""
    if conformal is None:
        return Evidence(probability=probability)
    return Evidence(
        probability=probability,
        p_value=conformal.p_values(score),
        low_p_value=conformal.low_p_values(score),
        anomaly_p_value=conformal.anomaly_p_values(score),
    )


def _kept(scores: npt.ArrayLike, name: str) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        kept = check_held_out(scores, name).astype(np.float32)
    return np.sort(check_held_out(kept, name).astype(np.float32))


def _float32(scores: npt.ArrayLike) -> npt.NDArray[np.float32]:
    return np.asarray(scores).astype(np.float32)


def _shortest(values: npt.NDArray[np.float32]) -> list[float]:
    return [float(str(value)) for value in values]
