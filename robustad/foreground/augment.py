"""Augmentations that keep what an image shows (soft) and ones that destroy it (hard)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.pseudo.colour import adjust_colour
from robustad.pseudo.warp import elastic_offsets, warp

Augment = Callable[[Tensor, torch.Generator], Tensor]


def augmented(images: Tensor, seed: int, soft: int, hard: int) -> tuple[list[Tensor], list[Tensor]]:
    """Variants of images; the same random numbers for every image.

    Parameters
    ----------
    images : Tensor, (B, 3, S, S), float32 in [0, 1]
        Square images.
    seed : int
        Of the random numbers.
    soft, hard : int
        Number of variants. The first soft one is the image itself; then colour jitter, tint,
        greyscale and slight noise take turns. Hard ones are a large rotation, an extreme crop, an
        elastic distortion and heavy noise in turns.

    Returns
    -------
    soft, hard : list of Tensor, (B, 3, S, S), float32 in [0, 1]
        The variants.
    """
    generator = torch.Generator().manual_seed(seed)
    gentle = [images]
    gentle += [SOFT[i % len(SOFT)](images, generator) for i in range(soft - 1)]
    harsh = [HARD[i % len(HARD)](images, generator) for i in range(hard)]
    return [x.clamp(0.0, 1.0) for x in gentle], [x.clamp(0.0, 1.0) for x in harsh]


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    edge = torch.full((len(images),), images.shape[2], device=images.device)

    def drawn(low: float, high: float) -> Tensor:
        return images.new_full((len(images),), _between(low, high, generator))

    return adjust_colour(
        images,
        edge,
        edge,
        brightness=drawn(0.8, 1.2),
        contrast=drawn(0.8, 1.2),
        saturation=drawn(0.8, 1.2),
        hue=drawn(-0.05, 0.05),
    )


def _tint(images: Tensor, generator: torch.Generator) -> Tensor:
    colour = torch.rand(1, 3, 1, 1, generator=generator).to(images)
    return torch.lerp(images, colour.expand_as(images), 0.15)


def _greyscale(images: Tensor, generator: torch.Generator) -> Tensor:
    weights = images.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True).expand_as(images)


def _noise(images: Tensor, generator: torch.Generator, deviation: float = 0.02) -> Tensor:
    return images + deviation * torch.randn(images.shape[1:], generator=generator).to(images)


def _rotation(images: Tensor, generator: torch.Generator) -> Tensor:
    angle = math.radians(_between(90.0, 270.0, generator))
    cos, sin = math.cos(angle), math.sin(angle)
    return _affine(images, [[cos, -sin, 0.0], [sin, cos, 0.0]])


def _crop(images: Tensor, generator: torch.Generator) -> Tensor:
    scale = _between(0.2, 0.4, generator)
    room = 1.0 - scale
    dx, dy = _between(-room, room, generator), _between(-room, room, generator)
    return _affine(images, [[scale, 0.0, dx], [0.0, scale, dy]])


def _affine(images: Tensor, rows: list[list[float]]) -> Tensor:
    theta = images.new_tensor(rows).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _elastic(images: Tensor, generator: torch.Generator) -> Tensor:
    edge = images.shape[2]
    noise = torch.rand(1, 2, edge, edge, generator=generator).to(images) * 2 - 1
    amplitude = images.new_full((1,), 150.0)
    offsets = elastic_offsets(noise, amplitude, edge / 224).expand(len(images), -1, -1, -1)
    size = torch.full((len(images),), edge, device=images.device)
    return warp(images, size, size, strength=images.new_zeros(len(images)), offsets=offsets)


def _heavy_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    return _noise(images, generator, deviation=0.5)


SOFT: tuple[Augment, ...] = (_jitter, _tint, _greyscale, _noise)
HARD: tuple[Augment, ...] = (_rotation, _crop, _elastic, _heavy_noise)
