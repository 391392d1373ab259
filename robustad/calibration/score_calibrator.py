"""What all calibrators share: checks, prior shift, measures, a band, saving."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from robustad.calibration._labelled import Labelled, check_labelled
from robustad.calibration.state import Band, CalibratorState
from robustad.errors import NotFittedError, StateError
from robustad.metrics._checks import FloatArray, check_fraction, check_scores
from robustad.probability import CURVES, interval_of, logit, probability_of, shifted

S = TypeVar("S", bound=CalibratorState)


class ScoreCalibrator(ABC, Generic[S]):
    """A calibrator with parameters; see `Platt`, `Temperature`, `Isotonic` and `Beta`.

    Attributes
    ----------
    n_normal, n_anomalous : int
        Size of the calibration set, without images of weight 0.
    prevalence : float
        Share of anomalies that the probabilities assume: that of the calibration set (by weight),
        or the rate last given to `with_prior`.
    inverted : bool
        True where higher scores get lower probabilities. `fit` warns of it; such a detector must
        not be used.
    before, after : dict of str to float, or None
        Measures of the raw score and of the probability, see `with_measures`.
    band : Band or None
        See `with_band`.

    Raises
    ------
    NotFittedError
        By all of them before `fit`.

    Notes
    -----
    A subclass implements `_parameters`, `_moved` and `score_at`, and has its formula in
    `robustad.probability.CURVES`.
    """

    method: ClassVar[str]
    _kind: ClassVar[type[CalibratorState]]

    def __init__(self) -> None:
        self._state: S | None = None

    def fit(
        self,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Fit to a calibration set.

        Parameters
        ----------
        scores : array, (n,)
            Finite raw scores, not all the same.
        labels : array, (n,)
            0 normal, 1 anomalous; both present.
        sample_weight : array, (n,), optional
            How often each score counts: finite, >= 0, in each class at least one > 0. A weight of
            2 is the same as the score given twice.

        Returns
        -------
        ScoreCalibrator
            Itself. If it fails, an earlier fit stays.

        Raises
        ------
        InputError
            If the lengths differ, a score or weight is not finite, a label is neither 0 nor 1, a
            class is missing or has no weight, or the scores are constant; a method may ask for
            more.

        Warns
        -----
        UserWarning
            If what was found makes no sense of the scores: higher ones do not go with anomalies.
        """
        labelled = check_labelled(scores, labels, sample_weight)
        self._state = self._made(
            {
                **self._parameters(labelled),
                "n_normal": labelled.n_normal,
                "n_anomalous": labelled.n_anomalous,
                "prevalence": labelled.prevalence,
            }
        )
        for text in self._doubts(labelled):
            warnings.warn(text, stacklevel=2)
        return self

    def unfitted(self) -> Self:
        """Give a new one with the same options and without a fit."""
        return type(self)()

    def predict_proba(self, scores: npt.ArrayLike) -> FloatArray:
        """Probability of an anomaly.

        Parameters
        ----------
        scores : array, (n,)
            Finite raw scores.

        Returns
        -------
        array, (n,), float64 in [0, 1]
            Never falls with the score unless `inverted`.

        Raises
        ------
        InputError
            If a score is not finite or the shape is not (n,).
        NotFittedError
            Before `fit`.
        """
        return probability_of(self._plain(), check_scores(scores, at_least=0))

    def predict_interval(self, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Interval of the probability, by the band.

        Parameters
        ----------
        scores : array, (n,)
            Finite raw scores.

        Returns
        -------
        low, high : array, (n,), float64 in [0, 1]
            Around `predict_proba`.

        Raises
        ------
        InputError
            If a score is not finite or the shape is not (n,).
        NotFittedError
            Before `fit` and without a band; see `robustad.calibration.with_bootstrap_band`.
        """
        found = interval_of(self._plain(), check_scores(scores, at_least=0))
        if found is None:
            raise NotFittedError(
                f"{type(self).__name__}: with_band(...) has to come first; "
                "robustad.calibration.with_bootstrap_band makes one"
            )
        return found

    @abstractmethod
    def score_at(self, probability: float) -> float:
        """Raw score from which on the probability is at least this.

        Parameters
        ----------
        probability : float in (0, 1)
            For example the reject threshold of a policy.

        Returns
        -------
        float
            The smallest such score, which may lie outside the range of the detector's scores;
            infinite where no score has so high a probability, minus infinite where all have.

        Raises
        ------
        InputError
            If `probability` lies outside (0, 1).
        NotFittedError
            Before `fit`.
        """

    def with_prior(self, rate: float, *, from_prevalence: float | None = None) -> Self:
        """Shift the probabilities to a stated defect rate.

        Test sets hold far more anomalies than a production line (73% in MVTec AD). If the scores
        of normal and of anomalous images keep their distributions and only the rate changes,
        Bayes' rule adds logit(rate) - logit(prevalence) to the log odds.

        Parameters
        ----------
        rate : float in (0, 1)
            Share of anomalies where the detector is going to be used.
        from_prevalence : float in (0, 1) or None, default None
            Share that the present probabilities assume; None takes `prevalence`.

        Returns
        -------
        ScoreCalibrator
            A new one, with `prevalence` = `rate`, its band shifted as well, and without measures,
            which no longer hold.

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
        band = state.band
        if band is not None:
            low, high = (shifted(np.array(end), shift).tolist() for end in (band.low, band.high))
            band = band.model_copy(update={"low": low, "high": high})
        return self._changed(
            **self._moved(state, shift),
            prevalence=float(rate),
            before=None,
            after=None,
            band=None if band is None else band.model_dump(),
        )

    def with_measures(self, *, before: Mapping[str, float], after: Mapping[str, float]) -> Self:
        """Attach measures to be saved along.

        Parameters
        ----------
        before, after : mapping of str to float
            Measures such as `ece_positive` and `nll`, of the raw score and of the probability,
            on images that were not used to fit.

        Returns
        -------
        ScoreCalibrator
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
        return self._changed(**plain)

    def with_band(self, band: Band | None) -> Self:
        """Attach an interval of the probability, or take it away; gives a new calibrator."""
        return self._changed(band=None if band is None else band.model_dump())

    def to_dict(self) -> dict[str, Any]:
        """`method`, its parameters and what else is saved, ready for JSON.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        return {"method": self.method, **self._fitted().model_dump()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore from what `to_dict` gave.

        Raises
        ------
        StateError
            If a key is missing, unknown or holds another type or range than expected.
        """
        try:
            found = cls()
            found._state = found._made(state)
            return found
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "state"
            raise StateError(
                f"calibration ({cls.method}): {where}: {first['msg']}, got {first['input']!r}"
            ) from error

    @property
    def inverted(self) -> bool:
        """Whether higher scores mean a lower probability."""
        self._fitted()
        return False

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

    @property
    def band(self) -> Band | None:
        """Interval of the probability, if attached."""
        return self._fitted().band

    @abstractmethod
    def _parameters(self, labelled: Labelled) -> dict[str, Any]:
        """The method's own parameters, fitted."""

    @staticmethod
    @abstractmethod
    def _moved(state: S, shift: float) -> dict[str, Any]:
        """The parameters that add `shift` to the log odds."""

    def _doubts(self, labelled: Labelled) -> list[str]:
        """What `fit` warns of, now that the parameters are known."""
        return []

    def _plain(self) -> dict[str, Any]:
        """What the formulas take, without copying the rest."""
        state = self._fitted()
        plain = {name: getattr(state, name) for name in CURVES[self.method][1]}
        band = None if state.band is None else dict(state.band)
        return {"method": self.method, **plain, "band": band}

    def _fitted(self) -> S:
        if self._state is None:
            raise NotFittedError(f"{type(self).__name__}: fit(scores, labels) has to come first")
        return self._state

    def _made(self, state: Mapping[str, Any]) -> S:
        return cast(S, self._kind.model_validate({"method": self.method, **state}))

    def _changed(self, **changes: Any) -> Self:
        found = type(self)()
        found._state = self._made({**self._fitted().model_dump(), **changes})
        return found
