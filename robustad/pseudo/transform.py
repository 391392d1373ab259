"""Drawn transformations applied to a batch of patches, each only to those that drew it."""

from collections.abc import Callable

import torch
from torch import Tensor

from robustad.pseudo import jpeg as _jpeg
from robustad.pseudo.blur import blur
from robustad.pseudo.colour import colour_jitter
from robustad.pseudo.draws import Draws
from robustad.pseudo.levels import ERASE_ASPECT, MOST_LINES, MOST_RECTANGLES, RANGES
from robustad.pseudo.paint import lines, masked_colour, rectangles
from robustad.pseudo.perlin import perlin_noise
from robustad.pseudo.warp import elastic_offsets, warp

Apply = Callable[[Tensor, Tensor, Tensor, Draws], Tensor]


def transform(pixels: Tensor, height: Tensor, width: Tensor, draws: Draws, unit: float) -> Tensor:
    """Apply what was drawn.

    Parameters
    ----------
    pixels : Tensor, (B, 3, E, E), float32 in [0, 1]
        Canvases.
    height, width : Tensor, (B,), int64
        Edges of the patches.
    draws : Draws
        Of these patches.
    unit : float
        Pixels of this image that make one at 224.

    Returns
    -------
    Tensor, (B, 3, E, E), float32 in [0, 1]
        Meaningful inside the patches.

    Notes
    -----
    By turns of a coin, colour jitter comes first or last, and elastic distortion and swirl come
    before or after what is painted; then blur, then JPEG.
    """
    chosen = draws.chosen
    elastic, swirl = chosen["elastic"], chosen["swirl"]
    # The coins are read on the CPU with everything else that decides, to not wait for a device.
    colour_early, warp_early = draws.coins["colour_early"], draws.coins["warp_early"]
    place_in_fields = elastic.cumsum(0) - 1

    def warped(which: Tensor) -> Apply:
        def apply(p: Tensor, h: Tensor, w: Tensor, own: Draws) -> Tensor:
            device, edge = p.device, p.shape[2]
            strength = own.uniform("swirl", own.slots["swirl"][:, 0])
            strength = strength * own.chosen["swirl"].to(device)
            offsets = p.new_zeros(len(p), 2, edge, edge)
            index = place_in_fields[which & elastic].to(device)
            if len(index):
                rows = own.chosen["elastic"].nonzero().squeeze(1).to(device)
                amplitude = own.uniform("elastic", own.slots["elastic"][:, 0])[rows]
                noise = draws.fields["elastic"][index]
                offsets[rows] = elastic_offsets(noise, amplitude, unit)
            return warp(p, h, w, strength=strength, offsets=offsets)

        return apply

    def perlin(p: Tensor, h: Tensor, w: Tensor, own: Draws) -> Tensor:
        u = own.slots["perlin"]
        scale = own.uniform("perlin_scale", u[:, 0]) * unit
        threshold = own.integer("perlin_threshold", u[:, 1]) / 255.0
        noise = perlin_noise(draws.fields["perlin"], scale, p.shape[2])
        return masked_colour(p, h, w, noise, threshold, u[:, 2:])

    def blurred(p: Tensor, h: Tensor, w: Tensor, own: Draws) -> Tensor:
        sigma = own.uniform("blur", own.slots["blur"][:, 0]) * unit
        return blur(p, h, w, sigma, radius=max(1, round(4 * RANGES["blur"][-1][1] * unit)))

    warping = elastic | swirl
    steps: list[tuple[Tensor, Apply]] = [
        (chosen["colour"] & colour_early, colour_jitter),
        (warping & warp_early, warped(warping & warp_early)),
        (chosen["erasing"], _erase),
        (chosen["lines"], _draw_lines),
        (chosen["perlin"], perlin),
        (warping & ~warp_early, warped(warping & ~warp_early)),
        (chosen["blur"], blurred),
        (chosen["jpeg"], _compress),
        (chosen["colour"] & ~colour_early, colour_jitter),
    ]
    for which, apply in steps:
        index = which.nonzero().squeeze(1).to(pixels.device)
        if len(index):
            new = apply(pixels[index], height[index], width[index], draws.rows(which))
            pixels = pixels.index_copy(0, index, new)
    return pixels.clamp(0.0, 1.0)


def _compress(p: Tensor, h: Tensor, w: Tensor, own: Draws) -> Tensor:
    return _jpeg.jpeg(p, h, w, own.integer("jpeg", own.slots["jpeg"][:, 0]))


def _draw_lines(p: Tensor, h: Tensor, w: Tensor, own: Draws) -> Tensor:
    u = own.slots["line"].reshape(-1, MOST_LINES, 7)
    edges = torch.stack([h, w, h, w], dim=1)[:, None]
    ends = torch.minimum(torch.floor(u[..., :4] * edges).long(), edges - 1)
    colours = (u[..., 4:] >= 0.5).to(p.dtype)
    return lines(p, ends, colours, own.integer("lines", own.slots["lines"][:, 0]))


def _erase(p: Tensor, h: Tensor, w: Tensor, own: Draws) -> Tensor:
    u = own.slots["rectangle"].reshape(-1, MOST_RECTANGLES, 6)
    ratio = own.uniform("erase_ratio", own.slots["erasing"][:, 0])
    low, high = ERASE_ASPECT
    aspect = low + u[..., 0] * (high - low)
    area = (ratio * h * w)[:, None]
    height = torch.minimum(torch.sqrt(area / aspect).round().long().clamp(min=1), h[:, None])
    width = torch.minimum(torch.sqrt(area * aspect).round().long().clamp(min=1), w[:, None])
    top = torch.floor(u[..., 1] * (h[:, None] - height + 1)).long()
    left = torch.floor(u[..., 2] * (w[:, None] - width + 1)).long()
    boxes = torch.stack([top, left, height, width], dim=2)
    number = own.integer("erase_rectangles", own.slots["erasing"][:, 1])
    return rectangles(p, boxes, u[..., 3:], number)
