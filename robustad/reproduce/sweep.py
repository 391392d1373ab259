"""A study's runs, made one by one or by workers: each a file of its own, written whole."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Generic, Protocol, TypeVar

import torch

from robustad.errors import StateError
from robustad.evaluation import Evaluation
from robustad.reproduce import store
from robustad.workers import Workers, crew


class Skip(Exception):  # noqa: N818
    """Why a run cannot be made, which says nothing of the others."""


class SweepRun(Protocol):
    """One run of a study.

    Attributes
    ----------
    index : int
        Place in the study.
    name : str
        What it is, for people; no two share it.
    """

    @property
    def index(self) -> int:  # noqa: D102
        ...

    @property
    def name(self) -> str:  # noqa: D102
        ...


class Finished(Protocol):
    """What a finished run has on disk."""

    @property
    def evaluation(self) -> Evaluation:  # noqa: D102
        ...


R = TypeVar("R", bound=SweepRun)
F = TypeVar("F", bound=Finished)


@dataclass(kw_only=True)
class Sweep(ABC, Generic[R, F]):
    """All runs of a study, and how any of them is made; what workers get of it are its fields.

    Attributes
    ----------
    device : str, default "cpu"
        Where to compute.
    """

    device: str = "cpu"

    @property
    def gpu(self) -> bool:
        """Whether runs are computed on a GPU."""
        return torch.device(self.device).type == "cuda"

    @abstractmethod
    def runs(self) -> Iterator[R]:
        """Every run, in the study's order; the same for the same fields and images."""

    @abstractmethod
    def found(self, run: R) -> F | None:
        """What a run has on disk; None where something is missing of it."""

    @abstractmethod
    def make(self, run: R, *, progress: bool) -> None:
        """Make what is missing of a run and keep it.

        Raises
        ------
        Skip
            If it cannot be made, for a reason that is its own.
        """

    def title(self, run: R) -> str:
        """How a run is told of."""
        return run.name

    def start(self, threads: int) -> Callable[[R], dict[str, Any]]:
        """What a worker does with runs."""
        torch.set_num_threads(threads)
        return lambda run: _made(self, run, progress=False)

    def __getstate__(self) -> dict[str, Any]:
        # Nothing that was loaded on the way: a worker loads what it needs.
        return {one.name: getattr(self, one.name) for one in fields(self)}


def each_run(
    sweep: Sweep[R, F],
    *,
    workers: Workers | int | None = None,
    skipped: list[str],
    progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[tuple[R, F]]:
    """Make a study's runs, or read those that are on disk.

    Parameters
    ----------
    sweep : Sweep
        Which runs there are, and how they are made.
    workers : Workers or int, optional
        Who makes them; by default this process, one by one.
    skipped : list of str
        Gets a line for each run that could not be made.
    progress : bool, default False
        Show progress bars; workers have none.
    say : callable, optional
        Called with a line about each run as it is finished.

    Returns
    -------
    list of (run, what it has on disk)
        In the study's order, without those that were skipped.

    Raises
    ------
    StateError
        If workers cannot start, or could not make a run; the others are finished first.
    """
    who = Workers.of(workers)
    left: dict[int, str] = {}
    done: dict[int, tuple[R, F]] = {}

    def told(run: R, made: dict[str, Any] | None) -> None:
        if made is not None and "skipped" in made:
            left[run.index] = f"{run.name}: {made['skipped']}"
            say(f"{sweep.title(run)}: skipped, {made['skipped']}")
            return
        found = sweep.found(run)
        if found is None:
            raise StateError(f"{run.name}: expected a finished run on disk, found none")
        done[run.index] = (run, found)
        said = "on disk" if made is None else f"{made['seconds']:.0f} s"
        say(f"{sweep.title(run)}: {said}, {store.line(found.evaluation)}")

    if who is None:
        for run in sweep.runs():
            missing = sweep.found(run) is None
            told(run, _made(sweep, run, progress=progress) if missing else None)
    else:
        waiting = []
        for run in sweep.runs():
            if sweep.found(run) is None:
                waiting.append(run)
            else:
                told(run, None)
        if waiting:
            with crew(sweep, who) as hands:
                for run, made in hands.run(waiting):
                    told(run, made)
    skipped += [left[index] for index in sorted(left)]
    return [done[index] for index in sorted(done)]


def _made(sweep: Sweep[R, F], run: R, *, progress: bool) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        sweep.make(run, progress=progress)
    except Skip as reason:
        return {"skipped": str(reason)}
    return {"seconds": time.perf_counter() - began}
