"""Foreground masks given as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robustad.data.dataset import Sample
from robustad.errors import DataError, InputError
from robustad.geometry import Geometry
from robustad.images import image_files, read_image

OFFICIAL = Path("train") / "foreground_mask"


def find_masks(samples: Sequence[Sample], folder: Path | None) -> list[Path]:
    """Mask file of each sample.

    Parameters
    ----------
    samples : sequence of Sample
        Whose masks.
    folder : Path or None
        Where the masks lie, named as the images or with their stems; None for
        `train/foreground_mask` in the folder of the category.

    Returns
    -------
    list of Path
        One a sample.

    Raises
    ------
    DataError
        If the folder or a mask is missing, or two masks have one stem.
    InputError
        If `folder` is None and the samples are no files.
    """
    if folder is None:
        root = category_folder(samples)
        if root is None:
            raise InputError(
                "foreground folder: expected one for method 'files', got none, and the images are "
                "no files of one category beside which masks could lie"
            )
        folder = root / OFFICIAL
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with foreground masks, found none")
    known: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in known:
            raise DataError(
                f"{folder}: expected one mask a stem, got {known[path.stem].name} and {path.name}"
            )
        known[path.stem] = path
    found = []
    for sample in samples:
        stem = Path(sample.name).stem
        mask = known.get(stem, known.get(f"{stem}_mask"))
        if mask is None:
            raise DataError(f"{folder}: expected a foreground mask {stem}.png, found none")
        found.append(mask)
    return found


def read_masks(
    samples: Sequence[Sample], folder: Path | None, geometry: Geometry
) -> npt.NDArray[np.bool_]:
    """Masks (N, h, w) of samples at the size that `geometry` gives their images.

    A pixel is foreground where the file is at least half as bright as can be.

    Raises
    ------
    DataError
        As `find_masks`, and if a mask cannot be decoded or has other proportions than its image.
    """
    masks = []
    for sample, path in zip(samples, find_masks(samples, folder), strict=True):
        try:
            mask = read_image(path).max(axis=2) >= 0.5
        except InputError as error:
            raise DataError(f"foreground mask of {sample.name}: {error}") from error
        height, width = sample.read().shape[:2]
        # Masks of another resolution are fine (the authors' are), of another shape are not.
        if not geometry.square and abs(mask.shape[0] * width - mask.shape[1] * height) > max(
            height, width, *mask.shape
        ):
            raise DataError(
                f"{path}: expected the proportions of its image {sample.name}, {height} x {width} "
                f"pixels, got {mask.shape[0]} x {mask.shape[1]}"
            )
        masks.append(geometry.apply_mask(mask))
    return np.stack(masks)


def category_folder(samples: Sequence[Sample]) -> Path | None:
    """Folder that the samples' names are relative to; None where there is no single one."""
    folders = set()
    for sample in samples:
        if not isinstance(sample.image, Path):
            return None
        path, name = sample.image.as_posix(), Path(sample.name).as_posix()
        if not path.endswith(f"/{name}"):
            return None
        folders.add(path.removesuffix(f"/{name}"))
    return Path(folders.pop()) if len(folders) == 1 else None
