"""Gaussian blur of patches on canvases, each with its own width."""

import torch
from torch import Tensor


def gaussian_weights(sigma: Tensor, edge: int, radius: int) -> Tensor:
    """Matrices (n, edge, edge + 2 radius) that blur a line padded by `radius` to each side.

    Row i holds a Gaussian of `sigma` (n,) pixels around i + radius, cut at `radius`, normalised.
    """
    rows = torch.arange(edge, device=sigma.device)[:, None]
    distance = torch.arange(edge + 2 * radius, device=sigma.device) - radius - rows
    weights = torch.exp(-0.5 * (distance / sigma.view(-1, 1, 1)) ** 2)
    weights = weights * (distance.abs() <= radius)
    return weights / weights.sum(dim=2, keepdim=True)


def blur(pixels: Tensor, height: Tensor, width: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur with the patch's edge repeated.

    Parameters
    ----------
    pixels : Tensor, (n, 3, E, E), float32
        Canvases.
    height, width : Tensor, (n,), int64
        Edges of the patches.
    sigma : Tensor, (n,), float32 > 0
        Standard deviation in pixels.
    radius : int
        Where the Gaussian is cut, in pixels.

    Returns
    -------
    Tensor, (n, 3, E, E), float32
        Meaningful inside the patch.
    """
    edge = pixels.shape[2]
    weights = gaussian_weights(sigma, edge, radius)[:, None]
    steps = torch.arange(-radius, edge + radius, device=pixels.device).clamp(min=0)
    rows = torch.minimum(steps, height[:, None] - 1)[:, None, :, None]
    columns = torch.minimum(steps, width[:, None] - 1)[:, None, None, :]
    pixels = weights @ pixels.gather(2, rows.expand(-1, pixels.shape[1], -1, edge))
    return pixels.gather(3, columns.expand(-1, pixels.shape[1], edge, -1)) @ weights.mT
