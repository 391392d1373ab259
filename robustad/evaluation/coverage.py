"""Whether promised error rates were kept: realised against promised, clean and under attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robustad.conformal.thresholds import allowed_errors
from robustad.errors import InputError
from robustad.evaluation.result import CLEAN, Evaluation

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)


class Coverage(NamedTuple):
    """A promised rate and what became of it.

    Attributes
    ----------
    alpha : float
        The false alarm rate promised.
    realised : float
        Share of the normal images whose p-value is at most `alpha`.
    low, high : float
        Where 95% of all draws of held-out and evaluation images have that share, if all of them
        are exchangeable and scores do not tie.
    """

    alpha: float
    realised: float
    low: float
    high: float


def coverage(
    evaluation: Evaluation, condition: str = CLEAN, *, alphas: Sequence[float] = ALPHAS
) -> list[Coverage]:
    """Compare false alarm rates with those that conformal p-values promise.

    Parameters
    ----------
    evaluation : Evaluation
        With p-values.
    condition : str, default "clean"
        Which pass.
    alphas : sequence of float in (0, 1)
        Promised rates.

    Returns
    -------
    list of Coverage
        One a rate. Above `high` the promise is broken, which attacks may do at will.

    Raises
    ------
    InputError
        If the evaluation has no p-values, or a rate is out of range.

    Notes
    -----
    With n held-out and m normal evaluation images, k of the m have a p-value of at most alpha,
    where k is beta-binomially distributed with parameters j = floor(alpha (n + 1)) and n + 1 - j.
    """
    from scipy.stats import betabinom

    report, found = evaluation.conformal, evaluation.conditions[condition].p_value
    if report is None or found is None:
        raise InputError("evaluation: expected p-values, got none: no normal image was held out")
    normal = np.asarray(found)[np.asarray(evaluation.labels) == 0]
    n, m = len(report.scores["normal"]), normal.size
    kept = []
    for alpha in alphas:
        if not 0.0 < alpha < 1.0:
            raise InputError(f"alphas: expected numbers in (0, 1), got {alpha}")
        j = allowed_errors(n, alpha) + 1
        low, high = (0.0, 0.0) if j == 0 else betabinom.ppf([0.025, 0.975], m, j, n + 1 - j) / m
        kept.append(Coverage(alpha, float((normal <= alpha).mean()), float(low), float(high)))
    return kept
