"""What an audit found, as one JSON document, and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from robustad._files import write_text
from robustad.errors import InputError, StateError
from robustad.evaluation.result import Check, eps_name


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageAudit(_Model):
    """One image.

    Attributes
    ----------
    name : str
        Its file.
    label : int
        0 if it is taken for normal, 1 for anomalous: by its folder, or else by the model.
    clean_score : float
        The model's score.
    worst_score : list of float
        The worst score found at each radius.
    queries : list of int
        Forward passes spent on the image, in all, up to each radius.
    flips_at : float or None
        Smallest radius tried at which the verdict is wrong; 0 if it is wrong without attack, None
        if it held or there is no threshold.
    flipped_by : str or None
        The attack.
    flip_queries : int or None
        Forward passes of that attack on this image.
    """

    name: str
    label: int
    clean_score: float
    worst_score: list[float]
    queries: list[int]
    flips_at: float | None = None
    flipped_by: str | None = None
    flip_queries: int | None = None


class AuditStep(_Model):
    """One attack at one radius: on how many images it ran, its passes and its time."""

    attack: str
    eps: float
    images: int
    forward: int
    backward: int
    seconds: float


class Audit(_Model):
    """The result of `robustad.evaluation.audit.audit`.

    Attributes
    ----------
    schema_version : 1
        Version of this document.
    model, sha256, access : str
        What was audited, its hash (None for a callable), and what an attacker sees of it.
    threshold : float or None
        Image score from which the verdict is anomalous.
    labelled : bool
        Whether the folders said which images are anomalous.
    eps : list of float
        Radii, rising.
    images : list of ImageAudit
        One an image.
    steps : list of AuditStep
        What was run, in order.
    complete : bool
        Whether all planned attacks ran on all images within the time.
    planned : list of str
        The attacks planned, in order.
    checks : list of Check
        Questions about the model itself; one that fired puts a good verdict in doubt.
    seconds : float
        Wall time.
    """

    schema_version: Literal[1] = 1
    model: str
    sha256: str | None
    access: Literal["white", "score", "decision"]
    threshold: float | None
    labelled: bool
    eps: list[float]
    images: list[ImageAudit]
    steps: list[AuditStep]
    complete: bool
    planned: list[str]
    checks: list[Check] = []
    seconds: float

    def flipped(self, eps: float) -> int:
        """Images whose verdict is right without attack and wrong within this radius."""
        return sum(one.flips_at is not None and 0.0 < one.flips_at <= eps for one in self.images)

    @property
    def right(self) -> int:
        """Images whose verdict is right without attack."""
        return sum(one.flips_at != 0.0 for one in self.images)

    def push(self, place: int) -> float:
        """How far the radius at `place` moves scores on average, in clean standard deviations."""
        clean = np.array([one.clean_score for one in self.images])
        worst = np.array([one.worst_score[place] for one in self.images])
        return float(np.abs(worst - clean).mean() / (clean.std() or 1.0))

    @property
    def level(self) -> Literal["open", "partly open", "held", "unknown"]:
        """In a word: at the largest radius half of the verdicts flip or more, some, none."""
        if self.threshold is None or not self.right:
            return "unknown"
        flipped = self.flipped(self.eps[-1])
        if 2 * flipped >= self.right:
            return "open"
        return "partly open" if flipped else "held"

    def verdict(self) -> str:
        """Say what was found in plain words."""
        count, largest = len(self.images), self.eps[-1]
        doubt = [check.name for check in self.checks if check.fired]
        if self.threshold is None:
            text = (
                "The model has no threshold, so no verdict can flip. Within "
                f"{eps_name(largest)} its scores move by {self.push(-1):.1f} standard deviations "
                "of the clean scores on average."
            )
        elif not self.right:
            text = "The model is wrong on every image without any attack."
        else:
            text = self._flips()
        if not self.complete:
            text += " Time ran out before all attacks were run: this is a lower bound."
        elif self.level == "held":
            text += " A stronger attack may still succeed: this is no proof."
        if doubt:
            text += f" Do not trust it: {', '.join(doubt)} fired, so attacks may fail in vain."
        return f"{text} ({count} image{'s'[: count > 1]}, access: {self.access})"

    def _flips(self) -> str:
        largest, flipped = self.eps[-1], self.flipped(self.eps[-1])
        if not flipped:
            return (
                f"No verdict flipped on {self.right} images up to {eps_name(largest)}; scores move "
                f"by {self.push(-1):.1f} standard deviations on average."
            )
        fell = [one for one in self.images if one.flips_at]
        first = min(one.flips_at or 0.0 for one in fell)
        queries = sorted(one.flip_queries or 0 for one in fell)
        text = (
            f"{flipped} of {self.right} right verdicts flip within {eps_name(largest)}, the first "
            f"at {eps_name(first)}"
        )
        half = [eps for eps in self.eps if 2 * self.flipped(eps) >= self.right]
        if half:
            text += f", half of them or more within {eps_name(half[0])}"
        wrong = len(self.images) - self.right
        text += f"; it took {queries[len(queries) // 2]} queries an image at the median"
        return text + (f". {wrong} were wrong before." if wrong else ".")

    def save(self, path: str | Path) -> None:
        """Write to a JSON file, whole or not at all."""
        write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If there is no such file.
        StateError
            If it is no audit of this version.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such audit file")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise StateError(f"{path}: not an audit: {where}: {first['msg']}") from error
