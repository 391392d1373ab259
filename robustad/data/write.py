"""Writing any data set in the layout of MVTec AD."""

import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from robustad._imports import require
from robustad.data.dataset import NORMAL, Dataset, Sample
from robustad.errors import DataError, InputError
from robustad.images import SUFFIXES

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


def write_mvtec(dataset: Dataset, root: str | Path, *, overwrite: bool = False) -> Path:
    """Write a data set as `root/<category>/{train/good, test/<defect>, ground_truth/<defect>}`.

    Parameters
    ----------
    dataset : Dataset
        The data set; images without a mask get none.
    root : str or Path
        Folder to write the category into; created if it is missing.
    overwrite : bool, default False
        Replace an existing category.

    Returns
    -------
    Path
        The folder of the category. It appears whole or not at all.

    Raises
    ------
    InputError
        If the category exists and is not empty (without `overwrite`), or `root` is a file.
    DataError
        If an image or mask cannot be decoded, two images would get the same file name, or the
        category or a defect class cannot be a folder's name.

    Notes
    -----
    Images are PNG files named after the last part of the sample's name, masks are
    `<stem>_mask.png` with 0 and 255. PNG files are copied as they are; 8-bit and 16-bit grey
    pixels are kept exactly. `robustad.data.load("mvtec", root, category)` reads it back (`folder`
    where masks are missing), in the same order, so with the same shots and splits.
    """
    _check_folder_name(dataset.category, "category")
    targets = _targets(dataset)
    base = Path(root).expanduser()
    final = base / dataset.category
    if base.exists() and not base.is_dir():
        raise InputError(f"{base}: expected a folder to write to, got a file")
    if final.exists() and not final.is_dir():
        raise InputError(f"{final}: expected a folder to write to, got a file")
    if final.is_dir() and any(final.iterdir()) and not overwrite:
        raise InputError(f"{final}: exists and is not empty; pass overwrite=True to replace it")
    mark = uuid.uuid4().hex
    aside, old = base / f".{mark}.part", base / f".{mark}.old"
    try:
        aside.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{base}: a parent of it is not a folder") from error
    try:
        for relative, sample in targets.items():
            _write_sample(sample, aside / relative, aside)
        if final.is_dir():
            final.rename(old)
        try:
            aside.rename(final)
        except OSError:
            if old.is_dir():
                old.rename(final)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return final


def _targets(dataset: Dataset) -> dict[Path, Sample]:
    targets: dict[Path, Sample] = {}
    for split, samples in (("train", dataset.train), ("test", dataset.test)):
        for sample in samples:
            defect = "good" if sample.label == NORMAL else sample.defect
            _check_folder_name(defect, f"defect of {sample.name}")
            if sample.label != NORMAL and defect == "good":
                raise DataError(f"{sample.name}: anomalous, expected a defect class, got 'good'")
            target = Path(split, defect, f"{_stem(sample.name)}.png")
            if target in targets:
                raise DataError(
                    f"{sample.name} and {targets[target].name}: would both be written to {target}"
                )
            targets[target] = sample
    return targets


def _stem(name: str) -> str:
    # Generated samples have no suffix: in `part 1.2` nothing is to be cut off.
    last = Path(name)
    return last.stem if last.suffix.lower() in SUFFIXES else last.name


def _check_folder_name(name: str, what: str) -> None:
    if not name or name.startswith(".") or Path(name).name != name or "\\" in name:
        raise DataError(f"{what}: expected a name for a folder, got {name!r}")


def _write_sample(sample: Sample, target: Path, category: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    pixels = sample.read()
    if isinstance(sample.image, Path) and sample.image.suffix.lower() == ".png":
        shutil.copyfile(sample.image, target)
    else:
        # Photographs hardly shrink further at higher levels, which take three times as long.
        _as_image(pixels).save(target, compress_level=1)
    if sample.label == NORMAL:
        return
    mask = sample.read_mask()
    if mask is None:
        return
    truth = category / "ground_truth" / target.parent.name / f"{target.stem}_mask.png"
    truth.parent.mkdir(parents=True, exist_ok=True)
    _pil(mask.astype(np.uint8) * np.uint8(255)).save(truth)


def _as_image(pixels: npt.NDArray[np.float32]) -> "PILImage":
    scaled = pixels * np.float32(255)
    eight = np.rint(scaled)
    # Values off the 8-bit grid come from 16-bit grey; Pillow has no 16-bit RGB to lose.
    if np.abs(scaled - eight).max(initial=0.0) > 1e-3 and (pixels == pixels[..., :1]).all():
        return _pil(np.rint(pixels[..., 0] * np.float64(65535)).astype(np.uint16))
    return _pil(eight.astype(np.uint8))


def _pil(array: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> "PILImage":
    pil = require("PIL.Image", extra="cpu", purpose="writing image files")
    image: PILImage = pil.fromarray(array)
    return image
