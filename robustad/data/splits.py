"""Few-shot training sets and calibration splits, the same on every machine.

Samples are sorted by name first, and only the raw output of numpy's PCG64 is used, which numpy
keeps fixed across versions; its permutations are not.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from robustad.data.dataset import ANOMALOUS, NORMAL, Dataset, Sample
from robustad.errors import DataError, InputError


def shots(dataset: Dataset, k: int | Literal["full"], *, seed: int = 0) -> Dataset:
    """Keep k training images: the sorted ones `[seed * k : (seed + 1) * k]`.

    Parameters
    ----------
    dataset : Dataset
        The whole category; its test set is kept as it is.
    k : int >= 1 or "full"
        Number of training images; "full" keeps all of them, whatever the seed.
    seed : int >= 0, default 0
        Which block of k images to take.

    Returns
    -------
    Dataset
        The same category with k training images.

    Raises
    ------
    InputError
        If `k` or `seed` is out of range.
    DataError
        If there are fewer than (seed + 1) * k training images.

    References
    ----------
    The sampling of AnomalyDINO (Damm et al., WACV 2025), which takes seeds 0, 1, 2 and k in
    1, 2, 4, 8, 16.

    Examples
    --------
    >>> import numpy as np
    >>> from robustad.data import Dataset, Sample
    >>> pixels = np.zeros((8, 8, 3), np.uint8)
    >>> train = tuple(Sample(image=pixels, label=0, name=f"{i}.png") for i in range(6))
    >>> dataset = Dataset(name="demo", category="disc", train=train, test=())
    >>> [sample.name for sample in shots(dataset, 2, seed=1).train]
    ['2.png', '3.png']
    """
    if k == "full":
        return dataset
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise InputError(f'k: expected an integer >= 1 or "full", got {k!r}')
    _check_seed(seed)
    first, last = seed * k, (seed + 1) * k
    if last > len(dataset.train):
        raise DataError(
            f"{dataset.name}/{dataset.category}: {k} shots with seed {seed} need {last} training "
            f"images, found {len(dataset.train)}"
        )
    return replace(dataset, train=dataset.train[first:last])


def calibration_split(
    samples: Sequence[Sample], *, fraction: float = 0.2, seed: int = 0
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split a test set into a part to calibrate on and a part to evaluate on.

    Parameters
    ----------
    samples : sequence of Sample
        A labelled test set in any order.
    fraction : float in (0, 1), default 0.2
        Share of each label that goes into the calibration part, rounded, but at least one image
        and at most all but one.
    seed : int >= 0, default 0
        Another split for another seed; take 0, 1, 2, ... for repeats.

    Returns
    -------
    calibration, evaluation : tuple of Sample
        Disjoint, together all of `samples`, each sorted by name and with both labels.

    Raises
    ------
    InputError
        If `fraction` or `seed` is out of range.
    DataError
        If there are fewer than two normal or fewer than two anomalous images, or two share a name.

    Notes
    -----
    Stratified by label exactly and by defect class as far as whole images go: of a class with m of
    the n anomalous images, c of which are taken, floor(m c / n) or ceil(m c / n) are taken. Over
    all seeds each image of a label is taken equally often. (Systematic sampling: the images are
    laid out class by class, shuffled within, and every (n / c)-th is taken from a random start.)

    Examples
    --------
    >>> import numpy as np
    >>> from robustad.data import Sample
    >>> pixels = np.zeros((8, 8, 3), np.uint8)
    >>> samples = [Sample(image=pixels, label=i % 2, name=f"{i}.png") for i in range(20)]
    >>> calibration, evaluation = calibration_split(samples, fraction=0.2)
    >>> len(calibration), len(evaluation), sum(sample.label for sample in calibration)
    (4, 16, 2)
    """
    if not 0.0 < fraction < 1.0:
        raise InputError(f"fraction: expected a share in (0, 1), got {fraction}")
    _check_seed(seed)
    for name, count in Counter(sample.name for sample in samples).items():
        if count > 1:
            raise DataError(f"expected unique names, got {count} samples named {name}")
    ordered = sorted(samples, key=lambda sample: sample.name)
    bits = np.random.PCG64(seed)
    taken: set[str] = set()
    for label, kind in ((NORMAL, "normal"), (ANOMALOUS, "anomalous")):
        group = [sample for sample in ordered if sample.label == label]
        if len(group) < 2:
            raise DataError(
                f"cannot split: expected at least 2 {kind} images, one for each part, "
                f"got {len(group)}"
            )
        count = min(max(round(fraction * len(group)), 1), len(group) - 1)
        taken.update(sample.name for sample in _systematic(group, count, bits))
    return (
        tuple(sample for sample in ordered if sample.name in taken),
        tuple(sample for sample in ordered if sample.name not in taken),
    )


def hold_out(names: Sequence[str], fraction: float, seed: int) -> set[str]:
    """Names of the `fraction` to hold out: at least one, at most all but one of two or more."""
    ordered = sorted(names)
    count = min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)
    keys = np.random.PCG64(seed).random_raw(len(ordered))
    return {ordered[i] for i in np.argsort(keys, kind="stable")[:count]}


def _systematic(group: list[Sample], count: int, bits: np.random.PCG64) -> list[Sample]:
    defects = sorted({sample.defect for sample in group})
    blocks = dict(zip(defects, bits.random_raw(len(defects)).tolist(), strict=True))
    keys = bits.random_raw(len(group)).tolist()
    order = sorted(
        range(len(group)), key=lambda i: (blocks[group[i].defect], group[i].defect, keys[i])
    )
    size = len(group)
    start = int(bits.random_raw()) % size
    # Integers, as a float's rounding could pick one image twice or run past the end.
    return [group[order[(start + j * size) // count]] for j in range(count)]


def _check_seed(seed: int) -> None:
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed: expected an integer >= 0, got {seed!r}")
