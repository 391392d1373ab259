"""Trainable networks: from an image to one logit a patch."""

from pathlib import Path

from pydantic import ValidationError

from robustad.errors import InputError
from robustad.networks.attention import set_fused_attention
from robustad.networks.base import Attention, PatchNetwork
from robustad.networks.config import BigBirdConfig, NetworkConfig

__all__ = [
    "Attention",
    "BigBirdConfig",
    "NetworkConfig",
    "PatchNetwork",
    "create",
    "set_fused_attention",
]


def create(config: NetworkConfig | str, weights: str | Path | None = None) -> PatchNetwork:
    """Build a network.

    Parameters
    ----------
    config : NetworkConfig or str
        What to build; a name stands for `NetworkConfig(body=name)`.
    weights : str, Path or None, default None
        Of the body; its head always starts from random weights. None or "random" for random ones
        too, "published" for those that timm has under the body's name, the body's name with
        another of timm's tags, or a checkpoint file (.safetensors, .pth, .pt, .bin).

    Returns
    -------
    PatchNetwork
        In training mode. Random weights come from torch's global generator.

    Raises
    ------
    InputError
        If an option does not fit the body.
    WeightsError
        If the body is unknown or its weights cannot be had.

    Examples
    --------
    >>> import torch
    >>> config = NetworkConfig(image_size=56, depth=2, embed_dim=32, num_heads=2)
    >>> logits, maps = create(config)(torch.rand(1, 3, 56, 56), attention=["discriminator"])
    >>> logits.shape, maps[0].q.shape
    (torch.Size([1, 16]), torch.Size([1, 4, 16, 8]))
    """
    if isinstance(config, str):
        try:
            config = NetworkConfig(body=config)
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"network: {first['msg']}, got {config!r}") from error
    if config.family == "unet":
        from robustad.networks.unet import UNet

        return UNet(config, weights)
    if config.family == "resnet":
        from robustad.networks.resnet import ResNetPatches

        return ResNetPatches(config, weights)
    from robustad.networks.vit import ViTNetwork

    return ViTNetwork(config, weights)
