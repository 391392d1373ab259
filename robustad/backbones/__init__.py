"""Backbones: from an image to one feature vector a patch."""

from pathlib import Path

from robustad.backbones.base import Backbone, BackboneConfig
from robustad.backbones.filters import FilterBank
from robustad.errors import InputError

__all__ = ["DEFAULT", "Backbone", "BackboneConfig", "FilterBank", "create"]

DEFAULT = "vit_small_patch14_dinov2.lvd142m"


def create(
    name: str = DEFAULT,
    weights: str | Path | None = None,
    *,
    layers: tuple[int, ...] | None = None,
) -> Backbone:
    """Build a backbone by name.

    Parameters
    ----------
    name : str, default "vit_small_patch14_dinov2.lvd142m"
        `filters` for the embedded filter bank, or the name of any timm ViT or CNN.
    weights : str, Path or None, default None
        None for the weights published under that name (downloaded once by timm, then cached), a
        checkpoint file (.safetensors, .pth, .pt, .bin), or "random" for no trained weights at all.
    layers : tuple of int, optional
        For CNNs, the feature levels to use (timm's `out_indices`); by default those of stride 8
        and 16.

    Returns
    -------
    Backbone
        In evaluation mode.

    Raises
    ------
    WeightsError
        If the model is unknown or its weights cannot be had.
    InputError
        If an option does not fit the model.

    Examples
    --------
    >>> create("filters").patch_size
    8
    """
    config = BackboneConfig(name=name, layers=layers)
    if name == "filters":
        if weights is not None or layers is not None:
            raise InputError("backbone 'filters' takes neither weights nor layers")
        return FilterBank().eval()
    if _is_vit(name):
        from robustad.backbones.timm_vit import TimmViT

        return TimmViT(config, weights).eval()
    from robustad.backbones.timm_cnn import TimmCNN

    return TimmCNN(config, weights).eval()


def _is_vit(name: str) -> bool:
    from timm.models import is_model_in_modules

    return bool(
        is_model_in_modules(name.split(".")[0], ["vision_transformer", "eva", "deit", "beit"])
    )
