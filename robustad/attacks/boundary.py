"""What attacks that look for the nearest image across the threshold have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustad.attacks.problem import Problem
from robustad.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The nearest images across the threshold that an attack found.

    Attributes
    ----------
    images : Tensor, (B, 3, H, W), in [0, 1]
        The clean images where none was found. Not held inside any ball.
    distance : Tensor, (B,)
        To the clean images in the problem's norm; infinity where none was found, 0 where the
        clean image is on the wrong side already.
    """

    images: Tensor
    distance: Tensor

    @property
    def found(self) -> Tensor:
        """Whether there is one, (B,), bool."""
        return torch.isfinite(self.distance)


def threshold_of(problem: Problem) -> float:
    """Return the image score from which the detector says anomalous.

    Raises
    ------
    InputError
        If none is known.
    """
    if problem.threshold is not None:
        return problem.threshold
    raise InputError(
        "threshold: this attack needs the image score from which the detector says anomalous; give "
        "it, or calibrate the detector"
    )


def crossed(problem: Problem, image: Tensor) -> Tensor:
    """Which image scores (B,) are on the wrong side of the threshold, (B,), bool."""
    anomalous = image >= threshold_of(problem)
    return anomalous ^ (problem.label == 1)


def already_crossed(problem: Problem) -> Tensor:
    """Which clean images (B,) are on the wrong side, without asking again."""
    return crossed(problem, problem.detector.aggregate(problem.clean))
