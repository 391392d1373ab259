"""Images of any sizes, as runs that fit one batch each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from robustad._batching import runs
from robustad.errors import InputError
from robustad.geometry import Geometry
from robustad.images import LoadedImage, iter_images

if TYPE_CHECKING:
    from robustad.images import Images


@dataclass(frozen=True)
class Prepared:
    """An image as a detector takes it.

    Attributes
    ----------
    name : str
        See `robustad.images.LoadedImage`.
    height, width : int
        Size of the original image in pixels.
    pixels : array, (h, w, 3), float32 in [0, 1]
        Resized and cropped.
    """

    name: str
    height: int
    width: int
    pixels: npt.NDArray[np.float32]


def batches(images: Images, geometry: Geometry, batch_size: int) -> Iterator[list[Prepared]]:
    """Decode and prepare images, and gather neighbours of one prepared size.

    Parameters
    ----------
    images : path, folder, PIL image, array, tensor, or an iterable of these
        See `robustad.images.iter_images`.
    geometry : Geometry
        How to resize and crop.
    batch_size : int >= 1
        Images a batch at most.

    Yields
    ------
    list of Prepared
        In the order given; at least one.

    Raises
    ------
    InputError
        If `batch_size` is below 1 or an image cannot be read.
    """
    if batch_size < 1:
        raise InputError(f"batch_size: expected >= 1, got {batch_size}")

    def prepare(image: LoadedImage) -> Prepared:
        height, width = image.pixels.shape[:2]
        return Prepared(image.name, height, width, geometry.apply(image.pixels))

    prepared = map(prepare, iter_images(images))
    yield from runs(prepared, batch_size, key=lambda one: one.pixels.shape)


def stack(batch: list[Prepared]) -> npt.NDArray[np.float32]:
    """One array (B, 3, h, w) of a batch."""
    pixels = np.stack([prepared.pixels for prepared in batch])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
