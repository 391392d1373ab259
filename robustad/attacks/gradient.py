"""One gradient of an objective with respect to the images, checked."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustad.errors import InputError

# Loss per image (B,) of images (B, 3, H, W).
ImageLoss = Callable[[Tensor], Tensor]


def value_and_gradient(
    loss: ImageLoss, x: Tensor, *, lenient: bool = False
) -> tuple[Tensor, Tensor, list[float]]:
    """Loss at images, and its gradient with respect to them alone.

    Parameters
    ----------
    loss : callable
        Loss per image (B,) of images (B, 3, H, W).
    x : Tensor, (B, 3, H, W), floating point
        Where; not changed.
    lenient : bool, default False
        Let gradient entries that are not finite count as zero, as low precision may overflow.

    Returns
    -------
    values : Tensor, (B,)
        The loss.
    gradient : Tensor, (B, 3, H, W)
        Of its sum.
    largest : list of float
        Largest magnitude of each image's gradient before entries were set to zero.

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
                "detector: its patch scores carry no gradient to the images; a white-box attack "
                "needs a differentiable patch_scores, black-box attacks (square, spsa, "
                "hopskipjump, transfer) do not"
            )
    # Infinite and undefined entries show in the largest. Twice over the gradient is faster than
    # its magnitudes in memory; this also waits for it, the only time in a step.
    flat = gradient.flatten(1)
    largest: list[float] = torch.maximum(flat.amax(dim=1), -flat.amin(dim=1)).tolist()
    bad = [place for place, size in enumerate(largest) if not math.isfinite(size)]
    if bad:
        if not lenient:
            raise InputError(f"detector: its gradient is not finite for images {bad} of the batch")
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    return values.detach(), gradient, largest
