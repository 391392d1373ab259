"""What every data set becomes: normal training images and a labelled test set."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robustad.errors import DataError, InputError
from robustad.images import read_image

NORMAL, ANOMALOUS = 0, 1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its label and, where there is one, its mask.

    Attributes
    ----------
    image : Path or array, (H, W, 3), uint8
        The image file, or its pixels for generated data.
    label : int
        0 normal, 1 anomalous.
    defect : str, default "good"
        Name of the defect class; `good` for normal images.
    mask : Path, array (H, W) bool, or None
        The ground truth; None for normal images (all False) and where the data set has none.
    name : str
        Unique within its data set, stable across machines: a path relative to the category.
    """

    image: Path | npt.NDArray[np.uint8]
    label: int
    name: str
    defect: str = "good"
    mask: Path | npt.NDArray[np.bool_] | None = None

    def read(self) -> npt.NDArray[np.float32]:
        """Decode the image.

        Returns
        -------
        array, (H, W, 3), float32 in [0, 1]
            RGB.

        Raises
        ------
        DataError
            If the file is missing or cannot be decoded.
        """
        try:
            return read_image(self.image)
        except InputError as error:
            raise DataError(str(error)) from error

    def read_mask(self) -> npt.NDArray[np.bool_] | None:
        """Decode the ground truth.

        Returns
        -------
        array, (H, W), bool, or None
            All False for a normal image; None for an anomalous image without a mask. A pixel is
            anomalous where the mask file's value is above zero.

        Raises
        ------
        DataError
            If the file is missing, cannot be decoded or has another size than its image.
        """
        return self._mask_of(self.read())

    def _mask_of(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_] | None:
        if self.label == NORMAL:
            return np.zeros(pixels.shape[:2], np.bool_)
        if self.mask is None:
            return None
        mask: npt.NDArray[np.bool_]
        if isinstance(self.mask, Path):
            try:
                mask = read_image(self.mask).max(axis=-1) > 0
            except InputError as error:
                raise DataError(f"mask of {self.name}: {error}") from error
        else:
            mask = self.mask
        if mask.shape != pixels.shape[:2]:
            where = self.mask if isinstance(self.mask, Path) else f"mask of {self.name}"
            raise DataError(
                f"{where}: expected the size of its image {self.name}, {pixels.shape[0]} x "
                f"{pixels.shape[1]} pixels, got {mask.shape[0]} x {mask.shape[1]}"
            )
        return mask


@dataclass(frozen=True, kw_only=True, repr=False)
class Dataset:
    """One category of a data set.

    Attributes
    ----------
    name : str
        Name of the data set, as `robustad.data.load` takes it.
    category : str
        Name of the category.
    train : tuple of Sample
        Normal images, sorted by name.
    test : tuple of Sample
        Normal and anomalous images, sorted by name.

    Raises
    ------
    DataError
        If two samples share a name, a label is neither 0 nor 1, or a training image is anomalous.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.zeros((8, 8, 3), np.uint8)
    >>> good = Sample(image=pixels, label=0, name="good.png")
    >>> bad = Sample(image=pixels, label=1, name="bad.png", defect="hole")
    >>> Dataset(name="demo", category="disc", train=(good,), test=(bad,))
    Dataset(name='demo', category='disc', train=1, test=0 normal + 1 anomalous)
    """

    name: str
    category: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def __post_init__(self) -> None:
        # Sorted here once, so that no loader can make k-shot sampling depend on a listing's order.
        object.__setattr__(self, "train", tuple(sorted(self.train, key=_by_name)))
        object.__setattr__(self, "test", tuple(sorted(self.test, key=_by_name)))
        where = f"{self.name}/{self.category}"
        for name, count in Counter(sample.name for sample in (*self.train, *self.test)).items():
            if count > 1:
                raise DataError(f"{where}: expected unique names, got {count} samples named {name}")
        for sample in (*self.train, *self.test):
            if sample.label not in (NORMAL, ANOMALOUS):
                raise DataError(
                    f"{where}: {sample.name}: expected label 0 or 1, got {sample.label}"
                )
        for sample in self.train:
            if sample.label != NORMAL:
                raise DataError(
                    f"{where}: {sample.name}: expected normal images for training, "
                    f"got an anomalous one ({sample.defect})"
                )

    def __repr__(self) -> str:
        anomalous = sum(sample.label for sample in self.test)
        return (
            f"Dataset(name={self.name!r}, category={self.category!r}, train={len(self.train)}, "
            f"test={len(self.test) - anomalous} normal + {anomalous} anomalous)"
        )

    def check(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Decode every image and mask and list what is wrong.

        Parameters
        ----------
        progress : callable or None, default None
            Called with (images done, images in all) after each image.

        Returns
        -------
        list of str
            One line a problem, naming the file; empty if there is none. Reported are images and
            masks that cannot be decoded, masks of another size than their image, masks of
            anomalous images that mark no pixel, masks kept as JPEG (compression noise counts as
            anomalous), and test images whose pixels equal a training image's.
        """
        problems: list[str] = []
        training: dict[bytes, str] = {}
        total = len(self.train) + len(self.test)
        for done, sample in enumerate((*self.train, *self.test), start=1):
            try:
                pixels = sample.read()
                digest = hashlib.sha256(pixels.data).digest() + repr(pixels.shape).encode()
                if done <= len(self.train):
                    training.setdefault(digest, sample.name)
                elif digest in training:
                    problems.append(
                        f"{sample.name}: same pixels as the training image {training[digest]}"
                    )
                if sample.label == ANOMALOUS:
                    problems += _mask_problems(sample, pixels)
            except DataError as error:
                problems.append(str(error))
            if progress is not None:
                progress(done, total)
        return problems


def _mask_problems(sample: Sample, pixels: npt.NDArray[np.float32]) -> list[str]:
    mask = sample._mask_of(pixels)
    where = str(sample.mask) if isinstance(sample.mask, Path) else f"mask of {sample.name}"
    problems = []
    if mask is not None and not mask.any():
        problems.append(f"{where}: marks no pixel, but {sample.name} is anomalous")
    if isinstance(sample.mask, Path) and sample.mask.suffix.lower() in (".jpg", ".jpeg"):
        problems.append(
            f"{where}: expected a lossless mask, got a JPEG, whose noise counts as anomalous; "
            "save it as PNG"
        )
    return problems


def _by_name(sample: Sample) -> str:
    return sample.name
