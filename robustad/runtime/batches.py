"""Images of any sizes, as runs that fit one batch each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustad._batching import runs
from robustad.errors import InputError
from robustad.geometry import Geometry
from robustad.images import LoadedImage, iter_images, iter_pixels

if TYPE_CHECKING:
    from robustad.images import Images, Pixels

# Original pixels that are resized at once inside a file: about 22 bytes each, in float32.
MAX_BYTE_PIXELS = 1 << 24
# 8-bit values come back from [0, 1] as integers up to rounding.
EIGHT_BITS = 1e-3


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
        Resized and cropped; of a file that does this itself, the original as uint8.
    """

    name: str
    height: int
    width: int
    pixels: Pixels


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


def byte_batches(images: Images, batch_size: int) -> Iterator[list[Prepared]]:
    """Decode images for a file that prepares them itself, and gather neighbours of one size.

    Parameters
    ----------
    images : path, folder, PIL image, array, tensor, or an iterable of these
        See `robustad.images.iter_images`.
    batch_size : int >= 1
        Images a batch at most; fewer where they have more than `MAX_BYTE_PIXELS` together.

    Yields
    ------
    list of Prepared
        In the order given; at least one.

    Raises
    ------
    InputError
        If `batch_size` is below 1 or an image cannot be read.

    Warns
    -----
    UserWarning
        Once, if an image has more than 8 bits a channel: it is rounded.
    """
    if batch_size < 1:
        raise InputError(f"batch_size: expected >= 1, got {batch_size}")
    told = False

    def prepare(loaded: tuple[str, Pixels]) -> Prepared:
        nonlocal told
        name, pixels = loaded
        if pixels.dtype != np.uint8:
            scaled = pixels * np.float32(255)
            pixels = np.rint(scaled).astype(np.uint8)
            if not told and np.abs(scaled - pixels).max() > EIGHT_BITS:
                told = True
                warnings.warn(
                    f"{name}: has more than 8 bits a channel and is rounded to 8, as the file "
                    "takes uint8; export with input='float_nchw' to keep them",
                    stacklevel=5,
                )
        return Prepared(name, pixels.shape[0], pixels.shape[1], pixels)

    prepared = map(prepare, iter_pixels(images))
    for batch in runs(prepared, batch_size, key=lambda one: one.pixels.shape):
        most = max(1, MAX_BYTE_PIXELS // (batch[0].height * batch[0].width))
        for start in range(0, len(batch), most):
            yield batch[start : start + most]


def stack(batch: list[Prepared]) -> npt.NDArray[Any]:
    """One array of a batch: (B, 3, h, w), float32, or (B, H, W, 3), uint8."""
    pixels = np.stack([prepared.pixels for prepared in batch])
    if pixels.dtype == np.uint8:
        return pixels
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
