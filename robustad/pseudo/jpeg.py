"""JPEG artefacts of patches on canvases: baseline quantisation with 4:2:0 chroma."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.pseudo.canvas import extend

BLOCK = 8
MULTIPLE = 2 * BLOCK  # of the canvas edge: chroma has half the resolution
# Example quantisation tables of ITU-T T.81, annex K.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


def jpeg(pixels: Tensor, height: Tensor, width: Tensor, quality: Tensor) -> Tensor:
    """What a JPEG file of the patch would give back.

    Parameters
    ----------
    pixels : Tensor, (n, 3, E, E), float32 in [0, 1]
        Canvases; E a multiple of 16.
    height, width : Tensor, (n,), int64
        Edges of the patches; their edge is repeated to whole blocks.
    quality : Tensor, (n,), int64 in 1..100
        As the libjpeg scale has it.

    Returns
    -------
    Tensor, (n, 3, E, E), float32 in [0, 1]
        Multiples of 1 / 255.
    """
    whole = torch.round(extend(pixels, height, width) * 255.0)
    ycc = torch.round(_mix(whole, _TO_YCC))
    luma = _quantise(ycc[:, :1] - 128.0, _table(_LUMA, quality))
    # As libjpeg has it: columns are repeated before halving, rows after it.
    half_height, half_width = (torch.div(e + 1, 2, rounding_mode="floor") for e in (height, width))
    full = torch.full_like(half_width, pixels.shape[3] // 2)
    chroma = extend(F.avg_pool2d(ycc[:, 1:], 2), half_height, full)
    chroma = _quantise(chroma, _table(_CHROMA, quality))
    # Decoders keep each plane in a byte, which cuts off overshoot before it mixes into colours.
    luma, chroma = (torch.round(plane).clamp(-128.0, 127.0) for plane in (luma, chroma))
    chroma = extend(chroma, half_height, half_width)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = _mix(torch.cat([luma + 128.0, chroma], dim=1), _TO_RGB)
    return torch.round(rgb).clamp(0.0, 255.0) / 255.0


def _mix(pixels: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    rows = (sum(c * pixels[:, i] for i, c in enumerate(row) if c) for row in matrix)
    return torch.stack(list(rows), dim=1)  # type: ignore[arg-type]


def _table(base: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Quantisation steps (n, 1, 1, 8, 1, 8) as libjpeg scales them."""
    scale = torch.where(
        quality < 50, torch.div(5000, quality, rounding_mode="floor"), 200 - 2 * quality
    )
    steps = torch.tensor(base, device=quality.device) * scale.view(-1, 1, 1)
    steps = torch.div(steps + 50, 100, rounding_mode="floor").clamp(1, 255)
    return steps.to(torch.float32).view(-1, 1, 1, BLOCK, 1, BLOCK)


def _quantise(planes: Tensor, steps: Tensor) -> Tensor:
    """Round the DCT coefficients of all 8 x 8 blocks of (n, C, h, w) to multiples of `steps`."""
    h, w = planes.shape[2:]
    transform = torch.tensor(_dct(), device=planes.device)
    blocks = planes.reshape(*planes.shape[:2], h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    # Both products work along an axis of 8: columns first, then rows.
    across = blocks @ transform.mT
    coefficients = torch.einsum("ki,ncaibj->ncakbj", transform, across)
    rounded = torch.round(coefficients / steps) * steps
    back = torch.einsum("ki,ncakbj->ncaibj", transform, rounded) @ transform
    return back.flatten(4, 5).flatten(2, 3)


@cache
def _dct() -> list[list[float]]:
    """Orthonormal DCT-II of length 8."""
    return [
        [
            math.sqrt((1 if k == 0 else 2) / BLOCK) * math.cos(math.pi * (i + 0.5) * k / BLOCK)
            for i in range(BLOCK)
        ]
        for k in range(BLOCK)
    ]
