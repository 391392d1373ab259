"""A picture of what a network will be trained on: normal, pseudo-anomaly, mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad.errors import InputError
from robustad.pseudo.generator import PseudoBatch

ROWS = ("normal", "pseudo", "mask")
OUTLINE = (0.0, 1.0, 0.35)
GAP = 4
LABEL_WIDTH = 56


def outlined(images: Tensor, mask: Tensor, colour: tuple[float, float, float] = OUTLINE) -> Tensor:
    """Draw the border of masks (B, H, W) into copies of images (B, 3, H, W).

    A border pixel is one of the mask with a neighbour (of 4) outside it; the image's own edge
    counts as outside.
    """
    padded = torch.nn.functional.pad(mask, (1, 1, 1, 1))
    inside = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    border = (mask & ~inside)[:, None]
    return torch.where(border, images.new_tensor(colour).view(1, 3, 1, 1), images)


def preview_grid(
    images: Tensor, made: PseudoBatch, foreground: Tensor | None = None
) -> npt.NDArray[np.uint8]:
    """Lay out images, their pseudo-anomalies and masks in three labelled rows.

    Parameters
    ----------
    images : Tensor, (B, 3, H, W), floating point in [0, 1]
        Normal images; a column each.
    made : PseudoBatch
        What was made of them.
    foreground : Tensor, (B, H, W), bool, or None
        Outlined in the first row; None for no outline.

    Returns
    -------
    array, (height, width, 3), uint8
        After Figure 4 of the supplement of Nafez et al., PatchGuard (CVPR 2025).

    Raises
    ------
    InputError
        If there is no image.
    """
    if len(images) == 0:
        raise InputError("images: expected at least one, got none")
    normal = images if foreground is None else outlined(images, foreground.to(images.device))
    mask = made.mask[:, None].to(images.dtype).expand_as(images)
    rows = torch.stack([normal, made.images, mask]).float().cpu()
    count, _, height, width = images.shape
    pixels = np.rint(rows.permute(0, 1, 3, 4, 2).numpy() * 255).astype(np.uint8)
    down, across = height + GAP, width + GAP
    out = np.full((3 * down + GAP, LABEL_WIDTH + count * across + GAP, 3), 255, np.uint8)
    for row in range(3):
        for column in range(count):
            top, left = GAP + row * down, LABEL_WIDTH + GAP + column * across
            out[top : top + height, left : left + width] = pixels[row, column]
    return _labelled(out, [GAP + row * down + height // 2 for row in range(3)])


def _labelled(picture: npt.NDArray[np.uint8], middles: list[int]) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(size=14)
    for name, middle in zip(ROWS, middles, strict=True):
        left, top, right, bottom = pen.textbbox((0, 0), name)
        pen.text(
            ((LABEL_WIDTH - right + left) / 2, middle - (bottom - top) / 2), name, fill=(0, 0, 0)
        )
    return np.asarray(image)
