"""Objectives on the image score."""

import math

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
    """`(1 - 2y)` times a smooth mean of the largest patch scores, as many as the image score takes.

    Parameters
    ----------
    share : float > 0
        Temperature T as a share of the standard deviation of each image's clean patch scores.

    Returns
    -------
    Objective
        With k patches in the score (1 where the detector does not say) the largest
        `sum w s - T sum w ln w` over weights of sum 1 that are at most 1 / k: for T to 0 the image
        score, for k = 1 `T logsumexp(s / T)`.

    Raises
    ------
    InputError
        If `share` is not above 0.

    Notes
    -----
    Its gradient also lowers the patches just below the largest, which would take over: following
    the image score's own gradient raises them meanwhile.

    Examples
    --------
    >>> patch = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    >>> scores = Scores(patch=patch, image=patch[:, 0], label=torch.tensor([0]), mask=None, top=2)
    >>> [round(float(smooth(share)(scores)), 2) for share in (1e-3, 1.0)]
    [2.5, 3.53]
    """
    if not 0 < share < float("inf"):
        raise InputError(f"share: expected a finite number > 0, got {share}")

    def image_smooth(scores: Scores) -> Tensor:
        given, patch = scores.patch, scores.patch.detach()
        clean = patch if scores.clean is None else scores.clean
        spread = clean.std(dim=1, unbiased=False)
        temperature = share * torch.where(spread > 0, spread, torch.ones_like(spread))
        cold = patch / temperature[:, None]
        top = min(scores.top or 1, patch.shape[1])
        log_weight = _capped_softmax(cold, top)
        weight = log_weight.exp()
        value = temperature * (weight * (cold - log_weight)).sum(dim=1)
        # by the envelope theorem the weights are the gradient
        return scores.sign * (value + (weight * (given - patch)).sum(dim=1))

    return image_smooth


def _capped_softmax(cold: Tensor, top: int) -> Tensor:
    """Logarithms (B, N) of weights of largest entropy, none above 1 / top, for scores over T."""
    ordered = cold.sort(dim=1, descending=True).values
    rest = ordered.flip(1).logcumsumexp(dim=1).flip(1)[:, :top]  # of the c-th largest and below
    taken = torch.arange(top, device=cold.device)
    left = torch.log1p(-taken / top)  # to share, if the c largest have all they may
    shift = rest - left
    # the fewest capped ones for which the next one does not ask for too much
    fits = ordered[:, :top] - shift <= -math.log(top)
    fits[:, -1] = True
    shift = shift.gather(1, fits.to(torch.int8).argmax(dim=1, keepdim=True))
    return (cold - shift).clamp(max=-math.log(top))


image_relaxed = relaxed(4)
