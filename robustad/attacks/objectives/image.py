"""Objectives on the image score."""

import torch
from torch import Tensor

from robustad.attacks.objectives.scores import Objective, Scores


def image(scores: Scores) -> Tensor:
    """`(1 - 2y) S`: raise the image score of normal images, lower that of anomalous ones.

    The direct attack on the score that is reported.

    Returns
    -------
    Tensor, (B,)
        Larger is better for the attacker.
    """
    return scores.sign * scores.image


def relaxed(times: int | None) -> Objective:
    """`(1 - 2y)` times the mean of more of the largest patch scores than the image score takes.

    Parameters
    ----------
    times : int >= 1 or None
        How many times as many; None for all patches.

    Returns
    -------
    Objective
        All patches too where the detector does not say how many its score takes.

    Notes
    -----
    Patches just below the largest get a gradient too: as the attack lowers some, these take over.
    """

    def image_relaxed(scores: Scores) -> Tensor:
        patch, count = scores.patch, scores.patch.shape[1]
        if times is None or scores.top is None or times * scores.top >= count:
            return scores.sign * patch.mean(dim=1)
        top: Tensor = torch.topk(patch, times * scores.top, dim=1, sorted=False).values
        return scores.sign * top.mean(dim=1)

    return image_relaxed


image_relaxed = relaxed(4)
