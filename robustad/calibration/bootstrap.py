"""How much a probability owes to the choice of the calibration images."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from robustad.calibration._labelled import Labelled, check_labelled
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.calibration.state import Band
from robustad.errors import InputError
from robustad.metrics._checks import FloatArray, check_fraction
from robustad.metrics.bootstrap import resampled

C = TypeVar("C", bound=ScoreCalibrator[Any])
PLACES = 128  # of the grid that the band is tabulated on, twice


def with_bootstrap_band(
    calibrator: C,
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    *,
    level: float = 0.95,
    draws: int = 200,
    seed: int = 0,
) -> C:
    """Attach a pointwise interval of the probability, from refits to resampled calibration sets.

    Parameters
    ----------
    calibrator : ScoreCalibrator
        Fitted to these scores; not changed. If its prior was shifted, so are the refits.
    scores, labels, sample_weight
        The calibration set; see `ScoreCalibrator.fit`. At least two images of each label.
    level : float in (0, 1), default 0.95
        Share of the refits inside, at each score.
    draws : int >= 20, default 200
        Calibration sets drawn: with replacement, as many normal and as many anomalous images as
        there are.
    seed : int >= 0, default 0
        Of the draws.

    Returns
    -------
    ScoreCalibrator
        A new one, whose `predict_interval` works; saved and exported with it.

    Raises
    ------
    InputError
        If an option is out of range, a label occurs less than twice, or most of the resampled sets
        cannot be fitted.
    NotFittedError
        If the calibrator is not fitted.

    Notes
    -----
    Percentile bootstrap. The interval covers the choice of the calibration images: how far the
    curve would move with other images of the same kind. It covers neither a form of curve that is
    wrong nor images of another kind, and attacked images are of another kind. It holds at each
    score by itself, not for all scores together.

    Examples
    --------
    >>> from robustad.calibration import Platt
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 2
    >>> scores = rng.normal(labels, 0.5)
    >>> platt = with_bootstrap_band(Platt().fit(scores, labels), scores, labels)
    >>> low, high = platt.predict_interval([0.9])
    >>> bool(low[0] < platt.predict_proba([0.9])[0] < high[0])
    True
    """
    share = check_fraction(level, "level", low=False, high=False)
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 20:
        raise InputError(f"draws: expected a whole number >= 20, got {draws!r}")
    labelled = check_labelled(scores, labels, sample_weight)
    if min(labelled.n_normal, labelled.n_anomalous) < 2:
        raise InputError(
            "labels: expected at least 2 images of each label to draw anew, got "
            f"{labelled.n_normal} normal and {labelled.n_anomalous} anomalous"
        )
    grid = _grid(labelled.scores)
    rate = calibrator.prevalence
    found = []
    for counts in resampled(labelled.truth, draws, seed):
        again = _refitted(calibrator, labelled, counts)
        if again is not None:
            if rate != labelled.prevalence:
                again = again.with_prior(rate)
            found.append(again.predict_proba(grid))
    if 2 * len(found) < draws:
        raise InputError(
            f"scores: {draws - len(found)} of {draws} resampled calibration sets cannot be fitted "
            f"by {calibrator.method}; more images are needed for an interval"
        )
    # Values of refits, not between them: so a prior shifts the ends as it shifts the refits.
    low = np.quantile(found, (1.0 - share) / 2.0, axis=0, method="lower")
    high = np.quantile(found, (1.0 + share) / 2.0, axis=0, method="higher")
    band = Band(
        level=share, draws=len(found), scores=grid.tolist(), low=low.tolist(), high=high.tolist()
    )
    return calibrator.with_band(band)


def _refitted(
    calibrator: ScoreCalibrator[Any], labelled: Labelled, counts: npt.NDArray[np.intp]
) -> ScoreCalibrator[Any] | None:
    """Fit anew, each score counting as often as it was drawn; None where that cannot be done."""
    weight = counts if labelled.weight is None else counts * labelled.weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of single draws
        try:
            return calibrator.unfitted().fit(labelled.scores, labelled.truth, weight)
        except InputError:
            return None


def _grid(scores: FloatArray) -> FloatArray:
    """Scores evenly over three times their spread, and where they lie."""
    low, high = float(scores.min()), float(scores.max())
    width = high - low
    even = np.linspace(low - width, high + width, 3 * PLACES // 2)
    return np.unique(np.concatenate([even, np.quantile(scores, np.linspace(0.0, 1.0, PLACES))]))
