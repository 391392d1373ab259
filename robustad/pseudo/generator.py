"""Pseudo-anomalies for a batch of normal images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustad.errors import InputError
from robustad.pseudo.bounds import DEFAULT, REFERENCE_EDGE, scaled
from robustad.pseudo.canvas import cut, paste, rotation_points, sample, window
from robustad.pseudo.config import PseudoConfig
from robustad.pseudo.draws import Draws, draw
from robustad.pseudo.jpeg import MULTIPLE
from robustad.pseudo.placement import DRAWS_A_TRY, TRIES, dilate, place
from robustad.pseudo.transform import transform


class PseudoBatch(NamedTuple):
    """Images with pseudo-anomalies.

    Attributes
    ----------
    images : Tensor, (B, 3, H, W), of the given type, in [0, 1]
        Outside the mask bit for bit the given images.
    mask : Tensor, (B, H, W), bool
        Where a patch was pasted.
    """

    images: Tensor
    mask: Tensor


class PseudoAnomalies:
    """Cut a patch inside the foreground, change it, and paste it elsewhere inside the foreground.

    Parameters
    ----------
    config : PseudoConfig, optional
        What is drawn.
    image_size : int, default 224
        Edge of the square images in pixels.
    bounds : (int, int) or None, default None
        Least and largest edge of a patch in pixels at an image edge of 224, as
        `robustad.pseudo.bounds.published` gives them; None for (14, 86). `config.size` goes first.

    Attributes
    ----------
    config : PseudoConfig
        As given.
    image_size : int
        As given.
    bounds : (int, int)
        Least and largest edge of a patch in pixels of these images.

    Raises
    ------
    InputError
        If `bounds` are not 2 <= low <= high, or the image is smaller than the least patch.

    Notes
    -----
    The method of Nafez et al., PatchGuard (CVPR 2025), as batched tensor operations on the images'
    device. Differences from the authors' code: pixels stay floating point; the largest edge is
    respected; transformations follow one of four orders instead of any; Perlin noise differs from
    patch to patch; a patch is rotated and fitted to its box in one bilinear resampling.

    Examples
    --------
    >>> import torch
    >>> images = torch.rand(2, 3, 64, 64)
    >>> made = PseudoAnomalies(image_size=64)(images, None, seeds=[1, 2])
    >>> made.images.shape, bool(made.mask.any(dim=(1, 2)).all())
    (torch.Size([2, 3, 64, 64]), True)
    >>> bool(torch.equal(made.images[:, 0][~made.mask], images[:, 0][~made.mask]))
    True
    """

    def __init__(
        self,
        config: PseudoConfig | None = None,
        image_size: int = REFERENCE_EDGE,
        bounds: tuple[int, int] | None = None,
    ) -> None:
        self.config = PseudoConfig() if config is None else config
        self.image_size = image_size
        chosen = self.config.size or bounds or DEFAULT
        if not 2 <= chosen[0] <= chosen[1]:
            raise InputError(f"bounds: expected 2 <= low <= high, got {chosen}")
        self.bounds = scaled(chosen, image_size)
        # One canvas for patches of all sizes, in whole JPEG blocks.
        self._edge = math.ceil(self.bounds[1] / MULTIPLE) * MULTIPLE
        self._unit = image_size / REFERENCE_EDGE

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        foreground: Tensor | None,
        seeds: Sequence[int],
        names: Sequence[str] | None = None,
    ) -> PseudoBatch:
        """Make a pseudo-anomaly in each image.

        Parameters
        ----------
        images : Tensor, (B, 3, image_size, image_size), floating point in [0, 1]
            Normal images.
        foreground : Tensor, (B, image_size, image_size), bool, or None
            Where the object is; None for everywhere.
        seeds : sequence of B int
            One an image. An image and its seed decide its result, whatever else is in the batch.
        names : sequence of B str, optional
            What errors call the images; by default `image 0` and so on.

        Returns
        -------
        PseudoBatch
            On the images' device; no gradients.

        Raises
        ------
        InputError
            If shapes, types or lengths do not fit, or a foreground is empty and
            `config.empty_foreground` is "error".
        """
        self._check(images, foreground, seeds, names)
        batch, _, height, width = images.shape
        mask = images.new_zeros(batch, height, width, dtype=torch.bool)
        if batch == 0:
            return PseudoBatch(images.clone(), mask)
        area = self._area(images, foreground, names)
        made = images
        for draws in draw(seeds, self.config, self._edge, images.device):
            made, mask = self._one_each(images, made, mask, area, draws)
        return PseudoBatch(made, mask)

    def _one_each(
        self, images: Tensor, made: Tensor, mask: Tensor, area: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Paste one more patch into each image."""
        low, high = self.bounds
        boxes = place(area, low, high, draws.slots["place"].reshape(-1, TRIES, DRAWS_A_TRY))
        h, w = boxes.height, boxes.width
        patch = cut(images, boxes.source_y, boxes.source_x, h, w, self._edge).float()
        patch = transform(patch, h, w, draws, self._unit)

        # Windows of one size around the target boxes, none of which leaves its image.
        edge = min(self._edge, self.image_size)
        top = window(boxes.target_y, edge, self.image_size)
        left = window(boxes.target_x, edge, self.image_size)
        steps = torch.arange(edge, device=images.device, dtype=torch.float32)
        rows = steps - (boxes.target_y - top)[:, None]
        columns = steps - (boxes.target_x - left)[:, None]
        first, last = (math.radians(angle) for angle in self.config.rotation)
        angle = first + draws.slots["rotation"][:, 0] * (last - first)
        y, x, support = rotation_points(rows, columns, h, w, angle)
        patch = sample(patch, y, x, h, w).clamp(0.0, 1.0)
        low_opacity, high_opacity = self.config.opacity
        opacity = low_opacity + draws.slots["opacity"][:, 0] * (high_opacity - low_opacity)
        return paste(made, mask, patch, support, top, left, opacity)

    def _area(
        self, images: Tensor, foreground: Tensor | None, names: Sequence[str] | None
    ) -> Tensor:
        """Foregrounds that have at least one pixel each."""
        if foreground is None:
            return images.new_ones(images[:, 0].shape, dtype=torch.bool)
        foreground = foreground.to(images.device)
        empty = ~foreground.flatten(1).any(dim=1)
        if self.config.empty_foreground == "whole":
            foreground = foreground | empty[:, None, None]
        elif bool(empty.any()):
            found = empty.nonzero().squeeze(1).tolist()
            listed = ", ".join(f"image {i}" if names is None else names[i] for i in found[:5])
            raise InputError(
                f"foreground: expected at least one pixel in each image, got none in {listed}"
                f"{', ...' if len(found) > 5 else ''}; empty_foreground='whole' takes the whole "
                "image then"
            )
        return dilate(foreground, round(self.config.dilate * self._unit))

    def _check(
        self,
        images: Tensor,
        foreground: Tensor | None,
        seeds: Sequence[int],
        names: Sequence[str] | None,
    ) -> None:
        size = self.image_size
        if (
            images.ndim != 4
            or tuple(images.shape[1:]) != (3, size, size)
            or not images.is_floating_point()
        ):
            raise InputError(
                f"images: expected a floating-point tensor (B, 3, {size}, {size}), got "
                f"{tuple(images.shape)} of {images.dtype}"
            )
        expected = (len(images), size, size)
        if foreground is not None and (
            tuple(foreground.shape) != expected or foreground.dtype != torch.bool
        ):
            raise InputError(
                f"foreground: expected a tensor {expected} of torch.bool, got "
                f"{tuple(foreground.shape)} of {foreground.dtype}"
            )
        for what, given in (("seeds", seeds), ("names", names)):
            if given is not None and len(given) != len(images):
                raise InputError(
                    f"{what}: expected one for each of {len(images)} images, got {len(given)}"
                )
