"""Conformal p-values in operations that ONNX knows."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad.detectors import Detector


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
    # Counting takes B n comparisons: nothing beside the network, and a plain operation everywhere.
    reached = (held_out >= score.unsqueeze(1)).to(score.dtype).sum(dim=1)
    p = (1.0 + reached) / (1.0 + torch.ones_like(held_out).sum())
    unknown = score.isnan() | held_out.isnan().any()
    return torch.where(unknown, torch.full_like(p, torch.nan), p)
