"""The four-way objective: cross-entropy of patches over clean and attacked images."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.errors import InputError
from robustad.ops import topk_mean
from robustad.training.config import LossConfig


def patch_loss(
    logits: Tensor,
    target: Tensor,
    reduction: Literal["balanced", "mean", "sum"],
    known: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of each image's patches.

    Parameters
    ----------
    logits : Tensor, (B, N), floating point
        Of the patches.
    target : Tensor, (B, N), bool
        Anomalous patches.
    reduction : {"balanced", "mean", "sum"}
        Over patches. `balanced` is half the mean over normal patches plus half the mean over
        anomalous ones, or the whole mean where an image has patches of one kind only.
    known : Tensor, (B, N), bool, optional
        Patches that count; by default all. An image without any has loss 0.

    Returns
    -------
    Tensor, (B,)
        In nats.

    Examples
    --------
    >>> import torch
    >>> patch_loss(torch.zeros(1, 4), torch.tensor([[True, False, False, False]]), "balanced")
    tensor([0.6931])
    """
    counted = torch.ones_like(logits) if known is None else known.to(logits.dtype)
    inside = target.to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, inside, reduction="none") * counted
    if reduction == "sum":
        return entropy.sum(dim=1)
    if reduction == "mean":
        return entropy.sum(dim=1) / counted.sum(dim=1).clamp_min(1)
    inside, outside = inside * counted, (1 - inside) * counted
    n_inside, n_outside = inside.sum(dim=1), outside.sum(dim=1)
    anomalous = (entropy * inside).sum(dim=1) / n_inside.clamp_min(1)
    normal = (entropy * outside).sum(dim=1) / n_outside.clamp_min(1)
    kinds = (n_inside > 0).to(logits.dtype) + (n_outside > 0).to(logits.dtype)
    return (anomalous + normal) / kinds.clamp_min(1)


def image_loss(logits: Tensor, target: Tensor, top_k: int | float) -> Tensor:
    """Binary cross-entropy (B,) of the image score: the mean of the `top_k` largest logits."""
    label = target.any(dim=1).to(logits.dtype)
    score = topk_mean(logits, top_k)
    return F.binary_cross_entropy_with_logits(score, label, reduction="none")


def term_weights(
    config: LossConfig, normal: int, *, attacked: bool, device: torch.device
) -> Tensor:
    """Weight of each image in the loss of one step.

    Parameters
    ----------
    config : LossConfig
        Weights of the four terms.
    normal : int >= 1
        Number n of normal images.
    attacked : bool
        Whether attacked copies follow the clean images.
    device : torch.device
        Where the weights are needed.

    Returns
    -------
    Tensor, (4n,) or (2n,)
        In the order normal, anomalous, attacked normal, attacked anomalous: each term is the mean
        over its images, so that the weighted sum of `patch_loss` is the loss.
    """
    terms = [config.normal, config.anomalous]
    if attacked:
        terms += [config.adversarial_normal, config.adversarial_anomalous]
    return torch.tensor(terms, device=device).repeat_interleave(normal) / normal


def patch_targets(mask: Tensor, grid: tuple[int, int], fraction: float) -> Tensor:
    """Which patches count as anomalous.

    Parameters
    ----------
    mask : Tensor, (B, S, S), bool
        Anomalous pixels.
    grid : (int, int)
        Rows and columns of patches; S is a multiple of both.
    fraction : float in [0, 1)
        A patch is anomalous where more than this share of its pixels is; 0 for any.

    Returns
    -------
    Tensor, (B, N), bool
        Row by row.

    Raises
    ------
    InputError
        If the mask cannot be divided into that grid.
    """
    height, width = mask.shape[1:]
    if height % grid[0] or width % grid[1]:
        raise InputError(f"mask: expected multiples of {grid} patches, got {height} x {width}")
    kernel = (height // grid[0], width // grid[1])
    share = F.avg_pool2d(mask.float().unsqueeze(1), kernel).flatten(1)
    # half a pixel's share of slack: a mean of zeros is exactly zero, others are rounded
    return share > fraction + 0.5 * (fraction > 0) * 1e-6


def patch_contrast(made: Tensor, normal: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much each patch differs from the normal image it was made of.

    Parameters
    ----------
    made, normal : Tensor, (B, 3, S, S), floating point
        With and without a pseudo-anomaly.
    grid : (int, int)
        Rows and columns of patches; S is a multiple of both.

    Returns
    -------
    Tensor, (B, N)
        Mean absolute difference of the pixels that differ at all; 0 where none does.
    """
    kernel = (made.shape[2] // grid[0], made.shape[3] // grid[1])
    difference = (made - normal).abs().mean(dim=1, keepdim=True)
    changed = F.avg_pool2d((difference > 0).float(), kernel).flatten(1)
    total = F.avg_pool2d(difference, kernel).flatten(1)
    return total / changed.clamp_min(torch.finfo(total.dtype).tiny)
