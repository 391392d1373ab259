"""Platt scaling: a logistic curve from raw score to probability."""

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, FiniteFloat

from robustad.calibration._labelled import Labelled, standardised, too_close
from robustad.calibration._logistic import fit_logistic
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.calibration.state import CalibratorState
from robustad.errors import InputError
from robustad.metrics._checks import check_fraction
from robustad.probability import logit, sigmoid


class PlattState(CalibratorState):
    """A fitted Platt scaling as it is saved."""

    method: Literal["platt"] = "platt"
    slope: FiniteFloat = Field(description="A of sigmoid(A * score + B).")
    intercept: FiniteFloat = Field(description="B of sigmoid(A * score + B).")


class Platt(ScoreCalibrator[PlattState]):
    """P(anomaly | score) = sigmoid(slope * score + intercept), fitted to labelled scores.

    Attributes
    ----------
    slope, intercept : float
        A and B of the curve, for raw scores.
    inverted : bool
        True where the slope is negative: in the calibration set higher scores went with normal
        images. `fit` warns of it; such a detector must not be used.
    n_normal, n_anomalous, prevalence, before, after, band
        See `ScoreCalibrator`.

    Raises
    ------
    NotFittedError
        By all of them before `fit`.

    Notes
    -----
    Platt, "Probabilistic Outputs for Support Vector Machines" (1999), with his smoothed targets
    (N+ + 1) / (N+ + 2) for anomalies and 1 / (N- + 2) for normals in place of 1 and 0. They keep
    the fit finite on separable scores. There is no penalty on the slope: one, as in
    scikit-learn's LogisticRegression by default, would depend on the scale of the scores. With
    `sample_weight`, N+ and N- are sums of weights. Scores whose spread is so small that the slope
    is no float64 are an InputError.

    Examples
    --------
    >>> platt = Platt().fit([0.10, 0.12, 0.20, 0.15, 0.30, 0.35], [0, 0, 0, 1, 1, 1])
    >>> platt.predict_proba([0.10, 0.20, 0.30]).round(2).tolist()
    [0.27, 0.5, 0.73]
    >>> round(platt.score_at(0.5), 3)
    0.2
    >>> platt.with_prior(0.01).predict_proba([0.10, 0.20, 0.30]).round(3).tolist()
    [0.004, 0.01, 0.026]
    """

    method: ClassVar[str] = "platt"
    _kind: ClassVar[type[CalibratorState]] = PlattState

    def score_at(self, probability: float) -> float:
        """Raw score that has this probability: the inverse of `predict_proba`.

        Parameters
        ----------
        probability : float in (0, 1)
            For example the reject threshold of a policy.

        Returns
        -------
        float
            The score, which may lie outside the range of the detector's scores.

        Raises
        ------
        InputError
            If `probability` lies outside (0, 1), or the slope is 0.
        NotFittedError
            Before `fit`.
        """
        state = self._fitted()
        wanted = logit(check_fraction(probability, "probability", low=False, high=False))
        if state.slope == 0.0:
            raise InputError(
                "score_at: expected a slope other than 0, every score has the probability "
                f"{float(sigmoid(np.array([state.intercept]))[0]):g}"
            )
        return (wanted - state.intercept) / state.slope

    @property
    def slope(self) -> float:
        """A of the curve."""
        return self._fitted().slope

    @property
    def intercept(self) -> float:
        """B of the curve."""
        return self._fitted().intercept

    @property
    def inverted(self) -> bool:
        """Whether higher scores mean a lower probability."""
        return self._fitted().slope < 0.0

    def _parameters(self, labelled: Labelled) -> dict[str, Any]:
        z, scale, offset = standardised(labelled.scores, labelled.weight)
        design = np.stack([z, np.ones_like(z)])
        slope, intercept = fit_logistic(design, labelled.targets(), labelled.weight)
        with np.errstate(over="ignore", invalid="ignore"):
            raw = slope * np.float64(scale), intercept + slope * np.float64(offset)
        if not np.isfinite(raw).all():
            raise too_close(float(labelled.scores.min()), float(labelled.scores.max()))
        return {"slope": float(raw[0]), "intercept": float(raw[1])}

    @staticmethod
    def _moved(state: PlattState, shift: float) -> dict[str, Any]:
        return {"intercept": state.intercept + shift}

    def _doubts(self, labelled: Labelled) -> list[str]:
        if not self.inverted:
            return []
        return [
            f"Platt slope is negative ({self.slope:g}): in the calibration set higher scores "
            "go with normal images; check labels and detector"
        ]

    def __repr__(self) -> str:
        if self._state is None:
            return "Platt()"
        return f"Platt(slope={self.slope:.6g}, intercept={self.intercept:.6g})"
