"""Elastic distortion and swirl of patches on canvases, in one resampling."""

import torch
from torch import Tensor

from robustad.pseudo.blur import gaussian_weights
from robustad.pseudo.canvas import sample
from robustad.pseudo.levels import ELASTIC_SIGMA


def swirl_points(
    y: Tensor, x: Tensor, height: Tensor, width: Tensor, strength: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn points around the patch's centre, the less the farther away.

    Parameters
    ----------
    y, x : Tensor, (n, R, C), float32
        Points in pixels.
    height, width : Tensor, (n,), int64
        Edges of the patches.
    strength : Tensor, (n,), float32
        Angle at the centre in radians; it falls as a Gaussian of a third of the shorter edge.

    Returns
    -------
    y, x : Tensor, (n, R, C), float32
        Points in pixels.
    """
    centre_y = torch.div(height, 2, rounding_mode="floor").view(-1, 1, 1)
    centre_x = torch.div(width, 2, rounding_mode="floor").view(-1, 1, 1)
    sigma = torch.div(torch.minimum(height, width), 3, rounding_mode="floor").clamp(min=1)
    dy, dx = y - centre_y, x - centre_x
    falloff = torch.exp(-(dy * dy + dx * dx) / (2.0 * sigma.view(-1, 1, 1) ** 2))
    angle = strength.view(-1, 1, 1) * falloff
    cos, sin = torch.cos(angle), torch.sin(angle)
    return centre_y + dx * sin + dy * cos, centre_x + dx * cos - dy * sin


def elastic_offsets(noise: Tensor, amplitude: Tensor, unit: float) -> Tensor:
    """Smooth displacements of every pixel.

    Parameters
    ----------
    noise : Tensor, (n, 2, E, E), float32 in [-1, 1]
        Noise along y and x.
    amplitude : Tensor, (n,), float32
        Factor on the smoothed noise, in pixels at 224.
    unit : float
        Pixels of this image that make one at 224.

    Returns
    -------
    Tensor, (n, 2, E, E), float32
        In pixels. Smoothing is Gaussian with sigma 3 pixels at 224, edges repeated.
    """
    edge = noise.shape[-1]
    sigma = torch.tensor([ELASTIC_SIGMA * unit], device=noise.device)
    radius = max(1, round(4 * ELASTIC_SIGMA * unit))
    weights = gaussian_weights(sigma, edge, radius)[0]
    index = torch.arange(-radius, edge + radius, device=noise.device).clamp(0, edge - 1)
    # Noise narrows by its number of averaged pixels, hence the second factor of `unit`.
    gain = amplitude.view(-1, 1, 1, 1) * unit * unit
    smooth = weights @ noise[..., index, :]
    return gain * (smooth[..., index] @ weights.mT)


def warp(
    pixels: Tensor,
    height: Tensor,
    width: Tensor,
    *,
    strength: Tensor,
    offsets: Tensor,
) -> Tensor:
    """Swirl, then displace; sampled once, bilinearly.

    Parameters
    ----------
    pixels : Tensor, (n, 3, E, E), float32
        Canvases.
    height, width : Tensor, (n,), int64
        Edges of the patches.
    strength : Tensor, (n,), float32
        Of the swirl in radians; 0 for none.
    offsets : Tensor, (n, 2, E, E), float32
        Displacement along y and x in pixels; 0 for none.

    Returns
    -------
    Tensor, (n, 3, E, E), float32
        Points beyond the patch take its nearest edge value.
    """
    steps = torch.arange(pixels.shape[2], device=pixels.device, dtype=torch.float32)
    y, x = steps[:, None] + offsets[:, 0], steps + offsets[:, 1]
    y, x = swirl_points(y, x, height, width, strength)
    return sample(pixels, y, x, height, width)
