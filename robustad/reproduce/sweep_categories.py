"""Studies that make some runs of every category of a data set, each run a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from robustad.backbones import Backbone, create
from robustad.data import Dataset, content_hash, load
from robustad.reproduce.sweep import Finished, Sweep


@dataclass(frozen=True)
class FileRun:
    """A run that is one file.

    Attributes
    ----------
    index : int
        Place in the study.
    name : str
        For people.
    path : Path
        Its file.
    fingerprint : str
        Hash of what it is made from.
    root : Path or None
        Folder of the data set.
    category : str
        As `robustad.data.load` takes it.
    choice : object
        What tells it from the study's other runs of this category.
    """

    index: int
    name: str
    path: Path
    fingerprint: str
    root: Path | None
    category: str
    choice: Any


F = TypeVar("F", bound=Finished)


@dataclass(kw_only=True)
class CategorySweep(Sweep[FileRun, F]):
    """Every category with every choice that the study has.

    Attributes
    ----------
    study : object
        The study: `dataset`, `backbone` and `weights`, and what the subclass needs.
    chosen : list of (Path or None, str)
        Folders and categories.
    out : Path
        Each run is one file below it.
    device : str
        Where to compute.
    """

    study: Any
    chosen: Sequence[tuple[Path | None, str]]
    out: Path

    @abstractmethod
    def choices(self) -> Iterable[tuple[Any, str, str]]:
        """What is run of each category: a choice, what it is called, the name of its file."""

    @abstractmethod
    def fingerprint(self, identity: str, choice: Any) -> str:
        """Hash of what a run is made from, on images of the hash `identity`."""

    def runs(self) -> Iterator[FileRun]:
        """Category by category."""
        index = 0
        for root, category in self.chosen:
            data = self.data(root, category)
            identity = content_hash(data)
            for choice, called, file in self.choices():
                yield FileRun(
                    index=index,
                    name=f"{data.category} {called}",
                    path=self.out / data.category / f"{file}.json",
                    fingerprint=self.fingerprint(identity, choice),
                    root=root,
                    category=category,
                    choice=choice,
                )
                index += 1

    def data(self, root: Path | None, category: str) -> Dataset:
        """Images of a category; those of the last one asked for are kept."""
        kept: tuple[Any, Dataset] | None = getattr(self, "_kept", None)
        if kept is None or kept[0] != (root, category):
            kept = ((root, category), load(self.study.dataset, root, category))
            self._kept = kept
        return kept[1]

    @cached_property
    def backbone(self) -> Backbone:
        """The study's, loaded when first needed."""
        return create(self.study.backbone, self.study.weights).to(self.device)
