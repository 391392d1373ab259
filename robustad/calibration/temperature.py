"""Temperature scaling: logits made less or more certain."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, FiniteFloat

from robustad.calibration._labelled import Labelled, too_close
from robustad.calibration._logistic import fit_logistic
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.calibration.state import CalibratorState
from robustad.errors import InputError
from robustad.metrics._checks import check_fraction
from robustad.probability import logit


class TemperatureState(CalibratorState):
    """A fitted temperature scaling as it is saved."""

    method: Literal["temperature"] = "temperature"
    temperature: Annotated[FiniteFloat, Field(gt=0.0, description="T of sigmoid(z / T + shift).")]
    shift: FiniteFloat = Field(default=0.0, description="Log odds added for a stated defect rate.")


class Temperature(ScoreCalibrator[TemperatureState]):
    """P(anomaly | logit z) = sigmoid(z / T): for scores that are logits, as PatchGuard's.

    Attributes
    ----------
    temperature : float > 0
        T; above 1 the logits were too certain.
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
        By `fit` if all scores lie on one side of 0.

    Notes
    -----
    Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), for two classes. One number
    is all that is fitted, so the logit 0 stays probability 0.5. That is right for logits whose zero
    a training has put between the classes, and wrong for distances: a distance of 0 means the most
    normal image there is, and no temperature moves the boundary to where distances part. Those
    need a second number, which is `Platt`. Where no finite temperature fits (higher scores do not
    go with anomalies, or most distances are those of normal images), `fit` is an InputError.

    Targets are smoothed as in `Platt`: hard ones would drive T to 0 on a calibration set that 0
    separates without error, as small sets often are.

    Examples
    --------
    >>> z = [-6.0, -2.0, 1.0, -1.0, 3.0, 8.0]
    >>> scaling = Temperature().fit(z, [0, 0, 0, 1, 1, 1])
    >>> scaling.predict_proba([-2.0, 0.0, 2.0]).round(2).tolist()
    [0.4, 0.5, 0.6]
    """

    method: ClassVar[str] = "temperature"
    _kind: ClassVar[type[CalibratorState]] = TemperatureState

    def score_at(self, probability: float) -> float:
        """Logit that has this probability; see `ScoreCalibrator.score_at`."""
        state = self._fitted()
        wanted = logit(check_fraction(probability, "probability", low=False, high=False))
        return (wanted - state.shift) * state.temperature

    @property
    def temperature(self) -> float:
        """T of the curve."""
        return self._fitted().temperature

    @property
    def shift(self) -> float:
        """Log odds added for a stated defect rate."""
        return self._fitted().shift

    def _parameters(self, labelled: Labelled) -> dict[str, Any]:
        # Through the largest, as squares of huge logits are no float64.
        largest = float(np.abs(labelled.scores).max())
        z = labelled.scores / largest
        size = float(np.sqrt(np.average(np.square(z), weights=labelled.weight)))
        [inverse] = fit_logistic((z / size)[None], labelled.targets(), labelled.weight)
        if not inverse > 1e-9:
            raise InputError(
                "scores: no finite temperature fits: expected logits, above 0 for most anomalies "
                "and below 0 for most normal images; distances have no such zero and need platt"
            )
        with np.errstate(over="ignore"):
            found = float(size / inverse * np.float64(largest))
        if not 0.0 < found < np.inf:
            raise too_close(float(labelled.scores.min()), float(labelled.scores.max()))
        return {"temperature": found}

    @staticmethod
    def _moved(state: TemperatureState, shift: float) -> dict[str, Any]:
        return {"shift": state.shift + shift}

    def _doubts(self, labelled: Labelled) -> list[str]:
        low, high = float(labelled.scores.min()), float(labelled.scores.max())
        if low < 0.0 < high:
            return []
        return [
            f"Temperature: all scores lie on one side of 0 ({low:g} to {high:g}), which is taken "
            "for the boundary; distances need platt"
        ]

    def __repr__(self) -> str:
        if self._state is None:
            return "Temperature()"
        return f"Temperature(temperature={self.temperature:.6g}, shift={self.shift:.6g})"
