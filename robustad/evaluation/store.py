"""Finished work on disk: one file a batch and condition, named after what it was made from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from robustad._files import written_aside
from robustad.errors import InputError

HEADER = "robustad-unit"
ARRAYS = (
    "score",
    "worst_score",
    "patch_scores",
    "pixel_patch_scores",
    "order_patch_scores",
    "distance",
    "forward",
    "backward",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What one attack, or none, made of one batch.

    Attributes
    ----------
    score, worst_score : array, (B,)
        Image scores of the images returned, and the worst seen inside the ball.
    patch_scores, pixel_patch_scores, order_patch_scores : array, (B, N)
        Of the images returned, and of those with the smallest margin between anomalous and normal
        patches, of scores and of squashed logits (`robustad.evaluation.worst`).
    distance : array, (B,)
        To the clean images, in the attack's norm.
    forward, backward : array, (B,), int64
        Passes of the detector over each image.
    flags : tuple of str
        What the attack noticed on this batch.
    seconds : float
        Time it took to compute.
    """

    score: npt.NDArray[Any]
    worst_score: npt.NDArray[Any]
    patch_scores: npt.NDArray[Any]
    pixel_patch_scores: npt.NDArray[Any]
    order_patch_scores: npt.NDArray[Any]
    distance: npt.NDArray[Any]
    forward: npt.NDArray[np.int64]
    backward: npt.NDArray[np.int64]
    flags: tuple[str, ...] = ()
    seconds: float = 0.0


def unit_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 of all that an outcome is made from, as JSON with sorted names.

    Examples
    --------
    >>> unit_key({"a": 1, "b": 2}) == unit_key({"b": 2, "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Units:
    """A folder of finished work, a safetensors file each, named after what it was made from.

    Parameters
    ----------
    folder : str or Path
        Created on the first write. Several processes, also on several machines, may share it: a
        file appears whole or not at all, and two that compute the same unit write the same name.

    Notes
    -----
    A file is found by the hash of what it was made from (detector, images, attack, radius, seeds,
    thresholds, version), so a folder never has to be told that something changed: other work has
    other names. Nothing is removed; delete the folder to be rid of it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"store: expected a folder, got the file {self.folder}")

    def path(self, key: str) -> Path:
        """Where a unit lies or would lie."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, key: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]] | None:
        """Arrays and header of a unit; None where there is none, or the file is damaged."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                header = json.loads((file.metadata() or {}).get(HEADER, "null"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError):
            return None
        return (arrays, header) if isinstance(header, dict) else None

    def write(
        self, key: str, arrays: Mapping[str, npt.NDArray[Any]], header: Mapping[str, Any]
    ) -> None:
        """Write a unit, whole or not at all; its header is for people to read."""
        flat = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with written_aside(self.path(key)) as aside:
            save_file(flat, aside, metadata={HEADER: json.dumps(header)})

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob("??/*.safetensors"))


class Store(Units):
    """A folder of outcomes; see `Units`.

    Examples
    --------
    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> store.get(unit_key({"attack": "pgd10"})) is None
    True
    """

    def get(self, key: str) -> Outcome | None:
        """Read an outcome; None where there is none, or the file is damaged and must be redone."""
        found = self.read(key)
        if found is None:
            return None
        arrays, header = found
        try:
            kept = {name: arrays[name] for name in ARRAYS}
            return Outcome(**kept, flags=tuple(header["flags"]), seconds=header["seconds"])
        except (KeyError, TypeError):
            return None

    def put(self, key: str, outcome: Outcome, parts: Mapping[str, Any]) -> None:
        """Write an outcome, whole or not at all.

        Parameters
        ----------
        key : str
            `unit_key(parts)`.
        outcome : Outcome
            What was found.
        parts : mapping
            What it was made from; kept in the file's header for people to read.
        """
        arrays = {name: getattr(outcome, name) for name in ARRAYS}
        header = {"flags": outcome.flags, "seconds": outcome.seconds, "made_from": parts}
        self.write(key, arrays, header)


def merge_stores(into: str | Path, *others: str | Path) -> int:
    """Copy what other stores hold into one, as after shards on several machines.

    Parameters
    ----------
    into : str or Path
        The store to fill; created if it is not there.
    *others : str or Path
        Stores to copy from. They are left as they are.

    Returns
    -------
    int
        Files copied; what is there already is not copied again, damaged files never.

    Raises
    ------
    InputError
        If one of the others is no folder.
    """
    target, copied = Units(into), 0
    for other in others:
        source = Units(other)
        if not source.folder.is_dir():
            raise InputError(f"store: expected a folder to merge from, got {other}")
        for path in sorted(source.folder.glob("??/*.safetensors")):
            if target.read(path.stem) is None and source.read(path.stem) is not None:
                with written_aside(target.path(path.stem)) as aside:
                    shutil.copyfile(path, aside)
                copied += 1
    return copied
