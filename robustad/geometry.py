"""From an image of any size to the size a detector sees, and back. Needs numpy alone.

One implementation serves the torch detectors and the torch-free runtime, so that both score
exactly the same pixels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# About 0.8 GB in float32: no detector scores more at once.
MAX_PIXELS = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Resize the smaller edge, then crop the centre to a multiple of the patch size.

    Parameters
    ----------
    size : int, default 448
        Length of the smaller edge after resizing, in pixels; with `square`, of both edges.
    multiple : int, default 14
        Both edges are cropped to a multiple of this many pixels, usually the patch size.
    square : bool, default False
        Stretch to `size` x `size` instead of keeping the aspect ratio.

    Raises
    ------
    InputError
        If `multiple` is below 1 or `size` is below `multiple`.

    Notes
    -----
    Images are resized by antialiased bicubic interpolation (a = -0.5, as Pillow does it, in
    floating point and without rounding), masks by nearest neighbour.

    Examples
    --------
    >>> import numpy as np
    >>> geometry = Geometry(size=28, multiple=14)
    >>> geometry.apply(np.zeros((100, 160, 3), np.float32)).shape
    (28, 42, 3)
    """

    size: int = 448
    multiple: int = 14
    square: bool = False

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise InputError(f"multiple: expected >= 1 pixel, got {self.multiple}")
        if self.size < self.multiple:
            raise InputError(
                f"size: expected at least one patch of {self.multiple} pixels, got {self.size}"
            )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, before the crop.

        Raises
        ------
        InputError
            If that would be more than `MAX_PIXELS`, as for a strip of very unequal edges.
        """
        if self.square:
            return self.size, self.size
        scale = self.size / min(height, width)
        if scale * scale * height * width > MAX_PIXELS:
            raise InputError(
                f"an image of {height} x {width} pixels would be resized to about "
                f"{height * scale:.0f} x {width * scale:.0f}, more than {MAX_PIXELS} pixels; "
                "cut it into pieces or use square=True"
            )
        return max(self.size, round(height * scale)), max(self.size, round(width * scale))

    def crop(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of the centre crop of a resized image."""
        cropped_h = height - height % self.multiple
        cropped_w = width - width % self.multiple
        return (height - cropped_h) // 2, (width - cropped_w) // 2, cropped_h, cropped_w

    def apply(self, pixels: FloatArray) -> FloatArray:
        """Resize and crop an image.

        Parameters
        ----------
        pixels : array, (H, W, 3), float32 in [0, 1]
            The image.

        Returns
        -------
        array, (h, w, 3), float32 in [0, 1]
            With h and w multiples of `multiple`.
        """
        height, width = self.resized(*pixels.shape[:2])
        top, left, cropped_h, cropped_w = self.crop(height, width)
        out = resize_bicubic(pixels, height, width)
        out = out[top : top + cropped_h, left : left + cropped_w]
        return np.ascontiguousarray(np.clip(out, 0.0, 1.0))

    def apply_mask(self, mask: BoolArray) -> BoolArray:
        """Resize a mask (H, W) by nearest neighbour and crop it as `apply` crops its image."""
        height, width = self.resized(*mask.shape)
        top, left, cropped_h, cropped_w = self.crop(height, width)
        rows = _nearest(mask.shape[0], height)[top : top + cropped_h]
        columns = _nearest(mask.shape[1], width)[left : left + cropped_w]
        return np.ascontiguousarray(mask[rows][:, columns])

    def restore(self, anomaly_map: FloatArray, height: int, width: int) -> FloatArray:
        """Bring a map of the prepared image back to the size of the original.

        Parameters
        ----------
        anomaly_map : array, (h, w), float32
            A map at the size `apply` gave.
        height, width : int
            Size of the original image in pixels.

        Returns
        -------
        array, (height, width), float32
            Bilinear; the margin that the crop cut off repeats the nearest edge value.
        """
        resized_h, resized_w = self.resized(height, width)
        top, left, cropped_h, cropped_w = self.crop(resized_h, resized_w)
        if anomaly_map.shape != (cropped_h, cropped_w):
            raise InputError(
                f"anomaly_map: expected shape {(cropped_h, cropped_w)} for an image of "
                f"{height} x {width} pixels, got {anomaly_map.shape}"
            )
        margins = (
            (top, resized_h - top - cropped_h),
            (left, resized_w - left - cropped_w),
        )
        padded = np.pad(anomaly_map, margins, mode="edge")
        return resize_bilinear(padded, height, width)


def resize_bicubic(pixels: FloatArray, height: int, width: int) -> FloatArray:
    """Antialiased bicubic resize of (H, W, C) or (H, W); may overshoot [0, 1] by a little."""
    return _resize(pixels, height, width, "bicubic")


def resize_bilinear(pixels: FloatArray, height: int, width: int) -> FloatArray:
    """Antialiased bilinear resize of (H, W, C) or (H, W)."""
    return _resize(pixels, height, width, "bilinear")


def _resize(pixels: FloatArray, height: int, width: int, kernel: str) -> FloatArray:
    out = pixels
    if pixels.shape[0] != height:
        index, weight = _taps(pixels.shape[0], height, kernel)
        out = _gather_rows(out, index, weight)
    if pixels.shape[1] != width:
        index, weight = _taps(pixels.shape[1], width, kernel)
        out = _gather_rows(out.swapaxes(0, 1), index, weight).swapaxes(0, 1)
    return np.ascontiguousarray(out, dtype=np.float32)


def _gather_rows(pixels: FloatArray, index: npt.NDArray[np.intp], weight: FloatArray) -> FloatArray:
    # One pass per tap: as many multiply-adds as taps, and no (out, taps, W, C) array in between.
    flat = pixels.reshape(pixels.shape[0], -1)
    out = np.zeros((index.shape[0], flat.shape[1]), np.float32)
    for tap in range(index.shape[1]):
        out += weight[:, tap, None] * flat[index[:, tap]]
    return out.reshape(index.shape[0], *pixels.shape[1:])


@lru_cache(maxsize=64)
def _taps(size: int, out: int, kernel: str) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Source rows and their weights for each output row: the filter widens when shrinking."""
    scale = size / out
    support_scale = max(scale, 1.0)
    radius = (2.0 if kernel == "bicubic" else 1.0) * support_scale
    centre = (np.arange(out) + 0.5) * scale
    first = np.maximum(np.floor(centre - radius + 0.5), 0).astype(np.intp)
    last = np.minimum(np.floor(centre + radius + 0.5), size).astype(np.intp)
    index = first[:, None] + np.arange(int((last - first).max()))
    distance = np.abs((index + 0.5 - centre[:, None]) / support_scale)
    weight = _bicubic(distance) if kernel == "bicubic" else np.maximum(0.0, 1.0 - distance)
    weight = np.where(index < last[:, None], weight, 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.minimum(index, size - 1), weight.astype(np.float32)


def _bicubic(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    a, d = -0.5, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def _nearest(size: int, out: int) -> npt.NDArray[np.intp]:
    # floor((i + 0.5) * size / out) in integers: a centre on a boundary is not left to rounding
    return (2 * np.arange(out, dtype=np.intp) + 1) * size // (2 * out)
