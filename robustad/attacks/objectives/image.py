"""Objectives on the image score."""

import torch
from torch import Tensor

from robustad.attacks.objectives.scores import Objective, Scores
from robustad.errors import InputError


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


def smooth(share: float) -> Objective:
    """`(1 - 2y) T logsumexp(s / T)`: the largest patch score, and all near it by how near.

    Parameters
    ----------
    share : float > 0
        T as a share of the standard deviation of each image's clean patch scores.

    Returns
    -------
    Objective
        Falls only if all of the largest patches fall: following the largest alone, as the image
        score's gradient does, raises others meanwhile.

    Raises
    ------
    InputError
        If `share` is not above 0.
    """
    if not 0 < share < float("inf"):
        raise InputError(f"share: expected a finite number > 0, got {share}")

    def image_smooth(scores: Scores) -> Tensor:
        clean = scores.patch.detach() if scores.clean is None else scores.clean
        spread = clean.std(dim=1, unbiased=False)
        temperature = share * torch.where(spread > 0, spread, torch.ones_like(spread))
        exponents = scores.patch / temperature[:, None]
        return scores.sign * temperature * torch.logsumexp(exponents, dim=1)

    return image_smooth


image_relaxed = relaxed(4)
