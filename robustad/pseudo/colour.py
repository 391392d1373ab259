"""Colour jitter of patches on canvases."""

import math

import torch
from torch import Tensor

from robustad.pseudo.draws import Draws

LUMA = (0.299, 0.587, 0.114)


def adjust_colour(
    pixels: Tensor,
    height: Tensor,
    width: Tensor,
    *,
    brightness: Tensor,
    contrast: Tensor,
    saturation: Tensor,
    hue: Tensor,
) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order.

    Parameters
    ----------
    pixels : Tensor, (n, 3, E, E), float32 in [0, 1]
        Canvases.
    height, width : Tensor, (n,), int64
        Edges of the patches.
    brightness, contrast, saturation : Tensor, (n,), float32 >= 0
        Factors; 1 changes nothing. Contrast is about the patch's mean luma, saturation about each
        pixel's.
    hue : Tensor, (n,), float32
        Shift in turns; 0 changes nothing.

    Returns
    -------
    Tensor, (n, 3, E, E), float32 in [0, 1]
        Each step is clipped.
    """
    from kornia.enhance import adjust_hue

    brightness, contrast, saturation = (
        factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation)
    )
    steps = torch.arange(pixels.shape[2], device=pixels.device)
    inside = (steps < height[:, None])[:, :, None] & (steps < width[:, None])[:, None, :]
    pixels = (pixels * brightness).clamp(0.0, 1.0)
    mean = (_luma(pixels) * inside[:, None]).sum(dim=(2, 3), keepdim=True)
    mean = mean / (height * width).view(-1, 1, 1, 1)
    pixels = torch.lerp(mean, pixels, contrast).clamp(0.0, 1.0)
    pixels = torch.lerp(_luma(pixels), pixels, saturation).clamp(0.0, 1.0)
    shifted: Tensor = adjust_hue(pixels, hue * (2 * math.pi))
    return shifted.clamp(0.0, 1.0)


def colour_jitter(pixels: Tensor, height: Tensor, width: Tensor, draws: Draws) -> Tensor:
    """`adjust_colour` with drawn factors."""
    u = draws.slots["colour"].unbind(1)
    names = ("brightness", "contrast", "saturation", "hue")
    spread = {name: draws.uniform(name, u[i]) for i, name in enumerate(names)}
    drawn = {name: (2 * u[4 + i] - 1) * spread[name] for i, name in enumerate(names)}
    factors = {name: 1 + drawn[name] for name in names[:3]}
    return adjust_colour(pixels, height, width, **factors, hue=drawn["hue"])


def _luma(pixels: Tensor) -> Tensor:
    weights = pixels.new_tensor(LUMA).view(1, 3, 1, 1)
    return (pixels * weights).sum(dim=1, keepdim=True)
