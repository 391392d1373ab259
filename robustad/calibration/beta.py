"""Beta calibration: a curve of three numbers for scores in a bounded range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from robustad.calibration._labelled import Labelled
from robustad.calibration._logistic import fit_logistic
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.calibration.state import CalibratorState
from robustad.errors import InputError
from robustad.metrics._checks import FloatArray, check_fraction
from robustad.probability import beta_features, logit

NonNegative = Annotated[FiniteFloat, Field(ge=0.0)]
HALVINGS = 200  # of an interval of float64, until it has no inside


class BetaState(CalibratorState):
    """A fitted beta calibration as it is saved."""

    method: Literal["beta"] = "beta"
    a: NonNegative = Field(description="Weight of ln u, u the score's place in its range.")
    b: NonNegative = Field(description="Weight of -ln(1 - u).")
    c: FiniteFloat = Field(description="Log odds added.")
    low: FiniteFloat | None = Field(description="Lower end of the range; null for logits.")
    high: FiniteFloat | None = Field(description="Upper end of the range; null for logits.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high: expected both or neither")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low: expected less than high")
        return self


class Beta(ScoreCalibrator[BetaState]):
    """P(anomaly | u) = sigmoid(a ln u - b ln(1 - u) + c) with a, b >= 0.

    Parameters
    ----------
    score_range : (float, float) or None, default (0, 1)
        Ends of the range that scores can have; u is a score's place in it, from 0 to 1. Cosine
        distances as AnomalyDINO's lie in (0, 2). None takes the scores for logits, u being their
        sigmoid.

    Attributes
    ----------
    a, b, c : float
        Of the curve.
    score_range : (float, float) or None
        As given.
    n_normal, n_anomalous, prevalence, before, after, band
        See `ScoreCalibrator`.

    Raises
    ------
    InputError
        If the range is no range; by `fit` also if a score lies outside it.
    NotFittedError
        By the attributes before `fit`.

    Warns
    -----
    UserWarning
        By `fit` if a = b = 0: higher scores do not go with anomalies.

    Notes
    -----
    Kull, Silva Filho and Flach, "Beta calibration" (AISTATS 2017): the curve that is right where
    the scores of each class follow a beta distribution. a = b = 1, c = 0 leaves probabilities as
    they are. The fit is the most likely one under a, b >= 0; as in `Platt`, targets are smoothed,
    which keeps it finite. u nearer than 1e-6 to an end counts as 1e-6 away from it, so a score
    beyond the range is one at its end.

    Examples
    --------
    >>> distances = [0.10, 0.12, 0.20, 0.15, 0.30, 0.35]
    >>> curve = Beta(score_range=(0.0, 2.0)).fit(distances, [0, 0, 0, 1, 1, 1])
    >>> curve.predict_proba([0.10, 0.20, 0.30]).round(2).tolist()
    [0.25, 0.52, 0.73]
    """

    method: ClassVar[str] = "beta"
    _kind: ClassVar[type[CalibratorState]] = BetaState

    def __init__(self, *, score_range: tuple[float, float] | None = (0.0, 1.0)) -> None:
        super().__init__()
        if score_range is not None:
            low, high = map(float, score_range)
            if not (np.isfinite([low, high]).all() and low < high):
                raise InputError(
                    f"score_range: expected two finite numbers, the lower one first, or None for "
                    f"logits, got {score_range}"
                )
            score_range = (low, high)
        self.score_range = score_range

    def unfitted(self) -> Self:
        """Give a new one with the same range and without a fit."""
        return type(self)(score_range=self.score_range)

    def score_at(self, probability: float) -> float:
        """Smallest score with at least this probability; see `ScoreCalibrator.score_at`."""
        state = self._fitted()
        wanted = logit(check_fraction(probability, "probability", low=False, high=False))
        if self.score_range is None:
            low = high = 0.0
            while self._log_odds(state, high) < wanted:
                high = 2.0 * high + 1.0
                if high > 1e300:
                    return float("inf")
            while self._log_odds(state, low) >= wanted:
                low = 2.0 * low - 1.0
                if low < -1e300:
                    return float("-inf")
        else:
            low, high = self.score_range
            if self._log_odds(state, low) >= wanted:
                return float("-inf")
            if self._log_odds(state, high) < wanted:
                return float("inf")
        for _ in range(HALVINGS):
            middle = low / 2 + high / 2
            if not low < middle < high:
                break
            if self._log_odds(state, middle) >= wanted:
                high = middle
            else:
                low = middle
        return high

    @property
    def a(self) -> float:
        """Weight of ln u."""
        return self._fitted().a

    @property
    def b(self) -> float:
        """Weight of -ln(1 - u)."""
        return self._fitted().b

    @property
    def c(self) -> float:
        """Log odds added."""
        return self._fitted().c

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore from what `to_dict` gave, the range included."""
        return super().from_dict(state)._with_range()

    def _with_range(self) -> Self:
        low, high = self._fitted().low, self._fitted().high
        self.score_range = None if low is None or high is None else (low, high)
        return self

    def _changed(self, **changes: Any) -> Self:
        return super()._changed(**changes)._with_range()

    @staticmethod
    def _log_odds(state: BetaState, score: float) -> float:
        log_u, log_v = beta_features(np.array([score]), low=state.low, high=state.high)
        return float((state.a * log_u - state.b * log_v)[0]) + state.c

    def _parameters(self, labelled: Labelled) -> dict[str, Any]:
        low, high = self.score_range if self.score_range is not None else (None, None)
        scores = labelled.scores
        if low is not None and high is not None:
            outside = np.flatnonzero((scores < low) | (scores > high))
            if outside.size:
                raise InputError(
                    f"scores: expected numbers in [{low:g}, {high:g}], got "
                    f"{scores[outside[0]]:g} ({outside.size} of {scores.size} are outside); give "
                    "Beta the score_range of this detector, None for logits"
                )
        log_u, log_v = beta_features(scores, low=low, high=high)
        a, b, c = _constrained(log_u, -log_v, labelled)
        return {"a": a, "b": b, "c": c, "low": low, "high": high}

    @staticmethod
    def _moved(state: BetaState, shift: float) -> dict[str, Any]:
        return {"c": state.c + shift}

    def _doubts(self, labelled: Labelled) -> list[str]:
        if self.a or self.b:
            return []
        return [
            "Beta: a and b are 0, every score has the same probability: in the calibration set "
            "higher scores do not go with anomalies; check labels and detector"
        ]

    def __repr__(self) -> str:
        if self._state is None:
            return f"Beta(score_range={self.score_range})"
        return f"Beta(a={self.a:.6g}, b={self.b:.6g}, c={self.c:.6g})"


def _constrained(
    first: FloatArray, second: FloatArray, labelled: Labelled
) -> tuple[float, float, float]:
    """Most likely a, b >= 0 and c of sigmoid(a first + b second + c).

    The likelihood is concave, so its best point under the bounds is the free one if that is
    inside, else the better of the best points on the two edges.
    """
    both = _fit((first, second), labelled)
    if both is not None and min(both[1:3]) >= 0.0:
        return both[1], both[2], both[3]
    edges = []
    for place, feature in enumerate((first, second)):
        found = _fit((feature,), labelled)
        if found is not None and found[1] >= 0.0:
            edges.append((found[0], (found[1], 0.0)[:: 1 - 2 * place], found[2]))
    if edges:
        _, (a, b), c = min(edges)
        return a, b, c
    return 0.0, 0.0, logit(float(np.average(labelled.targets(), weights=labelled.weight)))


def _fit(features: tuple[FloatArray, ...], labelled: Labelled) -> tuple[float, ...] | None:
    """Loss, weights of the features and constant; None if a feature is constant."""
    weight = labelled.weight
    means = [float(np.average(one, weights=weight)) for one in features]
    spreads = [
        float(np.sqrt(np.average(np.square(one - mean), weights=weight)))
        for one, mean in zip(features, means, strict=True)
    ]
    if min(spreads) == 0.0 or not np.isfinite(spreads).all():
        return None
    rows = [(one - m) / s for one, m, s in zip(features, means, spreads, strict=True)]
    design, target = np.stack([*rows, np.ones_like(rows[0])]), labelled.targets()
    *scaled, constant = fit_logistic(design, target, weight)
    raw = [float(k / s) for k, s in zip(scaled, spreads, strict=True)]
    logits = np.array([*scaled, constant]) @ design
    each = np.logaddexp(0.0, logits) - target * logits
    offset = float(constant) - sum(k * m for k, m in zip(raw, means, strict=True))
    return (float(np.average(each, weights=weight)), *raw, offset)
