"""Which files of a folder have been written to their end."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from robustad.deploy.seen import SeenKeys, image_key
from robustad.images import SUFFIXES

# Files looked after at once. The others wait in the folder, which is the queue.
MAX_PENDING = 4096


@dataclass(frozen=True, order=True)
class Candidate:
    """One version of a file.

    Attributes
    ----------
    mtime_ns : int
        Time of its last change in nanoseconds.
    name : str
        Relative to the folder, with forward slashes.
    size : int
        In bytes.
    """

    mtime_ns: int
    name: str
    size: int

    @property
    def key(self) -> str:
        """See `image_key`."""
        return image_key(self.name, self.size, self.mtime_ns)


@dataclass
class _Wait:
    candidate: Candidate
    since: float
    attempts: int = 0


class Settling:
    """Finds files that have not changed for a while and have not been seen.

    Parameters
    ----------
    folder : Path
        The folder.
    seen : SeenKeys
        What is done.
    settle : float
        Seconds for which size and time of change have to stay the same.
    recursive : bool
        Whether to look into its folders too.
    clock : callable
        Seconds; for tests.
    """

    def __init__(
        self,
        folder: Path,
        seen: SeenKeys,
        *,
        settle: float,
        recursive: bool,
        clock: Callable[[], float],
    ) -> None:
        self.folder, self.seen, self.settle = folder, seen, settle
        self.recursive, self._clock = recursive, clock
        self._waiting: dict[str, _Wait] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def ready(self, limit: int) -> list[Candidate]:
        """Look at the folder once; at most `limit` settled files, the oldest first."""
        fresh = (found for found in self._listing() if found.key not in self.seen)
        present = heapq.nsmallest(MAX_PENDING, fresh)
        now, waiting = self._clock(), {}
        settled: list[Candidate] = []
        for found in present:
            wait = self._waiting.get(found.name)
            if wait is None or wait.candidate != found:
                wait = _Wait(found, now)
            waiting[found.name] = wait
            if now - wait.since >= self.settle and len(settled) < limit:
                settled.append(found)
        self._waiting = waiting
        return settled

    def changed(self, candidate: Candidate) -> bool:
        """Whether a file is no longer what it was, or gone."""
        try:
            found = (self.folder / candidate.name).stat()
        except OSError:
            return True
        return (found.st_size, found.st_mtime_ns) != (candidate.size, candidate.mtime_ns)

    def again(self, candidate: Candidate) -> int:
        """Wait once more for a file that could not be read; how often that has happened."""
        wait = self._waiting.setdefault(candidate.name, _Wait(candidate, 0.0))
        wait.since, wait.attempts = self._clock(), wait.attempts + 1
        return wait.attempts

    def done(self, candidate: Candidate) -> None:
        """Remember that a file is dealt with."""
        self.seen.add(candidate.key)
        self._waiting.pop(candidate.name, None)

    def _listing(self) -> Iterator[Candidate]:
        folders = [self.folder]
        while folders:
            # a network folder may be away for a while, a folder may be deleted meanwhile
            try:
                entries = os.scandir(folders.pop())
            except OSError:
                continue
            with entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    try:
                        if self.recursive and entry.is_dir(follow_symlinks=False):
                            folders.append(Path(entry.path))
                        elif Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
                            found = entry.stat()
                            name = Path(entry.path).relative_to(self.folder).as_posix()
                            yield Candidate(found.st_mtime_ns, name, found.st_size)
                    except OSError:
                        continue
