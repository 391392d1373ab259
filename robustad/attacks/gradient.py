"""One gradient of an objective with respect to the images, checked."""

from collections.abc import Callable

import torch
from torch import Tensor

from robustad.errors import InputError

# Loss per image (B,) of images (B, 3, H, W).
ImageLoss = Callable[[Tensor], Tensor]


def value_and_gradient(loss: ImageLoss, x: Tensor) -> tuple[Tensor, Tensor]:
    """Loss (B,) at `x`, and its gradient (B, 3, H, W) with respect to `x` alone.

    Raises
    ------
    InputError
        If the loss is not one value an image, does not depend on `x` differentiably, or its
        gradient is not finite.
    """
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        values = loss(leaf)
        if values.shape != x.shape[:1]:
            raise InputError(
                f"objective: expected one loss an image, ({x.shape[0]},), got {tuple(values.shape)}"
            )
        gradient = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise InputError(
                "detector: its patch scores carry no gradient to the images; "
                "a white-box attack needs a differentiable patch_scores"
            )
    if not bool(torch.isfinite(gradient).all()):
        bad = (~torch.isfinite(gradient)).flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise InputError(f"detector: its gradient is not finite for images {bad} of the batch")
    return values.detach(), gradient
