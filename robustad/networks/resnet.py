"""The convolutional ablation: every patch is an image of its own to a ResNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustad.backbones.timm_vit import register_normalisation
from robustad.backbones.weights import build
from robustad.networks.base import Attention, PatchNetwork
from robustad.networks.config import PATCH, NetworkConfig
from robustad.networks.weights import named_weights


class ResNetPatches(PatchNetwork):
    """A ResNet on each patch of a ViT's grid, with one logit after its last stage.

    Parameters
    ----------
    config : NetworkConfig
        With `resnet50` or another depth as `body`.
    weights : str, Path or None, default None
        See `robustad.networks.create`. With `resnet_stem="patch"` the first convolution is random
        all the same.

    Raises
    ------
    WeightsError
        If the weights cannot be had or do not fit.

    Notes
    -----
    PatchGuard (CVPR 2025), supplement, section C.4: patches are cut by hand and scored
    independently. Of the stem the source says nothing. The usual one quarters the resolution: of
    14 pixels, 4 would reach the first stage and 1 the third. So by default it is a 3 x 3
    convolution of stride 2 without pooling.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, weights: str | Path | None = None) -> None:
        super().__init__()
        import timm

        self.config = config
        self.image_size = config.image_size
        self.patch_size = config.patch_size or PATCH
        self.attention_layers = ()
        name, weights = named_weights(config, weights)
        # Residual branches that start at zero would leave the shortcuts alone, which see one pixel
        # in 64: at first an attack would have nothing to follow.
        options = {"num_classes": 0, "zero_init_last": False}
        model: Any = build(timm.create_model, name, weights, **options)
        if config.resnet_stem == "patch":
            model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, 2, 1, bias=False)
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
            model.maxpool = nn.Identity()
        self.body = model.train()
        self.output = nn.Linear(int(model.num_features), 1)
        register_normalisation(self, model.pretrained_cfg)

    def forward(self, x: Tensor, attention: Sequence[str] = ()) -> tuple[Tensor, list[Attention]]:
        """Patch logits, and no attention; see `PatchNetwork.forward`."""
        self.check(x, attention)
        patches = cut_patches((x - self.mean) / self.std, self.patch_size)
        logits: Tensor = self.output(self.body(patches.flatten(0, 1)))
        return logits.reshape(-1, patches.shape[1]), []


def cut_patches(x: Tensor, size: int) -> Tensor:
    """Cut images (B, 3, H, W) into patches (B, N, 3, size, size), row by row, as a ViT does."""
    rows, columns = x.shape[2] // size, x.shape[3] // size
    blocks = x.reshape(-1, x.shape[1], rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
    return blocks.flatten(1, 2)
