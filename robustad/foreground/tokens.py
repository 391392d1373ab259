"""Foreground by the first principal component of a backbone's patch tokens."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustad.backbones import create
from robustad.detectors.foreground import Unit, foreground_mask


class TokenForeground(nn.Module):
    """AnomalyDINO's zero-shot mask of any backbone, in pixels.

    Parameters
    ----------
    name : str
        Name of a backbone as `robustad.backbones.create` takes it.
    weights : str, Path or None, default None
        See there.
    threshold, unit
        See `robustad.detectors.foreground.foreground_mask`.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path | None = None,
        *,
        threshold: float = 10.0,
        unit: Unit = "absolute",
    ) -> None:
        super().__init__()
        self.backbone = create(name, weights)
        self.threshold = threshold
        self.unit: Unit = unit

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Masks (B, H, W), bool, of images (B, 3, H, W) in [0, 1].

        Images are stretched up to whole patches first, their masks back by nearest neighbour.
        """
        size, multiple = images.shape[2:], self.backbone.multiple
        height, width = (-(-edge // multiple) * multiple for edge in size)
        if (height, width) != tuple(size):
            images = F.interpolate(
                images, (height, width), mode="bicubic", align_corners=False
            ).clamp(0.0, 1.0)
        grid = self.backbone.grid(height, width)
        tokens = self.backbone(images)
        mask = foreground_mask(tokens, grid, threshold=self.threshold, unit=self.unit)
        mask = mask.view(-1, 1, *grid).float()
        return F.interpolate(mask, size, mode="nearest-exact")[:, 0] > 0.5
