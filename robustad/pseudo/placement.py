"""Where patches are cut and pasted: boxes inside a foreground, by integral images."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Tries an image has for a size and two places; the last one always fits where anything does.
TRIES = 64
# Uniform numbers that `place` takes a try: height, width, source, target.
DRAWS_A_TRY = 4


class Boxes(NamedTuple):
    """Source and target boxes of one size in each image, all (B,), int64.

    Attributes
    ----------
    height, width : Tensor
        Edges in pixels.
    source_y, source_x, target_y, target_x : Tensor
        Top left corners.
    """

    height: Tensor
    width: Tensor
    source_y: Tensor
    source_x: Tensor
    target_y: Tensor
    target_x: Tensor


def integral(mask: Tensor) -> Tensor:
    """Integral image (B, H + 1, W + 1), int32, of masks (B, H, W): sums over [0, y) x [0, x)."""
    sums = mask.to(torch.int32).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return F.pad(sums, (1, 0, 1, 0))


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Grow masks (B, H, W), bool, by a square of `radius` pixels to each side."""
    if radius == 0:
        return mask
    height, width = mask.shape[1:]
    sums = integral(F.pad(mask, (radius, radius, radius, radius)))
    edge = 2 * radius + 1
    inside = sums[:, edge:, edge:] - sums[:, :-edge, edge:]
    inside = inside - sums[:, edge:, :-edge] + sums[:, :-edge, :-edge]
    return inside[:, :height, :width] > 0


def place(foreground: Tensor, low: int, high: int, u: Tensor) -> Boxes:
    """Draw a source and a target box of one size inside each foreground.

    Parameters
    ----------
    foreground : Tensor, (B, H, W), bool
        At least one pixel in each image.
    low, high : int
        Least and largest edge in pixels; both at most H and W.
    u : Tensor, (B, 64, 4), float32 in [0, 1)
        Uniform numbers.

    Returns
    -------
    Boxes
        Both boxes lie in the foreground. Where no box of `low` x `low` does, they have that size
        and are centred on a foreground pixel each, moved into the image.

    Notes
    -----
    All tries are judged at once. Corners are drawn among those at which the least box fits; edges
    are drawn between `low` and a limit that stays at `high` for the first half of the tries and
    then sinks to `low`. The first try whose two boxes are different and fit is taken.
    """
    height, width = foreground.shape[1:]
    sums = integral(foreground)
    fits = sums[:, low:, low:] - sums[:, :-low, low:]
    fits = fits - sums[:, low:, :-low] + sums[:, :-low, :-low] == low * low
    columns = width - low + 1
    corners = fits.flatten(1).cumsum(1, dtype=torch.int32)
    source, target = _pick(corners, u[..., 2]), _pick(corners, u[..., 3])

    tries = u.shape[1]
    ramp = torch.linspace(2.0, 0.0, tries, device=u.device).clamp(max=1.0)
    span = torch.floor((high - low) * ramp) + 1
    h = (low + torch.floor(u[..., 0] * span).long()).clamp(max=high)
    w = (low + torch.floor(u[..., 1] * span).long()).clamp(max=high)
    good = _inside(sums, source // columns, source % columns, h, w)
    good &= _inside(sums, target // columns, target % columns, h, w) & (source != target)
    good[:, -1] = True
    first = good.to(torch.uint8).argmax(dim=1, keepdim=True)
    h, w, source, target = (value.gather(1, first).squeeze(1) for value in (h, w, source, target))

    pixels = foreground.flatten(1).cumsum(1, dtype=torch.int32)
    thin = corners[:, -1] == 0
    boxes = [h, w]
    for corner, number in ((source, u[:, -1, 2:3]), (target, u[:, -1, 3:4])):
        pixel = _pick(pixels, number).squeeze(1)
        y = (pixel // width - low // 2).clamp(0, height - low)
        x = (pixel % width - low // 2).clamp(0, width - low)
        boxes += [torch.where(thin, y, corner // columns), torch.where(thin, x, corner % columns)]
    boxes[:2] = [edge.where(~thin, low) for edge in boxes[:2]]
    return Boxes(*boxes)


def _pick(cumulative: Tensor, u: Tensor) -> Tensor:
    """Index (B, J) of a set element, uniformly, from the counts (B, N) up to each."""
    total = cumulative[:, -1:]
    rank = torch.minimum((u.double() * total).floor().to(torch.int32), total - 1)
    found = torch.searchsorted(cumulative, rank + 1)
    return found.clamp(max=cumulative.shape[1] - 1)


def _inside(sums: Tensor, y: Tensor, x: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """Whether boxes (B, J) lie in the image and in the foreground."""
    rows, columns = sums.shape[1:]
    bottom, right = y + h, x + w
    within = (bottom < rows) & (right < columns)
    bottom, right = bottom.clamp(max=rows - 1), right.clamp(max=columns - 1)
    flat = sums.flatten(1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return flat.gather(1, row * columns + column)

    covered = at(bottom, right) - at(y, right) - at(bottom, x) + at(y, x)
    return within & (covered == h * w)
