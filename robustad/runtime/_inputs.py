"""Whether an array is what an exported file takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.geometry import Geometry
from robustad.runtime import _metadata


class Inputs:
    """What a file takes.

    Parameters
    ----------
    metadata : dict
        The file's.
    geometry : Geometry
        How images are resized and cropped.
    name : str
        Of the file, for messages.
    """

    def __init__(self, metadata: dict[str, Any], geometry: Geometry, name: str) -> None:
        self._metadata, self._geometry, self._name = metadata, geometry, name

    @property
    def form(self) -> str:
        """Prepared floats or whole images of bytes; see `OnnxDetector.input_form`."""
        return _metadata.input_form(self._metadata)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Of prepared images, where there is only one."""
        height, width = self._metadata["input"]["height"], self._metadata["input"]["width"]
        return None if height is None or width is None else (height, width)

    def prepared_size(self, x: npt.NDArray[Any]) -> tuple[int, int]:
        """Height and width of images after resizing and cropping, wherever that is done."""
        if self.form == _metadata.BYTES:
            return self._geometry.crop(*self._geometry.resized(*x.shape[1:3]))[2:]
        return x.shape[2], x.shape[3]

    def check(self, x: npt.NDArray[Any]) -> None:
        """Raise an InputError unless shape, type and range fit."""
        whole = self.form == _metadata.BYTES
        dtype, channels = (np.uint8, 3) if whole else (np.float32, 1)
        fits = isinstance(x, np.ndarray) and x.dtype == dtype and x.ndim == 4
        if not fits or x.shape[channels] != 3:
            got = f"{x.shape} of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
            wanted = "uint8 array (B, H, W, 3)" if whole else "float32 array (B, 3, H, W)"
            raise InputError(f"x: expected a {wanted}, got {got}")
        if whole:
            self._check_whole(x)
        else:
            self._check_prepared(x)

    def _check_whole(self, x: npt.NDArray[Any]) -> None:
        if not x.size:
            raise InputError(f"x: expected at least one image with pixels, got {x.shape}")
        if self.image_size not in (None, self.prepared_size(x)):
            raise InputError(
                f"x: {self._name} resizes images to {self.image_size} pixels only, got "
                f"{x.shape}, which would be {self.prepared_size(x)}"
            )

    def _check_prepared(self, x: npt.NDArray[Any]) -> None:
        batch, _, height, width = x.shape
        multiple = self._geometry.multiple
        if not batch or not height or not width or height % multiple or width % multiple:
            raise InputError(
                f"x: expected at least one image with edges of whole multiples of {multiple} "
                f"pixels, got {x.shape}"
            )
        if self.image_size not in (None, (height, width)):
            raise InputError(f"x: {self._name} takes {self.image_size} pixels only, got {x.shape}")
        low, high = float(x.min()), float(x.max())
        if not (low >= 0.0 and high <= 1.0):  # also refuses NaN
            raise InputError(f"x: expected values in [0, 1], got {low:g}..{high:g}")
