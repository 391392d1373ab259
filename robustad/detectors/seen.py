"""Noticing images that a memory bank was fitted on among those said to be held out."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustad.detectors.base import Detector
    from robustad.prediction import Prediction

# Patches of an image in the bank are at distance 0 from it, up to rounding.
AT_ZERO = 1e-6


def warn_of_fitted(detector: Detector, prediction: Prediction, name: str) -> None:
    """Warn if held-out images are in the detector's bank: their scores say nothing of new ones.

    Parameters
    ----------
    detector : Detector
        Nothing is known of one without a bank.
    prediction : Prediction
        Of the images.
    name : str
        What the images are called in the message.
    """
    if getattr(detector, "bank", None) is None:
        return
    pairs = zip(prediction.names, prediction.score, strict=True)
    seen = [one for one, score in pairs if score <= AT_ZERO]
    if seen:
        shown = ", ".join(seen[:3]) + (", ..." if len(seen) > 3 else "")
        warnings.warn(
            f"{name}: {len(seen)} of {len(prediction)} images score 0 ({shown}): the detector "
            "seems to have been fitted on them. Leave them out, as what rests on their scores does "
            "not hold for new images",
            stacklevel=3,
        )
