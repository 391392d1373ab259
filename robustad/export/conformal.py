"""Conformal p-values in operations that ONNX knows."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from robustad.detectors import Detector
from robustad.export.verdict import rank_share


def held_out_scores(detector: Detector) -> npt.NDArray[np.float32]:
    """Scores (n,) of the held-out normal images, ascending; one NaN where there are none."""
    if detector.conformal is None:
        return np.array([np.nan], np.float32)
    return detector.conformal.normal


def p_value(score: Tensor, held_out: Tensor) -> Tensor:
    """p-values (B,) of image scores (B,), as of `robustad.conformal.p_values`.

    Parameters
    ----------
    score : Tensor, (B,)
        Image scores.
    held_out : Tensor, (n,)
        Scores of normal images, in any order; NaN where there are none.

    Returns
    -------
    Tensor, (B,)
        NaN without held-out scores, and for a score that is NaN.
    """
    # A quotient of integers is rounded to float32 the same way directly and by way of float64.
    return rank_share(score, held_out).to(score.dtype)
