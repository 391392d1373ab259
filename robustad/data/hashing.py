"""A fingerprint of a data set, so that a result says what it was measured on."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.data.dataset import Dataset, Sample
from robustad.errors import DataError


def content_hash(dataset: Dataset) -> str:
    """SHA-256 over a data set's content.

    Parameters
    ----------
    dataset : Dataset
        The data set.

    Returns
    -------
    str
        64 hexadecimal digits. They depend on which samples train and test, their names, labels
        and defect classes, and the bytes of their images and masks (the file's bytes, or shape,
        type and values of an array); not on where the files lie, the data set's name or category.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    digest = hashlib.sha256(b"robustad data 1")
    for split, samples in (("train", dataset.train), ("test", dataset.test)):
        for sample in samples:
            _add(digest, (split.encode(), *_fields(sample)))
    return digest.hexdigest()


def sample_hash(sample: Sample) -> str:
    """SHA-256 over one sample: name, label, defect class, and content of image and mask.

    Returns
    -------
    str
        64 hexadecimal digits, the same wherever the files lie.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    digest = hashlib.sha256(b"robustad sample 1")
    _add(digest, _fields(sample))
    return digest.hexdigest()


def _fields(sample: Sample) -> tuple[bytes, ...]:
    return (
        sample.name.encode(),
        str(int(sample.label)).encode(),
        sample.defect.encode(),
        _content(sample.image),
        b"" if sample.mask is None else _content(sample.mask),
    )


def _add(digest: "hashlib._Hash", fields: tuple[bytes, ...]) -> None:
    for field in fields:
        # The length in front keeps two neighbouring fields apart.
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)


def _content(source: Path | npt.NDArray[Any]) -> bytes:
    if isinstance(source, Path):
        try:
            return source.read_bytes()
        except OSError as error:
            raise DataError(f"{source}: cannot be read: {error.strerror}") from error
    array = np.ascontiguousarray(source)
    return f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()
