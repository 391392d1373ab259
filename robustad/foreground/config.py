"""How a foreground is found: one frozen configuration, and which categories have none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustad.errors import InputError

Method: TypeAlias = Literal["whole", "gradcam", "pca", "files"]
BACKBONES: Mapping[str, str] = MappingProxyType(
    {"gradcam": "resnet18", "pca": "vit_small_patch14_dinov2.lvd142m"}
)
# Surfaces without an object in front of something, and images full of small parts.
_EVERY = frozenset({"dtd_synthetic", "wfdd", "surfaces"})
_TEXTURES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "mvtec": frozenset({"carpet", "grid", "leather", "tile", "wood"}),
        "btad": frozenset({"02"}),
    }
)


class ForegroundConfig(BaseModel):
    """How the foreground of images is found.

    Attributes
    ----------
    method : {"auto", "whole", "gradcam", "pca", "files"}, default "auto"
        `whole` takes everything, `gradcam` what an ImageNet network looks at, `pca` the first
        principal component of a backbone's patch tokens, `files` given masks. `auto` is
        `default_method` of the category.
    backbone : str or None, default None
        timm name of the network; None for `resnet18` (gradcam) or the DINOv2 ViT-S/14 (pca).
    weights : str or None, default None
        As `robustad.backbones.create` takes them: None for the published ones, a checkpoint file,
        or "random". For `gradcam` a trunk without its last stage or classifier will do.
    soft, hard : int, default 8 and 4
        Augmentations that keep what is seen, over which the maps are averaged, and ones that
        destroy it, whose mean map is subtracted. The image itself is always among the soft ones.
    contrast : float in [0, 1] or None, default None
        Weight of the hard augmentations' mean map; None for 0.5 with a classifier, 0 without.
    threshold : "otsu" or float in (0, 1), default "otsu"
        Where a gradcam map, brought to [0, 1], is cut.
    pca_threshold : float, default 10.0
        Where the first principal component is cut.
    pca_unit : {"absolute", "std"}, default "absolute"
        Unit of `pca_threshold`: that of the tokens, or the component's standard deviation, which
        makes sense for any backbone.
    largest : bool, default True
        Keep only the largest connected component.
    fill : bool, default True
        Fill holes.
    folder : Path or None, default None
        Folder with the masks for `files`, named as the images or with their stems; None for
        `train/foreground_mask` in the category.
    seed : int, default 0
        Of the augmentations, which are the same for every image.

    Raises
    ------
    ValidationError
        If a value is out of range, or `folder` is given for another method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["auto", "whole", "gradcam", "pca", "files"] = "auto"
    backbone: str | None = None
    weights: str | None = None
    soft: Annotated[int, Field(ge=1, le=256)] = 8
    hard: Annotated[int, Field(ge=0, le=256)] = 4
    contrast: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    threshold: Literal["otsu"] | Annotated[float, Field(gt=0.0, lt=1.0)] = "otsu"
    pca_threshold: float = 10.0
    pca_unit: Literal["absolute", "std"] = "absolute"
    largest: bool = True
    fill: bool = True
    folder: Path | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> ForegroundConfig:
        if self.folder is not None and self.method != "files":
            raise InputError(f"folder: only method 'files' takes one, got method {self.method!r}")
        return self

    def resolved(self, dataset: str = "", category: str = "") -> ForegroundConfig:
        """Replace `auto` and the default backbone by what they stand for."""
        method = default_method(dataset, category) if self.method == "auto" else self.method
        backbone = self.backbone or BACKBONES.get(method)
        return self.model_copy(update={"method": method, "backbone": backbone})


def default_method(dataset: str, category: str) -> Method:
    """Method of a category: `whole` for textures, `gradcam` for objects.

    Parameters
    ----------
    dataset, category : str
        As `robustad.data.load` takes them.

    Returns
    -------
    str
        `whole` for MVTec AD's carpet, grid, leather, tile and wood, BTAD's 02, all of
        DTD-Synthetic, WFDD and the generated surfaces.

    Examples
    --------
    >>> default_method("mvtec", "carpet"), default_method("mvtec", "screw")
    ('whole', 'gradcam')
    """
    texture = dataset in _EVERY or category in _TEXTURES.get(dataset, frozenset())
    return "whole" if texture else "gradcam"
