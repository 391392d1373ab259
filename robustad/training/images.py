"""The normal images of a run, decoded once and held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustad.data import Dataset, Sample
from robustad.data.splits import hold_out
from robustad.errors import DataError
from robustad.foreground import ForegroundConfig, estimate
from robustad.geometry import Geometry
from robustad.progress import counter, track

# Above this many bytes images are held in 16 bits, which costs a twentieth of a grey level.
FULL_PRECISION_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Images:
    """Prepared normal images with their foregrounds.

    Attributes
    ----------
    pixels : Tensor, (M, 3, S, S), float32 or float16 in [0, 1]
        On the CPU.
    foreground : Tensor, (M, S, S), bool
        Where pseudo-anomalies may be.
    names : tuple of str
        Of the samples.
    """

    pixels: Tensor
    foreground: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int] | Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S), float32, and foregrounds (B, S, S) of some rows, on a device."""
        index = torch.as_tensor(rows)
        return self.pixels[index].to(device).float(), self.foreground[index].to(device)

    def subset(self, rows: Sequence[int]) -> Images:
        """Some of the images."""
        index = torch.as_tensor(rows, dtype=torch.long)
        names = tuple(self.names[row] for row in rows)
        return Images(pixels=self.pixels[index], foreground=self.foreground[index], names=names)


def read_images(
    data: Dataset,
    geometry: Geometry,
    foreground: ForegroundConfig,
    *,
    device: torch.device,
    cache: str | Path | None = None,
    progress: bool = False,
) -> Images:
    """Decode, resize and stack the training images of a category, and find their foregrounds.

    Parameters
    ----------
    data : Dataset
        Its `train` samples are used.
    geometry : Geometry
        Square.
    foreground : ForegroundConfig
        How the foreground is found.
    device : torch.device
        Where foregrounds are computed.
    cache : str, Path or None, default None
        Folder to keep foregrounds in; see `robustad.foreground.estimate`.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Images
        In the order of `data.train`.

    Raises
    ------
    DataError
        If there are fewer than two training images, or one cannot be read.
    WeightsError
        If the network that finds foregrounds cannot be had.
    """
    samples = data.train
    if len(samples) < 2:
        raise DataError(
            f"{data.name} {data.category}: expected at least 2 normal training images, "
            f"got {len(samples)}"
        )
    size = geometry.size
    full = len(samples) * 3 * size * size * 4 <= FULL_PRECISION_BYTES
    pixels = torch.empty(
        len(samples), 3, size, size, dtype=torch.float32 if full else torch.float16
    )
    for row, sample in enumerate(track(samples, "read images", enabled=progress)):
        pixels[row] = _prepared(sample, geometry)
    with counter("find foregrounds", enabled=progress) as count:
        masks = estimate(
            data, foreground, geometry=geometry, cache=cache, device=device, progress=count
        )
    return Images(pixels=pixels, foreground=masks, names=tuple(sample.name for sample in samples))


def check_foregrounds(images: Images) -> None:
    """Raise DataError if an image has no foreground to put a pseudo-anomaly in."""
    has = images.foreground.flatten(1).any(dim=1).tolist()
    empty = [name for name, found in zip(images.names, has, strict=True) if not found]
    if empty:
        more = f" (and of {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise DataError(
            f"the foreground of {empty[0]}{more} is empty: mend the mask, choose another "
            "foreground.method, or set pseudo.empty_foreground=whole"
        )


def split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Divide images into those trained on and those validated on.

    With `fraction` 0, or fewer than four images, both are all of them: too few to do without.
    """
    if fraction == 0 or len(images) < 4:
        return images, images
    held = hold_out(images.names, fraction, seed)
    rows = range(len(images))
    kept = images.subset([row for row in rows if images.names[row] not in held])
    return kept, images.subset([row for row in rows if images.names[row] in held])


def _prepared(sample: Sample, geometry: Geometry) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(geometry.apply(sample.read()).transpose(2, 0, 1)))
