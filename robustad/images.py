"""Images from anywhere, as float32 RGB in [0, 1]. Needs numpy; Pillow only to decode files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from robustad._imports import require
from robustad.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
    from torch import Tensor

    Image: TypeAlias = str | Path | PILImage | npt.NDArray[Any] | Tensor
    Images: TypeAlias = Image | Iterable[Image]
    Pixels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Rounding in a resize or a cast must not be refused; anything beyond is another scale.
RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image and where it came from.

    Attributes
    ----------
    pixels : array, (H, W, 3), float32 in [0, 1]
        RGB.
    name : str
        The file it was read from, or `image 3` for the fourth one given in memory.
    """

    pixels: npt.NDArray[np.float32]
    name: str


def iter_images(images: Images) -> Iterator[LoadedImage]:
    """Decode images one by one.

    Parameters
    ----------
    images : path, PIL image, array, tensor, or an iterable of these
        A path names a file or a folder (its image files, sorted by name, not recursive).
        Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a batch of them (B, H, W, C);
        tensors are (1, H, W), (3, H, W) or (4, H, W), or (B, C, H, W). Integer types are scaled
        by their range (uint8 by 255, uint16 by 65535); floats must lie in [0, 1].

    Yields
    ------
    LoadedImage
        Greyscale is repeated to three channels, CMYK and palettes are converted, an alpha
        channel is dropped, EXIF rotation is applied. The depth of 16-bit greyscale is kept;
        Pillow reads 16-bit colour files as 8-bit ones. Its 32-bit integers (mode `I`) must lie in
        0..65535 and count as 16-bit.

    Raises
    ------
    InputError
        If a file is missing, no image or truncated, a folder holds no image, an array has
        another shape or type, or a float lies outside [0, 1] or is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> [image] = iter_images(np.full((4, 6), 255, np.uint8))
    >>> image.name, image.pixels.shape, float(image.pixels.max())
    ('image 0', (4, 6, 3), 1.0)
    """
    for name, pixels in iter_pixels(images):
        yield LoadedImage(_floats(pixels), name)


def iter_pixels(images: Images) -> Iterator[tuple[str, Pixels]]:
    """Decode images one by one, and leave those of 8 bits a channel as they are.

    Parameters
    ----------
    images : path, PIL image, array, tensor, or an iterable of these
        See `iter_images`.

    Yields
    ------
    (str, array (H, W, 3))
        The name as in `LoadedImage`, and RGB: uint8, or float32 in [0, 1] where the source has
        another type.

    Raises
    ------
    InputError
        As `iter_images`.
    """
    for index, (source, name) in enumerate(_flatten(images)):
        name = name or f"image {index}"
        yield name, _decode(source, name)


def read_image(image: Image) -> npt.NDArray[np.float32]:
    """Decode one image; see `iter_images` for what is taken.

    Returns
    -------
    array, (H, W, 3), float32 in [0, 1]
        RGB.
    """
    loaded = list(iter_images(image))
    if len(loaded) != 1:
        raise InputError(f"expected one image, got {len(loaded)}")
    return loaded[0].pixels


def image_files(folder: str | Path) -> list[Path]:
    """List the image files directly in `folder`, sorted by name."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _flatten(images: Any) -> Iterator[tuple[Any, str | None]]:
    """Single images with their names; arrays of a batch have none."""
    if isinstance(images, str | Path):
        path = Path(images)
        if path.is_dir():
            files = image_files(path)
            if not files:
                raise InputError(
                    f"{path}: expected a folder with image files ({', '.join(sorted(SUFFIXES))}), "
                    "found none"
                )
            yield from ((file, str(file)) for file in files)
        else:
            yield path, str(path)
    elif _is_tensor(images) or isinstance(images, np.ndarray):
        if images.ndim == 4:
            yield from ((image, None) for image in images)
        else:
            yield images, None
    elif _is_pil(images):
        yield images, getattr(images, "filename", None) or None
    elif isinstance(images, Iterable):
        for image in images:
            yield from _flatten(image)
    else:
        raise InputError(
            "images: expected paths, PIL images, arrays or tensors, got "
            f"{type(images).__module__}.{type(images).__qualname__}"
        )


def _decode(source: Any, name: str) -> Pixels:
    if isinstance(source, Path):
        return _from_file(source)
    if _is_pil(source):
        with _decoding(name):
            return _from_pil(source, name)
    if _is_tensor(source):
        array = source.detach().cpu()
        array = array.float().numpy() if array.is_floating_point() else array.numpy()
        if array.ndim == 3 and array.shape[0] not in (1, 3, 4):
            raise InputError(
                f"{name}: expected a tensor (C, H, W) with 1, 3 or 4 channels, got {array.shape}"
            )
        return _from_array(np.moveaxis(array, 0, -1) if array.ndim == 3 else array, name)
    return _from_array(source, name)


def _from_file(path: Path) -> Pixels:
    pil = require("PIL.Image", extra="cpu", purpose="reading image files")
    if not path.is_file():
        raise InputError(f"{path}: no such image file or folder")
    with _decoding(str(path)), pil.open(path) as image:
        return _from_pil(image, str(path))


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn what Pillow raises into an InputError that names the image."""
    pil = require("PIL.Image", extra="cpu", purpose="reading image files")
    try:
        yield
    except InputError:
        raise
    except pil.DecompressionBombError as error:
        raise InputError(f"{name}: refused, too many pixels ({error})") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, ...
        reason = "not an image" if isinstance(error, pil.UnidentifiedImageError) else str(error)
        raise InputError(f"{name}: cannot be read as an image: {reason}") from error


def _from_pil(image: PILImage, name: str) -> Pixels:
    ops = require("PIL.ImageOps", extra="cpu", purpose="reading image files")
    image.load()
    image = ops.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return _from_array(np.asarray(image, np.uint16), name)
    if image.mode == "I":  # Pillow opens some 16-bit files as 32-bit integers
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise InputError(
                f"{name}: expected integers in 0..65535, got {values.min()}..{values.max()}"
            )
        return _from_array(values.astype(np.uint16), name)
    if image.mode == "F":
        return _from_array(np.asarray(image, np.float32), name)
    # Via RGBA, Pillow takes transparent palettes without a warning; the alpha is dropped below.
    mode = "RGBA" if "transparency" in image.info else "RGB"
    return _from_array(np.asarray(image.convert(mode)), name)


def _from_array(array: npt.NDArray[Any], name: str) -> Pixels:
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or array.size == 0:
        raise InputError(
            f"{name}: expected an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {shape}"
        )
    array = array[..., :3]
    values: npt.NDArray[Any]
    if array.dtype == np.uint8:
        values = array
    elif array.dtype == np.bool_:
        values = array.astype(np.float32)
    elif array.dtype.kind == "u" and array.dtype.itemsize <= 2:  # of either byte order
        values = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    elif np.issubdtype(array.dtype, np.floating):
        values = array.astype(np.float32)
        low, high = float(values.min()), float(values.max())  # NaN propagates through both
        if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
            raise InputError(
                f"{name}: expected finite values in [0, 1], got {low:g}..{high:g}; "
                "divide 8-bit values by 255, leave out any mean/std normalisation"
            )
        values = values.clip(0.0, 1.0)
    else:
        raise InputError(f"{name}: expected uint8, uint16, bool or float, got {array.dtype}")
    if values.shape[-1] == 1:
        values = values.repeat(3, axis=-1)
    return np.ascontiguousarray(values)


def _floats(pixels: Pixels) -> npt.NDArray[np.float32]:
    """In [0, 1]."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    return pixels.astype(np.float32, copy=False)


def _is_tensor(value: Any) -> bool:
    # By duck: the torch-free runtime must not import torch to find out.
    return hasattr(value, "detach") and hasattr(value, "is_floating_point")


def _is_pil(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getexif")
