"""How far a measure of few images can be trusted."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.metrics._checks import BoolArray, FloatArray, check_fraction, check_scored

CELLS = 1 << 20  # of the arrays held at once


class Interval(NamedTuple):
    """An interval of a measure.

    Attributes
    ----------
    low, high : float
        Its ends.
    """

    low: float
    high: float


def auroc_interval(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the AUROC over images.

    Parameters
    ----------
    scores : array, (n,)
        Finite image scores.
    labels : array, (n,)
        0 normal, 1 anomalous; both present.
    level : float in (0, 1), default 0.95
        Share of the draws inside.
    draws : int, default 1000
        Times the images are drawn anew, with replacement, as many normal and as many anomalous
        ones as there are.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    Interval
        It covers the choice of the test images, not that of the training images or the attack.
        Where the scores separate the classes perfectly (or perfectly wrongly), every draw gives
        the same AUROC and the interval has no width; that is a limit of the method.

    Raises
    ------
    InputError
        As `robustad.metrics.auroc`.

    Examples
    --------
    >>> low, high = auroc_interval([0.1, 0.2, 0.6, 0.4, 0.7, 0.9], [0, 0, 0, 1, 1, 1])
    >>> bool(low < 8 / 9 <= high)
    True
    """
    values, truth = check_scored(scores, labels)
    distinct, place = np.unique(values, return_inverse=True)
    # Raw output only: numpy keeps it fixed across versions, as `data.splits` explains.
    bits = np.random.PCG64(seed)
    groups = (place[~truth], place[truth])
    at_once = max(1, CELLS // truth.size)
    found = []
    for first in range(0, draws, at_once):
        size = min(at_once, draws - first)
        normal, anomalous = (_drawn(group, distinct.size, size, bits) for group in groups)
        # For each anomaly the normal images below it, ties counted half.
        below = np.cumsum(normal, axis=1) - 0.5 * normal
        found.append(np.einsum("ij,ij->i", anomalous, below))
    share = np.concatenate(found) / (groups[0].size * groups[1].size)
    low, high = np.quantile(share, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(low), float(high))


def bootstrap_interval(
    measure: Callable[[FloatArray, BoolArray], float],
    values: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of any measure of scores or probabilities, over images.

    Parameters
    ----------
    measure : callable
        From values (n,) and labels (n,), bool, to a number: `ece_positive`, `nll`, `brier`, ...
    values : array, (n,)
        Finite scores or probabilities.
    labels : array, (n,)
        0 normal, 1 anomalous; both present.
    level : float in (0, 1), default 0.95
        Share of the draws inside.
    draws : int >= 1, default 1000
        Times the images are drawn anew, with replacement, as many normal and as many anomalous
        ones as there are.
    seed : int >= 0, default 0
        Of the draws.

    Returns
    -------
    Interval
        It covers the choice of the images that are measured on, not that of those a calibrator was
        fitted to. A calibration error is never below 0, so drawing anew makes it larger: on few
        images the interval lies high and may even miss the measure itself.

    Raises
    ------
    InputError
        If the arrays differ in length, a class is missing or an option is out of range.

    Examples
    --------
    >>> from robustad.metrics import brier
    >>> low, high = bootstrap_interval(brier, [0.1, 0.4, 0.3, 0.8, 0.6, 0.9], [0, 0, 0, 1, 1, 1])
    >>> bool(low < 0.08 < high)
    True
    """
    array, truth = check_scored(values, labels)
    share = check_fraction(level, "level", low=False, high=False)
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 1:
        raise InputError(f"draws: expected a whole number >= 1, got {draws!r}")
    found = []
    for counts in resampled(truth, draws, seed):
        places = np.repeat(np.arange(truth.size), counts)
        found.append(measure(array[places], truth[places]))
    low, high = np.quantile(found, [(1.0 - share) / 2.0, (1.0 + share) / 2.0])
    return Interval(float(low), float(high))


def resampled(truth: BoolArray, draws: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
    """How often each image is drawn, (n,), stratified by label; `draws` times."""
    bits = np.random.PCG64(seed)
    groups = np.flatnonzero(~truth), np.flatnonzero(truth)
    for _ in range(draws):
        counts = np.zeros(truth.size, np.intp)
        for group in groups:
            picked = group[(bits.random_raw(group.size) % group.size).astype(np.intp)]
            counts += np.bincount(picked, minlength=truth.size)
        yield counts


def _drawn(
    group: npt.NDArray[np.intp], places: int, draws: int, bits: np.random.PCG64
) -> npt.NDArray[np.intp]:
    """How often each place is drawn when as many as there are in `group` are: (draws, places)."""
    raw = bits.random_raw(draws * group.size) % group.size
    picked = group[raw.astype(np.intp)].reshape(draws, group.size)
    rows = places * np.arange(draws)[:, None]
    counts = np.bincount((picked + rows).ravel(), minlength=draws * places)
    return counts.reshape(draws, places)
