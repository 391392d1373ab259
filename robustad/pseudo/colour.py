"""Colour jitter of patches on canvases."""

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
    return shift_hue(pixels, hue).clamp(0.0, 1.0)


def shift_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of pixels (n, 3, E, E) by `turns` (n,), keeping value and saturation (HSV)."""
    red, green, blue = pixels.unbind(dim=1)
    value = pixels.amax(dim=1)
    chroma = value - pixels.amin(dim=1)
    # Hue in sixths of a turn; grey pixels have none, and none is needed.
    divisor = chroma.clamp_min(torch.finfo(pixels.dtype).tiny)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    corners = pixels.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    turned = (sixths + 6 * turns.view(-1, 1, 1))[:, None] + corners
    place = turned.remainder(6.0)
    share = torch.minimum(place, 4 - place).clamp(0.0, 1.0)
    return value[:, None] - chroma[:, None] * share


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
