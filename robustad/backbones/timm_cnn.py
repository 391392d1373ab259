"""Convolutional networks from timm as backbones: feature maps on one patch grid."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.backbones.base import Backbone, BackboneConfig
from robustad.backbones.timm_vit import normalised
from robustad.backbones.weights import build, opened
from robustad.errors import InputError


class TimmCNN(Backbone):
    """Feature maps of several levels, locally averaged and joined on the finest level's grid.

    Parameters
    ----------
    config : BackboneConfig
        With the timm model name and the levels to use; the default levels are those of stride 8
        and 16 (`layer2` and `layer3` of a ResNet).
    weights : str, Path or None, default None
        See `robustad.backbones.create`.

    Notes
    -----
    Each level is averaged over 3 x 3 neighbourhoods, resized bilinearly to the finest level and
    concatenated, as PatchCore does (Roth et al., CVPR 2022, section 3.1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: BackboneConfig, weights: str | Path | None = None) -> None:
        super().__init__()
        import timm

        layers = config.layers
        if layers is None:
            layers = self._default_layers(config.name)
        if not layers or len(set(layers)) != len(layers):
            raise InputError(f"layers: expected one or more distinct feature levels, got {layers}")
        given = opened(weights)
        try:
            model: Any = build(
                timm.create_model, config.name, given, features_only=True, out_indices=layers
            )
        except (IndexError, AssertionError) as error:
            raise InputError(
                f"layers: backbone {config.name!r} has no feature levels {layers}: {error}"
            ) from error
        if getattr(model, "output_fmt", "NCHW") != "NCHW":
            raise InputError(
                f"backbone {config.name!r}: expected a CNN, got feature maps (B, H, W, C)"
            )
        self.model = model
        strides = [int(stride) for stride in model.feature_info.reduction()]
        self.patch_size, self.multiple = min(strides), max(strides)
        self.dim = int(sum(model.feature_info.channels()))
        config = config.model_copy(update={"layers": tuple(layers)})
        self.config = normalised(self, config, given, model.pretrained_cfg)

    def features(self, x: Tensor) -> Tensor:
        """Joined features (B, N, D) on the finest level's grid."""
        grid = self.grid(x.shape[2], x.shape[3])
        maps = []
        for level in self.model((x - self.mean) / self.std):
            smooth = F.avg_pool2d(level, 3, stride=1, padding=1, count_include_pad=False)
            if smooth.shape[-2:] != grid:
                smooth = F.interpolate(smooth, grid, mode="bilinear", align_corners=False)
            maps.append(smooth)
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)

    @staticmethod
    def _default_layers(name: str) -> tuple[int, ...]:
        model: Any = build(_create_features, name, "random")
        strides = model.feature_info.reduction()
        return tuple(i for i, stride in enumerate(strides) if stride in (8, 16)) or (
            len(strides) - 1,
        )


def _create_features(name: str, **options: Any) -> Any:
    import timm

    return timm.create_model(name, features_only=True, **options)
