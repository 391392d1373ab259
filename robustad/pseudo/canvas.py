"""Patches of many sizes on one square canvas each, top left, and back into their images.

A canvas is (B, 3, E, E) with the patch in its first `height` rows and `width` columns. What lies
beyond has no meaning; transformations that need it repeat the patch's edge there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cut(images: Tensor, y: Tensor, x: Tensor, height: Tensor, width: Tensor, edge: int) -> Tensor:
    """Copy boxes out of images.

    Parameters
    ----------
    images : Tensor, (B, 3, H, W), floating point
        The images.
    y, x, height, width : Tensor, (B,), int64
        Boxes inside the images.
    edge : int
        Edge of the canvas in pixels, at least that of every box.

    Returns
    -------
    Tensor, (B, 3, edge, edge)
        The box's last row and column are repeated beyond it.
    """
    steps = torch.arange(edge, device=images.device)
    rows = y[:, None] + torch.minimum(steps, height[:, None] - 1)
    columns = x[:, None] + torch.minimum(steps, width[:, None] - 1)
    return _gather(images, rows, columns)


def extend(pixels: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Repeat each patch's last row and column over the rest of its canvas."""
    zero = torch.zeros_like(height)
    return cut(pixels, zero, zero, height, width, pixels.shape[2])


def sample(pixels: Tensor, y: Tensor, x: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Bilinear values of canvases (n, 3, E, E) at points (n, R, C) in pixels.

    Points beyond the patch take its nearest edge value.
    """
    last_row, last_column = (edge.view(-1, 1, 1).to(y.dtype) - 1 for edge in (height, width))
    y = torch.minimum(y.clamp(min=0.0), last_row)
    x = torch.minimum(x.clamp(min=0.0), last_column)
    grid = torch.stack([x, y], dim=-1) * (2.0 / (pixels.shape[2] - 1)) - 1.0
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=True)


def window(position: Tensor, edge: int, limit: int) -> Tensor:
    """Start (B,) of a run of `edge` pixels from `position`, moved to end within `limit`."""
    return position.clamp(max=limit - edge)


def rotation_points(
    rows: Tensor, columns: Tensor, height: Tensor, width: Tensor, angle: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each pixel of a target box comes from when its patch is rotated.

    The rotated patch is scaled so that the box around it becomes the box itself.

    Parameters
    ----------
    rows, columns : Tensor, (n, R) and (n, C), float32
        Pixels, counted from the top left corner of the target box.
    height, width : Tensor, (n,)
        Edges of the box, and of the patch.
    angle : Tensor, (n,), float32
        In radians, counter-clockwise as seen.

    Returns
    -------
    y, x : Tensor, (n, R, C)
        Points in the patch, in pixels.
    support : Tensor, (n, R, C), bool
        Pixels that are in the box and come from inside the patch.
    """
    h, w, angle = (value.view(-1, 1, 1).to(torch.float32) for value in (height, width, angle))
    rows, columns = rows[:, :, None], columns[:, None, :]
    cos, sin = torch.cos(angle), torch.sin(angle)
    dy = (rows - (h - 1) / 2) * ((w * sin.abs() + h * cos.abs()) / h)
    dx = (columns - (w - 1) / 2) * ((w * cos.abs() + h * sin.abs()) / w)
    y, x = cos * dy + sin * dx, cos * dx - sin * dy
    # Half a pixel beyond the outermost centres is the patch's border; a hair for rounding.
    support = (y.abs() <= h / 2 + 1e-4) & (x.abs() <= w / 2 + 1e-4)
    in_box = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    return y + (h - 1) / 2, x + (w - 1) / 2, support & in_box


def paste(
    images: Tensor,
    mask: Tensor,
    patch: Tensor,
    support: Tensor,
    y: Tensor,
    x: Tensor,
    opacity: Tensor,
) -> tuple[Tensor, Tensor]:
    """Put windows into images where their support says so; every other pixel stays as it is.

    Parameters
    ----------
    images : Tensor, (B, 3, H, W), floating point
        The images.
    mask : Tensor, (B, H, W), bool
        What has been pasted so far.
    patch : Tensor, (B, 3, R, C), floating point
        Windows.
    support : Tensor, (B, R, C), bool
        Their pixels that count.
    y, x : Tensor, (B,), int64
        Top left corners; windows lie within the images.
    opacity : Tensor, (B,), floating point in (0, 1]
        Weight of the patch.

    Returns
    -------
    images, mask : Tensor
        New tensors.
    """
    rows, columns = patch.shape[2:]
    index = (y[:, None, None] + torch.arange(rows, device=y.device)[:, None]) * images.shape[3]
    index = (index + x[:, None, None] + torch.arange(columns, device=y.device)).flatten(1)
    spread = index[:, None].expand(-1, images.shape[1], -1)
    flat, flat_mask = images.flatten(2), mask.flatten(1)
    under = flat.gather(2, spread)
    over = patch.flatten(2).to(images.dtype)
    weight = opacity.view(-1, 1, 1).to(images.dtype)
    # A weight of 1 must not let rounding of the other term in.
    blended = torch.where(weight == 1, over, torch.lerp(under, over, weight))
    pasted = torch.where(support.flatten(1)[:, None], blended, under)
    # Indices are distinct within an image, so that the order of writing does not matter.
    flat = flat.scatter(2, spread, pasted)
    flat_mask = flat_mask.scatter(1, index, flat_mask.gather(1, index) | support.flatten(1))
    return flat.view(images.shape), flat_mask.view(mask.shape)


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels (B, C, R, K) of images at the crossings of rows (B, R) and columns (B, K)."""
    index = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).flatten(1)
    values = images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1))
    return values.view(*images.shape[:2], rows.shape[1], columns.shape[1])
