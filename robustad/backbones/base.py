"""What a backbone is to the rest of robustad: images in, one feature vector a patch out."""

from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from robustad.backbones.robustbench import Normalisation
from robustad.errors import InputError


class BackboneConfig(BaseModel):
    """Everything needed to build a backbone again, apart from its weights.

    Attributes
    ----------
    name : str
        `filters` for the embedded filter bank, else a timm model name.
    layers : tuple of int or None
        For CNNs, the feature levels to use, counted as timm's `out_indices`; None for the levels
        of stride 8 and 16.
    normalisation : ((float, float, float), (float, float, float)) or None
        Mean and standard deviation of the channels, where they are others than the model's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    layers: tuple[int, ...] | None = None
    normalisation: Normalisation | None = None


class Backbone(nn.Module, ABC):
    """Patch features of an image; normalisation is part of the backbone.

    Attributes
    ----------
    config : BackboneConfig
        How to build it again.
    patch_size : int
        Pixels between neighbouring patches.
    multiple : int
        Both image edges have to be a multiple of this many pixels.
    dim : int
        Length D of a feature vector.
    """

    # A backbone that computes its weights from nothing has none to save.
    has_weights: ClassVar[bool] = True

    config: BackboneConfig
    patch_size: int
    multiple: int
    dim: int

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Patch features (B, N, D) of checked images; differentiable."""

    def forward(self, x: Tensor) -> Tensor:
        """Patch features.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W), floating point in [0, 1]
            RGB, with H and W multiples of `multiple`.

        Returns
        -------
        Tensor, (B, N, D)
            N = (H / patch_size) * (W / patch_size), row by row. Differentiable.

        Raises
        ------
        InputError
            If the shape does not fit.
        """
        self.check(x)
        return self.features(x)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch grid of an image of `height` x `width` pixels."""
        return height // self.patch_size, width // self.patch_size

    def check(self, x: Tensor) -> None:
        """Raise InputError unless `x` is (B, 3, H, W) with edges of whole multiples."""
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise InputError(
                "x: expected a floating-point tensor (B, 3, H, W), got "
                f"{tuple(x.shape)} of {x.dtype}"
            )
        height, width = x.shape[2:]
        if height % self.multiple or width % self.multiple or not height or not width:
            raise InputError(
                f"x: expected height and width to be multiples of {self.multiple} pixels, got "
                f"{height} x {width}; `prepare` resizes and crops images"
            )
