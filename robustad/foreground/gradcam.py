"""Grad-CAM of an ImageNet network: where it looks, over soft and hard augmentations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustad.backbones.timm_vit import register_normalisation
from robustad.backbones.weights import build
from robustad.errors import InputError, WeightsError
from robustad.foreground.augment import augmented

# Pixels around an image, a multiple of the usual strides.
MARGIN = 64


class GradCAM(nn.Module):
    """Class activation maps by gradients (Selvaraju et al., ICCV 2017).

    Parameters
    ----------
    name : str, default "resnet18"
        timm name of a convolutional network.
    weights : str, Path or None, default None
        See `robustad.backbones.create`. With a checkpoint that lacks the classifier, only the trunk
        as far as the checkpoint goes is used.

    Attributes
    ----------
    has_classifier : bool
        Whether the maps are those of the class the network sees.
    contrast : float
        Default weight of hard augmentations: 0.5 with a classifier, 0 without one, where the map
        of an image that shows nothing is as high as any.

    Raises
    ------
    WeightsError
        If the weights cannot be had or fit no part of the model.
    InputError
        If the model gives no feature maps (B, C, H, W).

    Notes
    -----
    With a classifier, the map is Grad-CAM of the clean image's top class at the last feature map.
    Without one there is no class to differentiate. The map is then the norm of the gradient of
    half the squared distance between the features and the median of those along the image's edge:
    the distance itself. It is the geometric mean over the trunk's last two levels. That takes the
    edge of an image for background.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str = "resnet18", weights: str | Path | None = None) -> None:
        super().__init__()
        import timm

        self.has_classifier, self.contrast = True, 0.5
        try:
            model: Any = build(timm.create_model, name, weights)
        except WeightsError as error:
            if weights is None or not Path(weights).is_file():
                raise
            model = self._trunk(name, weights, error)
            self.has_classifier, self.contrast = False, 0.0
        self.model = model
        register_normalisation(self, model.pretrained_cfg)
        self.requires_grad_(False).eval()
        if self.has_classifier:
            self._check(name)

    @staticmethod
    def _trunk(name: str, weights: str | Path, first: WeightsError) -> Any:
        """Build the deepest trunk that the checkpoint fills."""
        import timm

        levels: Any = build(timm.create_model, name, "random", features_only=True)
        for last in reversed(range(1, len(levels.feature_info))):
            chosen = (last - 1, last)
            try:
                return build(
                    timm.create_model, name, weights, features_only=True, out_indices=chosen
                )
            except WeightsError:
                continue
        raise first

    def _check(self, name: str) -> None:
        """Raise InputError unless the network gives feature maps whose gradient can be taken."""
        size = self.model.pretrained_cfg["input_size"][1:]
        with torch.no_grad():
            features = self.model.forward_features(torch.zeros(1, 3, *size))
        if features.ndim != 4 or features.shape[1] != self.model.num_features:
            raise InputError(
                f"backbone {name!r}: expected a CNN with feature maps (B, C, H, W), got "
                f"{tuple(features.shape)}"
            )

    def forward(self, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps of images.

        Parameters
        ----------
        images : Tensor, (B, 3, H, W), float32 in [0, 1]
            RGB.
        classes : Tensor, (B,), int64, optional
            Whose maps; by default each image's top class. Of no effect without a classifier.

        Returns
        -------
        maps : Tensor, (B, h, w), float32
            At least 0, with maximum 1, or all 0.
        classes : Tensor, (B,), int64
            The classes; 0 without a classifier.
        """
        if self.has_classifier:
            with torch.enable_grad():
                x = (images - self.mean) / self.std
                features = self.model.forward_features(x).requires_grad_()
                logits = self.model.forward_head(features)
                classes = logits.detach().argmax(dim=1) if classes is None else classes
                score = logits.gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, features)
            weights = gradient.mean(dim=(2, 3), keepdim=True)
            maps = (weights * features.detach()).sum(dim=1).clamp(min=0.0)
        else:
            maps = self._distance(images)
            classes = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12), classes

    def _distance(self, images: Tensor) -> Tensor:
        """Distance of features from those along the image's edge: (B, h, w) of the finer level."""
        # Reflected margins: the zero padding inside the network would make the edge stand out.
        margin = min(MARGIN, images.shape[2] - 1, images.shape[3] - 1)
        padded = F.pad(images, (margin,) * 4, mode="reflect")
        maps: list[Tensor] = []
        for features in self.model((padded - self.mean) / self.std):
            cut = round(margin * features.shape[3] / padded.shape[3])
            rows, columns = features.shape[2] - cut, features.shape[3] - cut
            inner = features[:, :, cut:rows, cut:columns]
            top, bottom = inner[:, :, 0], inner[:, :, -1]
            left, right = inner[:, :, 1:-1, 0], inner[:, :, 1:-1, -1]
            edge = torch.cat([top, bottom, left, right], dim=2).median(dim=2).values
            distance = torch.linalg.vector_norm(inner - edge[:, :, None, None], dim=1)
            maps.append(distance / distance.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12))
        fine, coarse = maps
        coarse = F.interpolate(
            coarse[:, None], fine.shape[1:], mode="bilinear", align_corners=False
        )[:, 0]
        return (fine * coarse).sqrt()

    @torch.no_grad()
    def saliency(
        self, images: Tensor, *, soft: int, hard: int, contrast: float | None = None, seed: int = 0
    ) -> Tensor:
        """Mean map over soft augmentations less that over hard ones.

        Parameters
        ----------
        images : Tensor, (B, 3, S, S), float32 in [0, 1]
            RGB.
        soft, hard : int
            Numbers of augmentations; see `robustad.foreground.augment.augmented`.
        contrast : float or None, default None
            Weight of the hard ones; None for the attribute `contrast`.
        seed : int, default 0
            Of the augmentations.

        Returns
        -------
        Tensor, (B, S, S), float32 in [0, 1]
            Bilinear, each map brought to [0, 1]; all 0 where the network sees no difference.

        Raises
        ------
        InputError
            If the images are not square.
        """
        if images.shape[2] != images.shape[3]:
            raise InputError(f"images: expected square ones, got {tuple(images.shape)}")
        contrast = self.contrast if contrast is None else contrast
        gentle, harsh = augmented(images, seed, soft, hard if contrast > 0 else 0)
        first, classes = self(gentle[0])
        maps = first + sum(self(x, classes)[0] for x in gentle[1:])
        maps = maps / len(gentle)
        if harsh:
            # What the network looks at when the object is not to be made out is no object.
            maps = maps - contrast * sum(self(x, classes)[0] for x in harsh) / len(harsh)
        size = images.shape[2:]
        maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
        return torch.where(high > low, (maps - low) / (high - low).clamp(min=1e-12), 0.0)
