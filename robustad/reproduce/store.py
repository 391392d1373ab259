"""What studies share: finished runs on disk, and which categories a study is about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from robustad._files import write_text
from robustad.data import categories
from robustad.errors import InputError
from robustad.evaluation import Evaluation


class Done(BaseModel):
    """One finished evaluation on disk: what it was made from, and what it found."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    seconds: float
    evaluation: Evaluation

    def save(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        write_text(path, self.model_dump_json() + "\n")


def read(path: Path, fingerprint: str) -> Done | None:
    """Read a finished evaluation; None where there is none that was made from the same things."""
    if not path.is_file():
        return None
    try:
        done = Done.model_validate_json(path.read_bytes())
    except ValidationError:
        return None  # of another version, or damaged: run it again
    return done if done.fingerprint == fingerprint else None


def fingerprint(*parts: Any) -> str:
    """SHA-256 in hexadecimal of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def weights_identity(weights: str | None) -> str | None:
    """Hash of a checkpoint file, so that another file of that name counts as another; else as is.

    Examples
    --------
    >>> weights_identity("random"), weights_identity(None)
    ('random', None)
    """
    if weights is not None and Path(weights).is_file():
        return hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return weights


def chosen_categories(
    dataset: str, roots: Sequence[Path | None], only: Sequence[str]
) -> list[tuple[Path | None, str]]:
    """Folder and name of every category, or of those asked for.

    Raises
    ------
    InputError
        If one that was asked for is not there.
    """
    chosen = [
        (root, category)
        for root in roots
        for category in categories(dataset, root)
        if not only or category in only
    ]
    missing = sorted(set(only) - {category for _, category in chosen})
    if missing:
        raise InputError(f"category: {', '.join(missing)} not found in the data given")
    return chosen


def line(evaluation: Evaluation) -> str:
    """Image AUROC of every condition, in a line."""
    parts = [f"{name} {c.metrics.auroc:.3f}" for name, c in evaluation.conditions.items()]
    return "AUROC " + ", ".join(parts)
