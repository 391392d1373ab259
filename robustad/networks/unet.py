"""The pixel-wise ablation: a U-Net with one logit a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from robustad.backbones.timm_vit import register_normalisation
from robustad.backbones.weights import RANDOM
from robustad.errors import InputError
from robustad.networks.base import Attention, PatchNetwork
from robustad.networks.config import NetworkConfig


class UNet(PatchNetwork):
    """Convolutions down to `2 ** -depth` of the resolution and back, with skips; pixel logits.

    Parameters
    ----------
    config : NetworkConfig
        With `unet` as `body`.
    weights : str, Path or None, default None
        None or "random": nobody publishes weights for it.

    Raises
    ------
    InputError
        If weights are asked for.

    Notes
    -----
    Ronneberger et al., "U-Net", MICCAI 2015, with padding and batch normalisation; in PatchGuard's
    supplement, section C.4. `patch_size` is 1. Where an image score is the mean of the top k of N
    patches, here it is that of the top k / N of the pixels; see `robustad.PatchGuard`. Images are
    normalised as ImageNet's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, weights: str | Path | None = None) -> None:
        super().__init__()
        if weights is not None and str(weights) != RANDOM:
            raise InputError(f"weights: expected None or 'random' for a U-Net, got {weights!r}")
        self.config = config
        self.image_size = config.image_size
        self.patch_size = 1
        self.attention_layers = ()
        widths = [config.unet_width * 2**level for level in range(config.unet_depth + 1)]
        self.down = nn.ModuleList(
            _convolutions(below, width)
            for below, width in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, 2) for width in reversed(widths[:-1])
        )
        self.join = nn.ModuleList(
            _convolutions(2 * width, width) for width in reversed(widths[:-1])
        )
        self.pool = nn.MaxPool2d(2)
        self.output = nn.Conv2d(widths[0], 1, 1)
        cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        register_normalisation(self, cfg)

    def forward(self, x: Tensor, attention: Sequence[str] = ()) -> tuple[Tensor, list[Attention]]:
        """Pixel logits, and no attention; see `PatchNetwork.forward`."""
        self.check(x, attention)
        x = (x - self.mean) / self.std
        skips = []
        for level, part in enumerate(self.down):
            x = part(self.pool(x) if level else x)
            skips.append(x)
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([skips.pop(), up(x)], dim=1))
        return self.output(x).flatten(1), []


def _convolutions(before: int, after: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with batch normalisation and a ReLU."""
    parts: list[nn.Module] = []
    for channels in (before, after):
        parts += [
            nn.Conv2d(channels, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*parts)
