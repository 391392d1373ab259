"""Vision transformers from timm as backbones."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustad.backbones.base import Backbone, BackboneConfig
from robustad.backbones.weights import build, opened
from robustad.errors import InputError


class TimmViT(Backbone):
    """Last-layer patch tokens of a timm vision transformer, after its final normalisation.

    Parameters
    ----------
    config : BackboneConfig
        With the timm model name; `layers` must be None.
    weights : str, Path or None, default None
        See `robustad.backbones.create`.

    Notes
    -----
    Prefix tokens (class, registers) are dropped. Position embeddings are interpolated to the
    image, so that any size works. A model that timm normalises only after averaging its tokens
    (its `fc_norm`) gives them as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: BackboneConfig, weights: str | Path | None = None) -> None:
        super().__init__()
        if config.layers is not None:
            raise InputError(f"layers: only CNN backbones take layers, {config.name} is a ViT")
        import timm

        given = opened(weights)
        try:
            model: Any = build(
                timm.create_model, config.name, given, num_classes=0, dynamic_img_size=True
            )
        except TypeError as error:
            raise InputError(
                f"backbone {config.name!r}: expected a ViT that takes images of any size ({error})"
            ) from error
        self.model = model
        patch = model.patch_embed.patch_size
        if patch[0] != patch[1]:
            raise InputError(f"backbone {config.name!r}: expected square patches, got {patch}")
        self.patch_size = self.multiple = int(patch[0])
        self.dim = int(model.num_features)
        self.prefix = int(model.num_prefix_tokens)
        self.config = normalised(self, config, given, model.pretrained_cfg)

    def features(self, x: Tensor) -> Tensor:
        """Patch tokens (B, N, D); see the class."""
        tokens: Tensor = self.model.forward_features((x - self.mean) / self.std)
        return tokens[:, self.prefix :]


def normalised(
    module: torch.nn.Module, config: BackboneConfig, weights: Any, cfg: dict[str, Any]
) -> BackboneConfig:
    """Register what images are normalised by, and note it in the configuration if it is unusual.

    A normalisation layer in the checkpoint counts first, then what the configuration says, then
    the model's own.
    """
    own = tuple(tuple(float(v) for v in cfg[name]) for name in ("mean", "std"))
    found = getattr(weights, "normalisation", None) or config.normalisation or own
    register_normalisation(module, dict(zip(("mean", "std"), found, strict=True)))
    unusual = not np.allclose(found, own, atol=1e-6)
    return config.model_copy(update={"normalisation": found if unusual else None})


def register_normalisation(module: torch.nn.Module, cfg: dict[str, Any]) -> None:
    """Register the model's own channel mean and standard deviation as (1, 3, 1, 1) buffers."""
    for name in ("mean", "std"):
        values = torch.tensor(cfg[name], dtype=torch.float32).view(1, 3, 1, 1)
        module.register_buffer(name, values, persistent=False)
