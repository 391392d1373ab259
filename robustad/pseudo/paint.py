"""Painting over patches on canvases: lines, erased rectangles, Perlin-masked colour."""

import torch
from torch import Tensor


def lines(pixels: Tensor, ends: Tensor, colours: Tensor, number: Tensor) -> Tensor:
    """Draw straight lines one pixel wide.

    Parameters
    ----------
    pixels : Tensor, (n, 3, E, E), float32
        Canvases.
    ends : Tensor, (n, L, 4), int64
        Row and column of both ends, inside the patch.
    colours : Tensor, (n, L, 3), float32
        One a line.
    number : Tensor, (n,), int64
        How many of the lines are drawn; a later line covers an earlier one.

    Returns
    -------
    Tensor, (n, 3, E, E), float32
        New canvases.
    """
    count, edge = ends.shape[1], pixels.shape[2]
    # As many points as the canvas has rows leave no gap in any line.
    t = torch.linspace(0.0, 1.0, edge, device=pixels.device)
    start, end = ends[..., :2].float(), ends[..., 2:].float()
    points = start[..., None] + (end - start)[..., None] * t  # (n, L, 2, E)
    row, column = torch.floor(points + 0.5).long().unbind(2)
    order = torch.arange(1, count + 1, device=pixels.device)
    order = order * (order <= number[:, None])
    # The highest line number at each pixel: unlike writing colours, independent of the order.
    top = torch.zeros(len(pixels), edge * edge, dtype=torch.int64, device=pixels.device)
    top = top.scatter_reduce(
        1, (row * edge + column).flatten(1), order[..., None].expand_as(row).flatten(1), "amax"
    )
    return _fill(pixels, top, colours)


def rectangles(pixels: Tensor, boxes: Tensor, colours: Tensor, number: Tensor) -> Tensor:
    """Fill rectangles.

    Parameters
    ----------
    pixels : Tensor, (n, 3, E, E), float32
        Canvases.
    boxes : Tensor, (n, R, 4), int64
        Top, left, height and width.
    colours : Tensor, (n, R, 3), float32
        One a rectangle.
    number : Tensor, (n,), int64
        How many are filled; a later one covers an earlier one.

    Returns
    -------
    Tensor, (n, 3, E, E), float32
        New canvases.
    """
    steps = torch.arange(pixels.shape[2], device=pixels.device)
    top, left, height, width = boxes[..., None].unbind(2)  # (n, R, 1)
    rows = (steps >= top) & (steps < top + height)
    columns = (steps >= left) & (steps < left + width)
    order = torch.arange(1, boxes.shape[1] + 1, device=pixels.device, dtype=torch.uint8)
    order = order * (order <= number[:, None])
    inside = rows[..., :, None] & columns[..., None, :]
    return _fill(pixels, (inside * order[..., None, None]).amax(dim=1).flatten(1), colours)


def masked_colour(
    pixels: Tensor, height: Tensor, width: Tensor, noise: Tensor, threshold: Tensor, colour: Tensor
) -> Tensor:
    """Fill the patch with one colour where noise is high.

    Parameters
    ----------
    pixels : Tensor, (n, 3, E, E), float32
        Canvases.
    height, width : Tensor, (n,), int64
        Edges of the patches.
    noise : Tensor, (n, E, E), float32
        Any range; it is brought to [0, 1] over the patch.
    threshold : Tensor, (n,), float32 in [0, 1]
        Pixels above it are filled.
    colour : Tensor, (n, 3), float32
        One a patch.

    Returns
    -------
    Tensor, (n, 3, E, E), float32
        New canvases.
    """
    steps = torch.arange(noise.shape[1], device=noise.device)
    inside = (steps < height[:, None])[:, :, None] & (steps < width[:, None])[:, None, :]
    low = noise.masked_fill(~inside, torch.inf).amin(dim=(1, 2), keepdim=True)
    high = noise.masked_fill(~inside, -torch.inf).amax(dim=(1, 2), keepdim=True)
    level = (noise - low) / (high - low).clamp(min=1e-12)
    filled = (level > threshold.view(-1, 1, 1)) & inside
    return torch.where(filled[:, None], colour[:, :, None, None], pixels)


def _fill(pixels: Tensor, top: Tensor, colours: Tensor) -> Tensor:
    """Give each pixel the colour that `top` (n, E * E) counts from 1; 0 leaves it as it is."""
    index = (top.long() - 1).clamp(min=0)[:, None].expand(-1, 3, -1)
    painted = colours.mT.gather(2, index)
    return torch.where(top[:, None] > 0, painted, pixels.flatten(2)).view(pixels.shape)
