"""One seed for every draw of a run, so that a resumed run draws what an uninterrupted one does."""

from __future__ import annotations

import numpy as np

# What a draw is for: two purposes never share a stream.
ORDER, PSEUDO, START, DROPOUT, VALIDATION_PSEUDO, VALIDATION_START, WEIGHTS, AUGMENT = range(8)


def seeds(seed: int, purpose: int, *where: int, count: int) -> list[int]:
    """Some independent seeds for one place of a run.

    Parameters
    ----------
    seed : int >= 0
        Of the run.
    purpose : int
        One of this module's constants.
    *where : int >= 0
        Epoch, image, ...: the place.
    count : int >= 0
        How many.

    Returns
    -------
    list of int
        In 0..2^62 - 1.

    Examples
    --------
    >>> seeds(0, ORDER, 3, count=2) == seeds(0, ORDER, 3, count=2)
    True
    """
    sequence = np.random.SeedSequence([seed, purpose, *where])
    return [int(word) >> 2 for word in sequence.generate_state(count, np.uint64)]
