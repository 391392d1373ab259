"""Repeated stratified splits of a calibration set, and what a method would say of unseen images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.errors import InputError
from robustad.metrics._checks import (
    BoolArray,
    FloatArray,
    check_fraction,
    check_labels,
    check_scored,
    check_scores,
)

Indices = npt.NDArray[np.intp]


def repeated_splits(
    labels: npt.ArrayLike, *, fraction: float = 0.2, repeats: int = 20, seed: int = 0
) -> Iterator[tuple[Indices, Indices]]:
    """Split images again and again into a part to fit on and a part to measure on.

    Parameters
    ----------
    labels : array, (n,)
        0 normal, 1 anomalous; at least two of each.
    fraction : float in (0, 1), default 0.2
        Share of each label to fit on, rounded, but at least one image and at most all but one.
    repeats : int >= 1, default 20
        Number of splits.
    seed : int >= 0, default 0
        Of the draws.

    Yields
    ------
    fitted, measured : array of int
        Places of the images of either part, rising.

    Raises
    ------
    InputError
        If an option is out of range or a label occurs less than twice.

    Notes
    -----
    The measured parts of different splits overlap, so figures of different splits are not
    independent: their spread says how much depends on the choice of the calibration images, and
    is no confidence interval of a mean.

    Examples
    --------
    >>> fitted, measured = next(repeated_splits([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]))
    >>> fitted.size, measured.size
    (2, 8)
    """
    truth = check_labels(labels)
    share = check_fraction(fraction, "fraction", low=False, high=False)
    _check_count(repeats, "repeats")
    groups = _groups(truth, 2)
    bits = np.random.PCG64(seed)
    for _ in range(repeats):
        chosen = np.zeros(truth.size, np.bool_)
        for group in groups:
            count = min(max(round(share * group.size), 1), group.size - 1)
            chosen[_shuffled(group, bits)[:count]] = True
        yield np.flatnonzero(chosen), np.flatnonzero(~chosen)


def stratified_folds(
    labels: npt.ArrayLike, *, folds: int = 5, seed: int = 0
) -> list[tuple[Indices, Indices]]:
    """Cut images into folds with each label spread evenly.

    Parameters
    ----------
    labels : array, (n,)
        0 normal, 1 anomalous; at least two of each.
    folds : int >= 2, default 5
        At most so many; no more than there are images of the rarer label.
    seed : int >= 0, default 0
        Of the draw.

    Returns
    -------
    list of (array of int, array of int)
        Places to fit on and places left out; each place is left out once.

    Raises
    ------
    InputError
        If `folds` is below 2 or a label occurs less than twice.
    """
    truth = check_labels(labels)
    _check_count(folds, "folds", 2)
    groups = _groups(truth, 2)
    bits = np.random.PCG64(seed)
    number = min(folds, *(group.size for group in groups))
    fold = np.empty(truth.size, np.intp)
    for group in groups:
        fold[_shuffled(group, bits)] = np.arange(group.size) % number
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(number)]


def cross_probabilities(
    calibrator: ScoreCalibrator[Any],
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
) -> FloatArray:
    """Give each image the probability by a calibrator fitted to the other folds.

    Parameters
    ----------
    calibrator : ScoreCalibrator
        The method and its options; neither its fit nor it itself is changed.
    scores, labels, sample_weight
        See `ScoreCalibrator.fit`.
    folds, seed
        See `stratified_folds`.

    Returns
    -------
    array, (n,), float64 in [0, 1]
        Of images that the calibrator had not seen. It saw fewer than it will be fitted to, so
        measures of these probabilities are rather too bad than too good.

    Raises
    ------
    InputError
        As `stratified_folds` and `ScoreCalibrator.fit`.
    """
    values, truth = check_scored(scores, labels)
    weight = None if sample_weight is None else check_scores(sample_weight, "sample_weight")
    p = np.empty(values.size)
    for fitted, left_out in stratified_folds(truth, folds=folds, seed=seed):
        part = None if weight is None else weight[fitted]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about parts nobody is going to use
            found = calibrator.unfitted().fit(values[fitted], truth[fitted], part)
        p[left_out] = found.predict_proba(values[left_out])
    return p


def _groups(truth: BoolArray, least: int) -> tuple[Indices, Indices]:
    groups = np.flatnonzero(~truth), np.flatnonzero(truth)
    for group, name in zip(groups, ("0 (normal)", "1 (anomalous)"), strict=True):
        if group.size < least:
            raise InputError(
                f"labels: expected at least {least} images of each label to split, got "
                f"{group.size} of label {name}"
            )
    return groups


def _shuffled(group: Indices, bits: np.random.PCG64) -> Indices:
    # Raw output only: numpy keeps it fixed across versions, as `data.splits` explains.
    return group[np.argsort(bits.random_raw(group.size), kind="stable")]


def _check_count(value: int, name: str, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name}: expected a whole number >= {least}, got {value!r}")
