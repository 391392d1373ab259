"""Before and after: the measures that say what a calibration changed, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from robustad.metrics import (
    Interval,
    aurc,
    bootstrap_interval,
    brier,
    ece_adaptive,
    ece_positive,
    ece_top_label,
    nll,
    risk_at_coverage,
)
from robustad.metrics._checks import BoolArray, FloatArray, check_probabilities, check_scored

Measure: TypeAlias = Callable[[FloatArray, BoolArray], float]
# Name in results, and the function. Lower is better for all.
MEASURES: dict[str, Measure] = {
    "ece_positive": ece_positive,
    "ece_top_label": ece_top_label,
    "ece_adaptive": ece_adaptive,
    "nll": nll,
    "brier": brier,
    "aurc": aurc,
    "risk_at_90": partial(risk_at_coverage, coverage=0.9),
}
TITLES = {
    "ece_positive": "ECE of the anomalous class",
    "ece_top_label": "ECE of the predicted class",
    "ece_adaptive": "ECE in bins of equal mass",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "aurc": "area under risk and coverage",
    "risk_at_90": "error rate among the surest 90%",
}


class Measured(NamedTuple):
    """A measure with its interval.

    Attributes
    ----------
    value : float
        On the images as they are.
    interval : Interval
        Bootstrap over images, see `robustad.metrics.bootstrap_interval`.
    """

    value: float
    interval: Interval


def measured(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    measures: Mapping[str, Measure] = MEASURES,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Measured]:
    """Measure probabilities on images that were not used to fit.

    Parameters
    ----------
    probabilities : array, (n,)
        Probability of an anomaly, in [0, 1].
    labels : array, (n,)
        0 normal, 1 anomalous; both present.
    measures : mapping of str to callable, default `MEASURES`
        What to compute, of probabilities and labels.
    draws, seed
        Of the bootstrap.

    Returns
    -------
    dict of str to Measured
        By name.

    Raises
    ------
    InputError
        If the arrays do not fit, a probability lies outside [0, 1] or a class is missing.

    Examples
    --------
    >>> found = measured([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1], draws=50)
    >>> round(found["brier"].value, 3)
    0.085
    """
    p, truth = check_scored(check_probabilities(probabilities), labels, name="probabilities")
    return {
        name: Measured(
            float(measure(p, truth)), bootstrap_interval(measure, p, truth, draws=draws, seed=seed)
        )
        for name, measure in measures.items()
    }


def values(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Compute the measures alone, without intervals."""
    p, truth = np.asarray(probabilities, np.float64), np.asarray(labels) == 1
    return {name: float(measure(p, truth)) for name, measure in MEASURES.items()}
