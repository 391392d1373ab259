"""Foreground of an object image from its patch tokens: AnomalyDINO's zero-shot mask."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Unit = Literal["absolute", "std"]
# Squaring a covariance matrix this often raises it to the power 1024, which leaves a second
# component of 99% of the first one's variance at 3e-5 of it.
SQUARINGS = 10
# Each margin around the central 60% is a fifth of the edge; in integers, so that it can be exported
# with a dynamic size.
MARGINS_AN_EDGE = 5
MIN_CENTRE_COVER = 0.35


@torch.no_grad()
def foreground_mask(
    tokens: Tensor, grid: tuple[int, int], *, threshold: float = 10.0, unit: Unit = "absolute"
) -> Tensor:
    """Which patches belong to the object.

    Parameters
    ----------
    tokens : Tensor, (B, N, D), floating point
        Patch tokens of each image.
    grid : (int, int)
        Rows and columns of the patch grid, N together.
    threshold : float, default 10
        A patch is foreground where its first principal component exceeds this; the default is
        AnomalyDINO's for DINOv2 ViT-S/14.
    unit : {"absolute", "std"}, default "absolute"
        Whether `threshold` is in units of the tokens or of the component's standard deviation,
        which makes sense for any backbone.

    Returns
    -------
    Tensor, (B, N), bool
        Constant in the backward pass. An image in which nothing is found is all foreground.

    Notes
    -----
    The component's sign is flipped where the mask covers at most 35% of the image's central 60%;
    then it is dilated by 3 x 3 and closed (Damm et al., WACV 2025). Everything is expressed in
    tensor operations of fixed shape, so that it can be exported.
    """
    component = first_component(tokens)
    if unit == "std":
        deviation = component.square().mean(dim=1, keepdim=True).sqrt()
        component = component / deviation.clamp_min(1e-12)
    rows, columns = grid
    shape = (component.shape[0], 1, rows, columns)
    positive = (component > threshold).float().reshape(shape)
    negative = (component < -threshold).float().reshape(shape)
    top, left = rows // MARGINS_AN_EDGE, columns // MARGINS_AN_EDGE
    centre = positive[:, :, top : rows - top, left : columns - left]
    flip = centre.mean(dim=(1, 2, 3), keepdim=True) <= MIN_CENTRE_COVER
    mask = torch.where(flip, negative, positive)
    mask = _erode(_dilate(_dilate(mask)))  # dilate, then close: dilate again and erode
    mask = torch.where(mask.amax(dim=(1, 2, 3), keepdim=True) > 0, mask, torch.ones_like(mask))
    foreground: Tensor = mask.flatten(1) > 0.5
    return foreground


def first_component(tokens: Tensor) -> Tensor:
    """Project centred tokens (B, N, D) on their first principal axis: (B, N), float32.

    The sign is such that the axis's largest coefficient is positive.
    """
    centred = tokens.float() - tokens.float().mean(dim=1, keepdim=True)
    power = centred.transpose(1, 2) @ centred
    for _ in range(SQUARINGS):
        power = power / torch.linalg.matrix_norm(power, keepdim=True).clamp_min(1e-30)
        power = power @ power
    # power is now a multiple of axis axis^T; its largest diagonal entry marks its best column
    best = power.diagonal(dim1=1, dim2=2).argmax(dim=1)
    axis = power.gather(2, best[:, None, None].expand(-1, power.shape[1], 1))
    axis = axis / torch.linalg.vector_norm(axis, dim=1, keepdim=True).clamp_min(1e-30)
    component: Tensor = (centred @ axis).squeeze(2)
    return component


def _dilate(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask, 3, stride=1, padding=1)


def _erode(mask: Tensor) -> Tensor:
    return -F.max_pool2d(-mask, 3, stride=1, padding=1)
