"""Backbones: from an image to one feature vector a patch."""

from pathlib import Path

from robustad.backbones import robustbench
from robustad.backbones.base import Backbone, BackboneConfig
from robustad.backbones.filters import FilterBank
from robustad.backbones.robustbench import Normalisation
from robustad.errors import InputError

__all__ = ["DEFAULT", "Backbone", "BackboneConfig", "FilterBank", "create"]

DEFAULT = "vit_small_patch14_dinov2.lvd142m"


def create(
    name: str = DEFAULT,
    weights: str | Path | None = None,
    *,
    layers: tuple[int, ...] | None = None,
    normalisation: Normalisation | None = None,
) -> Backbone:
    """Build a backbone by name.

    Parameters
    ----------
    name : str, default "vit_small_patch14_dinov2.lvd142m"
        `filters` for the embedded filter bank, the name of any timm ViT or CNN, or `robustbench/`
        and the name of one of RobustBench's ImageNet models
        (`robustad.backbones.robustbench.MODELS`), such as `robustbench/Salman2020Do_R50`.
    weights : str, Path or None, default None
        None for the weights published under that name (downloaded once by timm, then cached; of
        RobustBench, the file that its own loader has left, see
        `robustad.backbones.robustbench.locate`), a checkpoint file (.safetensors, .pth, .pt, .bin),
        or "random" for no trained weights at all. A normalisation layer in a checkpoint replaces
        the model's own normalisation.
    layers : tuple of int, optional
        For CNNs, the feature levels to use (timm's `out_indices`); by default those of stride 8
        and 16.
    normalisation : ((float, float, float), (float, float, float)), optional
        Mean and standard deviation of the channels that the network expects; by default those of
        its checkpoint or its name.

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
    config = BackboneConfig(name=name, layers=layers, normalisation=normalisation)
    if name.startswith(robustbench.PREFIX):
        known = robustbench.entry(name)
        update = {"name": known.network, "normalisation": normalisation or known.normalisation}
        config = config.model_copy(update=update)
        weights = robustbench.locate(name) if weights is None else weights
        name = known.network
    if name == "filters":
        if weights is not None or layers is not None or normalisation is not None:
            raise InputError("backbone 'filters' takes no weights, layers or normalisation")
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
