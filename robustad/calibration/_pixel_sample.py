"""An even sample of pixels, from maps that come one by one."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.metrics._checks import FloatArray

Map = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


class PixelSample:
    """An even sample of the normal and of the anomalous pixels of any number of images.

    Each pixel gets a random key; those with the smallest keys stay.

    Parameters
    ----------
    pixels : int >= 2
        Size of the sample.
    seed : int >= 0
        Of the keys.

    Attributes
    ----------
    seen : [int, int]
        Normal and anomalous pixels so far.
    images, defective : int
        Images so far, and those with an anomalous pixel.
    """

    def __init__(self, pixels: int, seed: int) -> None:
        self.pixels = pixels
        self.seen = [0, 0]
        self.images = self.defective = 0
        self._bits = np.random.PCG64(seed)
        self._keys = [np.empty(0, np.uint64) for _ in range(2)]
        self._values = [np.empty(0) for _ in range(2)]

    def add(self, anomaly_map: Map, mask: Mask) -> None:
        """Take in the pixels of one image.

        Raises
        ------
        InputError
            If shapes or types do not fit or a value is not finite.
        """
        values, truth = np.asarray(anomaly_map), np.asarray(mask)
        if values.ndim != 2 or values.shape != truth.shape or truth.dtype != np.bool_:
            raise InputError(
                "maps and masks: expected maps (H, W) and bool masks of the same shapes, got "
                f"{values.shape} and {truth.shape} of {truth.dtype}"
            )
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise InputError(f"maps: expected finite floating-point values (image {self.images})")
        self.images += 1
        self.defective += bool(truth.any())
        for kind, chosen in enumerate((values[~truth], values[truth])):
            self.seen[kind] += chosen.size
            self._keep(kind, chosen.astype(np.float64))

    def _keep(self, kind: int, values: FloatArray) -> None:
        # Both kinds may fill the whole sample: which is the rarer one is known only at the end.
        keys = np.append(self._keys[kind], self._bits.random_raw(values.size))
        values = np.append(self._values[kind], values)
        if keys.size > self.pixels:
            kept = np.argpartition(keys, self.pixels)[: self.pixels]
            keys, values = keys[kept], values[kept]
        self._keys[kind], self._values[kind] = keys, values

    def values(self) -> tuple[FloatArray, FloatArray]:
        """Normal and anomalous values, half of the sample each as far as there are so many.

        Raises
        ------
        InputError
            If there is no pixel of one kind.
        """
        for count, name in zip(self.seen, ("normal", "anomalous"), strict=True):
            if not count:
                raise InputError(
                    f"masks: expected normal and anomalous pixels, found no {name} one in "
                    f"{self.images} images"
                )
        half = self.pixels // 2
        normal, anomalous = self.seen
        sizes = [half, self.pixels - half]
        if normal < half:
            sizes = [normal, min(anomalous, self.pixels - normal)]
        elif anomalous < self.pixels - half:
            sizes = [min(normal, self.pixels - anomalous), anomalous]
        picked = []
        for kind, size in enumerate(sizes):
            order = np.argsort(self._keys[kind], kind="stable")[:size]
            picked.append(self._values[kind][order])
        return picked[0], picked[1]


def pairs(maps: Iterable[Map], masks: Iterable[Mask]) -> Iterator[tuple[Map, Mask]]:
    """Give maps with their masks; an InputError if there are more of one."""
    try:
        yield from zip(maps, masks, strict=True)
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise InputError("maps and masks: expected equally many, one is longer") from error
