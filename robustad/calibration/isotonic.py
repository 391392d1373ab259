"""Isotonic regression: the best rising curve, whatever its form."""

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from robustad.calibration._labelled import Labelled
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.calibration.state import CalibratorState, Probability
from robustad.metrics._checks import FloatArray, check_fraction
from robustad.probability import logit, sigmoid

# Below so many images the steps follow the noise of the calibration set.
ENOUGH = 1000


class IsotonicState(CalibratorState):
    """A fitted isotonic regression as it is saved."""

    method: Literal["isotonic"] = "isotonic"
    knots: Annotated[list[FiniteFloat], Field(min_length=2)] = Field(
        description="Rising scores; straight lines between them, level outside."
    )
    values: list[Probability] = Field(description="Probability at each knot, before the shift.")
    shift: FiniteFloat = Field(default=0.0, description="Log odds added for a stated defect rate.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.knots) != len(self.values):
            raise ValueError("knots and values: expected equal lengths")
        if not (np.diff(self.knots) > 0).all():
            raise ValueError("knots: expected rising numbers")
        if not (np.diff(self.values) >= 0).all():
            raise ValueError("values: expected probabilities that do not fall")
        return self


class Isotonic(ScoreCalibrator[IsotonicState]):
    """The rising curve of least squared error, by pool adjacent violators.

    Attributes
    ----------
    knots : array, (k,), float64
        Scores at which the curve bends, k >= 2.
    values : array, (k,), float64 in [0, 1]
        Its values there: straight lines between, level outside.
    shift : float
        Log odds added by `with_prior`, else 0.
    n_normal, n_anomalous, prevalence, before, after, band
        See `ScoreCalibrator`.

    Raises
    ------
    NotFittedError
        By all of them before `fit`.

    Warns
    -----
    UserWarning
        By `fit` with fewer than 1000 images, or if the curve is level: higher scores do not go
        with anomalies.

    Notes
    -----
    Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates" (KDD 2002); the values are those of scikit-learn's IsotonicRegression. The curve
    assumes nothing but that it rises, and pays for it: it takes about a thousand images before it
    beats a curve of two numbers, it says exactly 0 and exactly 1 beyond the scores it has seen,
    where one surprise makes the log-likelihood as bad as it gets, and whole ranges of scores share
    one probability, so that ranks within them are lost.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # six images are too few
    ...     curve = Isotonic().fit([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0, 0, 1, 0, 1, 1])
    >>> curve.knots.tolist(), curve.values.tolist()
    ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    >>> curve.predict_proba([0.0, 0.25, 0.9]).tolist()
    [0.0, 0.25, 1.0]
    """

    method: ClassVar[str] = "isotonic"
    _kind: ClassVar[type[CalibratorState]] = IsotonicState

    def score_at(self, probability: float) -> float:
        """Smallest score with at least this probability; see `ScoreCalibrator.score_at`."""
        state = self._fitted()
        wanted = logit(check_fraction(probability, "probability", low=False, high=False))
        p = float(sigmoid(np.array([wanted - state.shift]))[0])
        knots, values = self.knots, self.values
        place = int(np.searchsorted(values, p))
        if place in (0, values.size):
            return float("inf") if place else float("-inf")
        share = (p - values[place - 1]) / (values[place] - values[place - 1])
        return float(knots[place - 1] + share * (knots[place] - knots[place - 1]))

    @property
    def knots(self) -> FloatArray:
        """Scores at which the curve bends."""
        return np.asarray(self._fitted().knots)

    @property
    def values(self) -> FloatArray:
        """Values of the curve at its knots."""
        return np.asarray(self._fitted().values)

    @property
    def shift(self) -> float:
        """Log odds added for a stated defect rate."""
        return self._fitted().shift

    def _parameters(self, labelled: Labelled) -> dict[str, Any]:
        from sklearn.isotonic import isotonic_regression

        # Equal scores share one value: the mean of their labels.
        order = np.argsort(labelled.scores)
        scores = labelled.scores[order]
        first = np.flatnonzero(np.append(True, scores[1:] > scores[:-1]))
        weight = np.ones(scores.size) if labelled.weight is None else labelled.weight[order]
        positive = np.add.reduceat(weight * labelled.truth[order], first)
        total = np.add.reduceat(weight, first)
        values = isotonic_regression(
            positive / total, sample_weight=total, y_min=0.0, y_max=1.0, increasing=True
        )
        # Inside a level stretch nothing bends.
        same = np.append(False, values[1:] == values[:-1])
        bends = ~(same & np.append(same[1:], False))
        bends[[0, -1]] = True
        return {"knots": scores[first][bends].tolist(), "values": values[bends].tolist()}

    @staticmethod
    def _moved(state: IsotonicState, shift: float) -> dict[str, Any]:
        return {"shift": state.shift + shift}

    def _doubts(self, labelled: Labelled) -> list[str]:
        size, values = labelled.truth.size, self._fitted().values
        if values[0] == values[-1]:
            return [
                f"Isotonic: every score has the probability {values[0]:g}: in the calibration set "
                "higher scores do not go with anomalies; check labels and detector"
            ]
        if size < ENOUGH:
            return [
                f"Isotonic: {size} images are few, below about {ENOUGH} its steps follow chance; "
                "platt needs far fewer"
            ]
        return []

    def __repr__(self) -> str:
        if self._state is None:
            return "Isotonic()"
        return f"Isotonic({len(self._state.knots)} knots, shift={self.shift:.6g})"
