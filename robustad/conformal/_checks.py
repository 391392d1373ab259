"""The argument checks that conformal methods share."""

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.metrics._checks import FloatArray, check_fraction, check_scores


def check_rate(rate: float, name: str) -> float:
    """Check for an error rate in (0, 1): 0 can never be promised, 1 promises nothing."""
    return check_fraction(rate, name, low=False, high=False)


def check_confidence(confidence: float | None) -> float | None:
    """Check for a confidence in (0, 1), or None."""
    return None if confidence is None else check_rate(confidence, "confidence")


def check_held_out(scores: npt.ArrayLike, name: str) -> FloatArray:
    """Finite scores (n,) that tell images apart; one score alone is taken as it is."""
    values = np.asarray(scores)
    if values.ndim == 1 and values.size == 0:
        kind = "anomalous" if "anomal" in name else "normal"
        raise InputError(f"{name}: expected scores of held-out {kind} images, got none")
    values = check_scores(scores, name)
    if values.size > 1 and values.min() == values.max():
        raise InputError(
            f"{name}: expected different values, got {values[0]:g} {values.size} times: such "
            "scores tell no image from another"
        )
    return values
