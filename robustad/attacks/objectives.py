"""What an attack maximises, image by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from robustad.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an objective may look at.

    Attributes
    ----------
    patch : Tensor, (B, N)
        Patch scores of the current images; carries the gradient.
    image : Tensor, (B,)
        Their image scores.
    label : Tensor, (B,), int64
        0 normal, 1 anomalous.
    mask : Tensor, (B, N), bool, or None
        Patches that are anomalous in the ground truth.
    """

    patch: Tensor
    image: Tensor
    label: Tensor
    mask: Tensor | None


Objective: TypeAlias = Callable[[Scores], Tensor]


def image(scores: Scores) -> Tensor:
    """`(1 - 2y) S`: raise the image score of normal images, lower that of anomalous ones.

    The direct attack on the score that is reported.

    Returns
    -------
    Tensor, (B,)
        Larger is better for the attacker.
    """
    return (1 - 2 * scores.label).to(scores.image.dtype) * scores.image


def flip(scores: Scores) -> Tensor:
    """Mean over normal patches minus mean over anomalous ones, PatchGuard's published attack.

    Returns
    -------
    Tensor, (B,)
        An image without patches of one kind contributes the other kind's term alone.
    """
    inside = require_mask(scores).to(scores.patch.dtype)
    outside = 1 - inside
    raised = (scores.patch * outside).sum(dim=1) / outside.sum(dim=1).clamp_min(1)
    lowered = (scores.patch * inside).sum(dim=1) / inside.sum(dim=1).clamp_min(1)
    return raised - lowered


def bce(scores: Scores) -> Tensor:
    """Mean binary cross-entropy of the patches, their scores taken for logits.

    Weighs every patch by how much it costs, where `flip` weighs the two kinds alike.

    Returns
    -------
    Tensor, (B,)
        In nats; larger is better for the attacker.
    """
    target = require_mask(scores).to(scores.patch.dtype)
    entropy = F.binary_cross_entropy_with_logits(scores.patch, target, reduction="none")
    return entropy.mean(dim=1)


def require_mask(scores: Scores) -> Tensor:
    """Return the patch masks, or raise InputError where the attack was given none."""
    if scores.mask is None:
        raise InputError("mask: this objective needs the ground-truth masks of the images")
    return scores.mask


def patch_mask(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring pixel masks to the patch grid: a patch is anomalous where any of its pixels is.

    Parameters
    ----------
    mask : Tensor, (B, H, W), bool
        Ground truth at the size of the prepared images.
    grid : (int, int)
        Rows and columns of the patch grid.

    Returns
    -------
    Tensor, (B, N), bool
        Row by row.

    Raises
    ------
    InputError
        If `mask` is not (B, H, W).
    """
    if mask.ndim != 3:
        raise InputError(f"mask: expected pixel masks (B, H, W), got {tuple(mask.shape)}")
    return F.adaptive_max_pool2d(mask.float().unsqueeze(1), grid).flatten(1) > 0


OBJECTIVES: dict[str, Objective] = {"image": image, "flip": flip, "bce": bce}


def resolve(objective: str | Objective) -> Objective:
    """Find an objective by name, or pass a callable on.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    if callable(objective):
        return objective
    if objective not in OBJECTIVES:
        raise InputError(f"objective: expected one of {sorted(OBJECTIVES)}, got {objective!r}")
    return OBJECTIVES[objective]
