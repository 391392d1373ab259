"""Platt scaling: a logistic curve from raw score to probability."""

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from robustad.calibration._logistic import fit_logistic, logit, sigmoid
from robustad.errors import InputError, NotFittedError, StateError
from robustad.metrics._checks import FloatArray, check_fraction, check_scored, check_scores


class _State(BaseModel):
    """A fitted Platt scaling as it is saved."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    method: Literal["platt"] = "platt"
    slope: FiniteFloat
    intercept: FiniteFloat
    n_normal: Annotated[int, Field(ge=1)]
    n_anomalous: Annotated[int, Field(ge=1)]
    prevalence: Annotated[float, Field(gt=0.0, lt=1.0)]
    before: dict[str, FiniteFloat] | None = None
    after: dict[str, FiniteFloat] | None = None


class Platt:
    """P(anomaly | score) = sigmoid(slope * score + intercept), fitted to labelled scores.

    Attributes
    ----------
    slope, intercept : float
        A and B of the curve, for raw scores.
    inverted : bool
        True where the slope is negative: in the calibration set higher scores went with normal
        images. `fit` warns of it; such a detector must not be used.
    n_normal, n_anomalous : int
        Size of the calibration set.
    prevalence : float
        Share of anomalies that the probabilities assume: that of the calibration set, or the
        rate last given to `with_prior`.
    before, after : dict of str to float, or None
        Measures of the raw score and of the probability, see `with_measures`.

    Raises
    ------
    NotFittedError
        By all of them before `fit`.

    Notes
    -----
    Platt, "Probabilistic Outputs for Support Vector Machines" (1999), with his smoothed targets
    (N+ + 1) / (N+ + 2) for anomalies and 1 / (N- + 2) for normals in place of 1 and 0. They keep
    the fit finite on separable scores. There is no penalty on the slope: one, as in
    scikit-learn's LogisticRegression by default, would depend on the scale of the scores.

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

    def __init__(self) -> None:
        self._state: _State | None = None

    def fit(self, scores: npt.ArrayLike, labels: npt.ArrayLike) -> Self:
        """Fit slope and intercept by maximum likelihood.

        Parameters
        ----------
        scores : array, (n,)
            Finite raw scores, of any scale, not all the same.
        labels : array, (n,)
            0 normal, 1 anomalous; both present.

        Returns
        -------
        Platt
            Itself.

        Raises
        ------
        InputError
            If the lengths differ, a score is not finite, a label is neither 0 nor 1, a class is
            missing, the scores are constant, or their spread is so small that the slope is not
            a float64.

        Warns
        -----
        UserWarning
            If the slope is negative.
        """
        values, truth = check_scored(scores, labels)
        low, high = float(values.min()), float(values.max())
        if low == high:
            raise InputError(
                f"scores: expected different values to fit to, got {low:g} {values.size} times"
            )
        # Halves first: the spread of finite scores may be more than the largest float64.
        centre, half_range = low / 2 + high / 2, high / 2 - low / 2
        if half_range < np.finfo(np.float64).tiny:
            raise _too_close(low, high)
        scaled = (values - centre) / half_range
        mean, spread = float(scaled.mean()), float(scaled.std())
        n_anomalous = int(truth.sum())
        n_normal = truth.size - n_anomalous
        target = np.where(truth, (n_anomalous + 1) / (n_anomalous + 2), 1 / (n_normal + 2))
        slope, intercept = fit_logistic((scaled - mean) / spread, target)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            raw_slope = np.float64(slope) / spread / half_range
            raw_intercept = intercept - slope * mean / spread - raw_slope * centre
        if not (np.isfinite(raw_slope) and np.isfinite(raw_intercept)):
            raise _too_close(low, high)
        self._state = _State(
            slope=float(raw_slope),
            intercept=float(raw_intercept),
            n_normal=n_normal,
            n_anomalous=n_anomalous,
            prevalence=n_anomalous / truth.size,
        )
        if self.inverted:
            warnings.warn(
                f"Platt slope is negative ({self.slope:g}): in the calibration set higher scores "
                "go with normal images; check labels and detector",
                stacklevel=2,
            )
        return self

    def predict_proba(self, scores: npt.ArrayLike) -> FloatArray:
        """Probability of an anomaly.

        Parameters
        ----------
        scores : array, (n,)
            Finite raw scores.

        Returns
        -------
        array, (n,), float64 in [0, 1]
            Rises with the score unless `inverted`.

        Raises
        ------
        InputError
            If a score is not finite or the shape is not (n,).
        NotFittedError
            Before `fit`.
        """
        state = self._fitted()
        with np.errstate(over="ignore"):  # to infinity, which is probability 0 or 1
            return sigmoid(state.slope * check_scores(scores, at_least=0) + state.intercept)

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

    def with_prior(self, rate: float, *, from_prevalence: float | None = None) -> "Platt":
        """Shift the probabilities to a stated defect rate.

        Test sets hold far more anomalies than a production line (73% in MVTec AD). If the scores
        of normal and of anomalous images keep their distributions and only the rate changes,
        Bayes' rule adds logit(rate) - logit(prevalence) to the intercept.

        Parameters
        ----------
        rate : float in (0, 1)
            Share of anomalies where the detector is going to be used.
        from_prevalence : float in (0, 1) or None, default None
            Share that the present probabilities assume; None takes `prevalence`.

        Returns
        -------
        Platt
            A new one, with `prevalence` = `rate` and without measures, which no longer hold.

        Raises
        ------
        InputError
            If a share lies outside (0, 1).
        NotFittedError
            Before `fit`.
        """
        state = self._fitted()
        before = state.prevalence if from_prevalence is None else from_prevalence
        shift = logit(check_fraction(rate, "rate", low=False, high=False)) - logit(
            check_fraction(before, "from_prevalence", low=False, high=False)
        )
        return _restored(
            {
                **state.model_dump(),
                "intercept": state.intercept + shift,
                "prevalence": float(rate),
                "before": None,
                "after": None,
            }
        )

    def with_measures(self, *, before: Mapping[str, float], after: Mapping[str, float]) -> "Platt":
        """Attach measures to be saved along.

        Parameters
        ----------
        before, after : mapping of str to float
            Measures such as `ece_positive` and `nll`, of the raw score and of the probability,
            on images that were not used to fit.

        Returns
        -------
        Platt
            A new one.

        Raises
        ------
        InputError
            If a measure is not finite.
        NotFittedError
            Before `fit`.
        """
        measures = {"before": before, "after": after}
        for where, values in measures.items():
            for name, value in values.items():
                check_scores([value], f"{where}[{name!r}]")
        plain = {k: {n: float(x) for n, x in v.items()} for k, v in measures.items()}
        return _restored({**self._fitted().model_dump(), **plain})

    def to_dict(self) -> dict[str, Any]:
        """All attributes but `inverted`, and `method`, ready for JSON.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        return self._fitted().model_dump()

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Platt":
        """Restore from what `to_dict` gave.

        Raises
        ------
        StateError
            If a key is missing, unknown or holds another type or range than expected.
        """
        try:
            return _restored(state)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "state"
            raise StateError(
                f"calibration (platt): {where}: {first['msg']}, got {first['input']!r}"
            ) from error

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

    @property
    def n_normal(self) -> int:
        """Normal images in the calibration set."""
        return self._fitted().n_normal

    @property
    def n_anomalous(self) -> int:
        """Anomalous images in the calibration set."""
        return self._fitted().n_anomalous

    @property
    def prevalence(self) -> float:
        """Share of anomalies that the probabilities assume."""
        return self._fitted().prevalence

    @property
    def before(self) -> dict[str, float] | None:
        """Measures of the raw score, if attached."""
        return self._fitted().before

    @property
    def after(self) -> dict[str, float] | None:
        """Measures of the probability, if attached."""
        return self._fitted().after

    def __repr__(self) -> str:
        if self._state is None:
            return "Platt()"
        return f"Platt(slope={self.slope:.6g}, intercept={self.intercept:.6g})"

    def _fitted(self) -> _State:
        if self._state is None:
            raise NotFittedError("Platt: fit(scores, labels) has to come first")
        return self._state


def _restored(state: Mapping[str, Any]) -> Platt:
    platt = Platt()
    platt._state = _State.model_validate(dict(state))
    return platt


def _too_close(low: float, high: float) -> InputError:
    return InputError(
        f"scores: expected a spread that a float64 can hold the slope for, got {low:g}..{high:g}"
    )
