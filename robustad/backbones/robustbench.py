"""RobustBench's ImageNet models as backbones: which network each is, and where its file lies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from robustad.errors import WeightsError

PREFIX = "robustbench/"
# Mean and standard deviation of the channels, which the network's input is normalised by.
Normalisation: TypeAlias = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NONE: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

# Where RobustBench keeps its files: under the working directory, or under this variable's folder.
VARIABLE = "ROBUSTBENCH_MODELS"
FOLDERS = ("imagenet/Linf", "imagenet/L2", "imagenet/corruptions", "")


@dataclass(frozen=True)
class Entry:
    """One model of RobustBench.

    Attributes
    ----------
    network : str
        timm's name of the network.
    normalisation : Normalisation
        Of RobustBench's definition of the model.
    """

    network: str
    normalisation: Normalisation = IMAGENET


# Those whose network timm has; its transformers with a convolutional stem, XCiT, Swin and ensembles
# are none of ours. Source: robustbench/model_zoo/imagenet.py.
MODELS = {
    "Wong2020Fast": Entry("resnet50"),
    "Engstrom2019Robustness": Entry("resnet50"),
    "Salman2020Do_R50": Entry("resnet50"),
    "Salman2020Do_R18": Entry("resnet18"),
    "Salman2020Do_50_2": Entry("wide_resnet50_2"),
    "Salman2020Do_50_2_Linf": Entry("wide_resnet50_2"),
    "Chen2024Data_WRN_50_2": Entry("wide_resnet50_2", NONE),
    "Liu2023Comprehensive_ConvNeXt-B": Entry("convnext_base"),
    "Liu2023Comprehensive_ConvNeXt-L": Entry("convnext_large"),
    "Mo2022When_ViT-B": Entry("vit_base_patch16_224"),
    "Erichson2022NoisyMix": Entry("resnet50"),
    "Erichson2022NoisyMix_new": Entry("resnet50"),
    "Geirhos2018_SIN": Entry("resnet50"),
    "Geirhos2018_SIN_IN": Entry("resnet50"),
    "Geirhos2018_SIN_IN_IN": Entry("resnet50"),
    "Hendrycks2020Many": Entry("resnet50"),
    "Hendrycks2020AugMix": Entry("resnet50"),
}
# Names of a normalisation layer's tensors before the network, in RobustBench's files and those of
# the `robustness` library.
_MEANS = ("normalize.mean", "normalizer.new_mean", "normalize.new_mean", "mu")
_STDS = ("normalize.std", "normalizer.new_std", "normalize.new_std", "sigma")


def entry(name: str) -> Entry:
    """Look up a model by its RobustBench name, with or without `robustbench/`.

    Raises
    ------
    WeightsError
        If it is unknown, or its network is none that can be used.

    Examples
    --------
    >>> entry("robustbench/Salman2020Do_R18").network
    'resnet18'
    """
    found = MODELS.get(name.removeprefix(PREFIX))
    if found is None:
        raise WeightsError(
            f"backbone {name!r}: expected robustbench/ and one of {', '.join(MODELS)}; other "
            "models of RobustBench have networks that give no patch features here"
        )
    return found


def locate(name: str) -> Path:
    """Find a model's file where RobustBench keeps it.

    Parameters
    ----------
    name : str
        RobustBench's name, with or without `robustbench/`.

    Returns
    -------
    Path
        `<root>/imagenet/<threat model>/<name>.pt` (or `<root>/<name>.pt`), the root being
        `./models` or the folder that the environment variable ROBUSTBENCH_MODELS names.

    Raises
    ------
    WeightsError
        If there is none; says where it was looked for and how to get it.
    """
    plain = name.removeprefix(PREFIX)
    given = os.environ.get(VARIABLE)
    roots = [Path(given)] if given else [Path("models")]
    looked = [
        root / folder / f"{plain}{suffix}"
        for root in roots
        for folder in FOLDERS
        for suffix in (".pt", ".pth", ".safetensors")
    ]
    for path in looked:
        if path.is_file():
            return path
    raise WeightsError(
        f"backbone {name!r}: its file is not at {looked[0]} (nor in the folders beside it). "
        f"RobustBench's load_model({plain!r}, dataset='imagenet') puts it there; or set "
        f"{VARIABLE} to its folder of models, or pass the file as `weights` (--weights on the "
        "command line)"
    )


def unwrapped(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Normalisation | None]:
    """Take a network out of the layers that RobustBench and `robustness` put around it.

    Parameters
    ----------
    state : dict of str to Tensor
        Of any checkpoint.

    Returns
    -------
    state : dict of str to Tensor
        Of the network alone, by its own names; unchanged if there is nothing around it.
    normalisation : Normalisation or None
        Of the layer before it; None where there is none.

    Examples
    --------
    >>> import torch
    >>> wrapped = {
    ...     "normalize.mean": torch.zeros(1, 3, 1, 1),
    ...     "normalize.std": torch.ones(1, 3, 1, 1),
    ...     "model.conv1.weight": torch.ones(2),
    ... }
    >>> state, normalisation = unwrapped(wrapped)
    >>> [*state], normalisation
    (['conv1.weight'], ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    """
    # `robustness` keeps a second copy of the network inside its attacker.
    plain = {
        key.removeprefix("module."): value
        for key, value in state.items()
        if not key.removeprefix("module.").startswith("attacker.")
    }
    mean, std = (_three(plain, names) for names in (_MEANS, _STDS))
    for name in (*_MEANS, *_STDS):
        plain.pop(name, None)
    if plain and all(key.startswith("model.") for key in plain):
        plain = {key.removeprefix("model."): value for key, value in plain.items()}
    return plain, None if mean is None or std is None else (mean, std)


def _three(state: dict[str, Tensor], names: tuple[str, ...]) -> tuple[float, float, float] | None:
    for name in names:
        if name in state and state[name].numel() == 3:
            one, two, three = (round(v, 6) for v in state[name].flatten().tolist())
            return one, two, three
    return None
