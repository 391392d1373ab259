"""How many workers there are, and where."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from robustad.errors import InputError

Engine = Literal["local", "ray"]
ENGINES: tuple[str, ...] = get_args(Engine)


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Parameters
    ----------
    count : int >= 1, default 2
        Workers at a time.
    engine : {"local", "ray"}, default "local"
        Processes of this machine, or Ray Core actors, which need the extra `ray`.
    threads : int >= 1 or None, default None
        Of each worker; on Ray also the CPUs that it asks for. None shares this machine's cores out
        evenly, at least one each, and keeps to `OMP_NUM_THREADS` where that is set.

    Raises
    ------
    InputError
        If a number is below 1 or the engine unknown.

    Examples
    --------
    >>> from robustad.workers import Workers
    >>> Workers(4, threads=2)
    Workers(count=4, engine='local', threads=2)
    """

    count: int = 2
    engine: Engine = "local"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"engine: expected one of {', '.join(ENGINES)}, got {self.engine!r}")
        if not isinstance(self.count, int) or self.count < 1:
            raise InputError(f"workers: expected >= 1, got {self.count}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads: expected >= 1, got {self.threads}")

    @classmethod
    def of(cls, given: Workers | int | None) -> Workers | None:
        """What an option `workers` means: a number is so many processes of this machine.

        Examples
        --------
        >>> Workers.of(3)
        Workers(count=3, engine='local', threads=None)
        """
        return cls(given) if isinstance(given, int) else given

    @property
    def share(self) -> int:
        """Threads of each worker."""
        if self.threads is not None:
            return self.threads
        share = _cores() // self.count
        limit = os.environ.get("OMP_NUM_THREADS", "")
        return max(1, min(share, int(limit)) if limit.isdecimal() else share)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
