"""Augmentation of normal images, before anything is pasted on them or attacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustad.training.config import AugmentationConfig


def augmented(
    x: Tensor, foreground: Tensor, config: AugmentationConfig, *, seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Change each image as its seed says; foregrounds are turned with their images.

    Parameters
    ----------
    x : Tensor, (n, 3, S, S), float32 in [0, 1]
        Normal images.
    foreground : Tensor, (n, S, S), bool
        Turned and mirrored along.
    config : AugmentationConfig
        What may change.
    seeds : sequence of int
        One an image.

    Returns
    -------
    x : Tensor, (n, 3, S, S), float32 in [0, 1]
    foreground : Tensor, (n, S, S), bool
        Both unchanged where `config` allows nothing.
    """
    if config.nothing:
        return x, foreground
    draws = torch.stack([_draw(seed) for seed in seeds]).to(x.device)
    x, foreground = _turned(x, foreground, config, draws[:, 2:])
    # About the image's mean, so that contrast does not change brightness a second time.
    factor = 1 + config.contrast * (2 * draws[:, 0] - 1)
    shift = config.brightness * (2 * draws[:, 1] - 1)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + factor.view(-1, 1, 1, 1) * (x - mean) + shift.view(-1, 1, 1, 1)
    return x.clamp(0.0, 1.0), foreground


def _draw(seed: int) -> Tensor:
    """Five uniform numbers: contrast, brightness, two flips, quarter turns."""
    return torch.rand(5, generator=torch.Generator().manual_seed(seed))


def _turned(
    x: Tensor, foreground: Tensor, config: AugmentationConfig, draws: Tensor
) -> tuple[Tensor, Tensor]:
    flip_x = config.flip & (draws[:, 0] < 0.5)
    flip_y = config.flip & (draws[:, 1] < 0.5)
    turns = (4 * draws[:, 2]).long() * config.quarter_turns
    images, masks = [], []
    for one, mask, *how in zip(
        x, foreground, flip_x.tolist(), flip_y.tolist(), turns.tolist(), strict=True
    ):
        axes = [-1 - i for i in range(2) if how[i]]
        images.append(torch.rot90(one.flip(axes), how[2], dims=(-2, -1)))
        masks.append(torch.rot90(mask.flip(axes), how[2], dims=(-2, -1)))
    return torch.stack(images), torch.stack(masks)
