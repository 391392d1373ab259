"""Masks kept on disk, one picture an image, each with what it was made from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad._files import write_text, written_aside
from robustad.data.dataset import Sample
from robustad.data.hashing import _content
from robustad.errors import InputError

# Raised whenever the same parameters would give another mask.
VERSION = 1
FOLDER = Path(".robustad") / "foreground"


class MaskCache:
    """Foreground masks in a folder.

    Parameters
    ----------
    folder : Path
        Created when the first mask is written.
    parameters : dict
        Everything beside the image that decides its mask, as JSON has it.

    Notes
    -----
    A mask `train_good_000.png.png` (1 bit a pixel) has a `train_good_000.png.json` beside it with
    the parameters and SHA-256 digests of image and mask file. A mask that does not fit all of them
    counts as missing. Both files are written aside and renamed; the picture goes first, so that an
    interruption leaves a mask that does not fit.
    """

    def __init__(self, folder: Path, parameters: dict[str, Any]) -> None:
        self.folder = folder
        # As it will be read back: tuples are lists there.
        self.parameters = json.loads(json.dumps({**parameters, "version": VERSION}))

    def read(self, sample: Sample) -> npt.NDArray[np.bool_] | None:
        """Mask of a sample; None if there is none, or one that is stale or damaged."""
        from PIL import Image

        picture, note = self._paths(sample)
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
            content = picture.read_bytes()
            if found != self._note(sample, content):
                return None
            with Image.open(picture) as image:
                return np.asarray(image.convert("L")) > 0
        except (OSError, ValueError, SyntaxError):
            return None

    def write(self, sample: Sample, mask: npt.NDArray[np.bool_]) -> None:
        """Keep the mask (H, W) of a sample.

        Raises
        ------
        InputError
            If the folder cannot be written to.
        """
        from PIL import Image

        picture, note = self._paths(sample)
        try:
            with written_aside(picture) as aside:
                Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(aside, format="PNG")
                content = aside.read_bytes()
            write_text(note, json.dumps(self._note(sample, content), indent=1))
        except (OSError, InputError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(
                f"{self.folder}: foreground masks cannot be kept there ({reason}); name another "
                "cache folder"
            ) from error

    def _paths(self, sample: Sample) -> tuple[Path, Path]:
        # A digest keeps `a/b.png` and `a_b.png` apart.
        plain = sample.name.replace("/", "_").replace("\\", "_")[-100:]
        stem = f"{plain}-{hashlib.sha256(sample.name.encode()).hexdigest()[:8]}"
        return self.folder / f"{stem}.png", self.folder / f"{stem}.json"

    def _note(self, sample: Sample, mask_file: bytes) -> dict[str, Any]:
        return {
            "name": sample.name,
            "image_sha256": hashlib.sha256(_content(sample.image)).hexdigest(),
            "mask_sha256": hashlib.sha256(mask_file).hexdigest(),
            "parameters": self.parameters,
        }


def writable(folder: Path) -> bool:
    """Whether `folder` can be created or written to."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
