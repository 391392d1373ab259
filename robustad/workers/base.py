"""Who gets which piece of work, and what becomes of the pieces of workers that die."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from robustad.errors import RobustadError, StateError

# A piece whose worker died this often is given up: it may be what kills them.
ATTEMPTS = 3
SHOWN = 5  # of the pieces that failed, in the error


class Piece(Protocol):
    """What is done whole or not at all, by one worker. Has to be picklable.

    Attributes
    ----------
    name : str
        For people; no two pieces share it.
    """

    @property
    def name(self) -> str:  # noqa: D102
        ...


class Job(Protocol):
    """How pieces are done. Has to be picklable; every worker gets it once.

    Attributes
    ----------
    gpu : bool
        Whether a worker computes on a GPU; Ray then gives each one of its own.
    """

    @property
    def gpu(self) -> bool:  # noqa: D102
        ...

    def start(self, threads: int) -> Callable[[Any], Any]:
        """Load what stays in the worker's memory.

        Parameters
        ----------
        threads : int
            Threads that the worker may use.

        Returns
        -------
        callable
            Does a piece and keeps what it made where the work goes on from. Returns what JSON can
            hold, for whoever gave the piece out. It may be called twice for one piece, also at
            once, and has to leave the same behind.
        """
        ...


@dataclass(frozen=True)
class Word:
    """What is heard from a worker.

    Attributes
    ----------
    died : str or None
        How it ended, if it did.
    failed : str or None
        Why it could not do its piece, or could not start.
    answer : object
        What came of its piece.
    """

    died: str | None = None
    failed: str | None = None
    answer: Any = None


class Hand:
    """One worker, as whoever gives out the work sees it."""

    piece: Piece | None = None
    ready = False


P = TypeVar("P", bound=Piece)


class Crew(ABC):
    """Workers that stay until they are dismissed; see `robustad.workers.crew`.

    Parameters
    ----------
    count : int >= 1
        Workers at a time. None is started before there is a piece for it.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.hands: list[Any] = []
        self._unborn = 0  # workers in a row that died before they were ready

    @abstractmethod
    def _hire(self) -> Hand:
        """Start a worker; `_next` says when it is ready."""

    @abstractmethod
    def _give(self, hand: Any, piece: Piece) -> None:
        """Hand a piece to a worker that is ready."""

    @abstractmethod
    def _next(self) -> tuple[Any, Word]:
        """Wait for a word of any worker that has something to do or is starting."""

    @abstractmethod
    def _dismiss(self, hand: Any) -> None:
        """End a worker, at once."""

    def close(self) -> None:
        """End all workers."""
        while self.hands:
            self._dismiss(self.hands.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, pieces: Iterable[P]) -> Iterator[tuple[P, Any]]:
        """Have pieces done.

        Parameters
        ----------
        pieces : iterable of Piece
            Given out in this order.

        Yields
        ------
        piece : Piece
            One that is finished, in no order.
        answer : object
            What came of it.

        Raises
        ------
        StateError
            If workers cannot start, or pieces failed or their workers died thrice; in the latter
            cases the other pieces are finished first.
        """
        waiting = deque(pieces)
        total, deaths, lost = len(waiting), Counter[str](), []

        def give(hand: Hand) -> None:
            hand.piece = waiting.popleft()
            self._give(hand, hand.piece)

        try:
            while waiting or any(hand.piece is not None for hand in self.hands):
                for hand in self.hands:  # also those that were idle when another one died
                    if waiting and hand.ready and hand.piece is None:
                        give(hand)
                busy = sum(hand.piece is not None for hand in self.hands)
                while len(self.hands) < min(self.count, len(waiting) + busy):
                    self.hands.append(self._hire())
                hand, word = self._next()
                piece, hand.piece = hand.piece, None
                if word.died is not None:
                    self.hands.remove(hand)
                    self._dismiss(hand)
                    if piece is not None:
                        deaths[piece.name] += 1
                        if deaths[piece.name] < ATTEMPTS:
                            waiting.appendleft(piece)
                        else:
                            lost.append(f"{piece.name}: {_died(word.died)}")
                    elif not hand.ready:
                        self._stillborn(word.died)
                    continue
                if word.failed is not None and piece is None:
                    raise StateError(f"worker: {word.failed}")
                hand.ready, self._unborn = True, 0
                if word.failed is not None and piece is not None:
                    lost.append(f"{piece.name}: {word.failed}")
                elif piece is not None:
                    if waiting:
                        give(hand)  # before whoever hears of the answer takes time over it
                    yield piece, word.answer
        finally:
            for hand in [hand for hand in self.hands if hand.piece is not None]:
                self.hands.remove(hand)  # nobody waits for what it does any more
                self._dismiss(hand)
        if lost:
            more = f"; and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
            raise StateError(
                f"{len(lost)} of {total} pieces of work could not be done, the others are "
                f"finished: {'; '.join(lost[:SHOWN])}{more}"
            )

    def _stillborn(self, how: str) -> None:
        self._unborn += 1
        if self._unborn >= ATTEMPTS:
            raise StateError(f"worker: died before it was ready, {how}")


def _died(how: str) -> str:
    return f"its worker died {ATTEMPTS} times, last {how}"


def reason(error: BaseException) -> str:
    """Say in a line what went wrong; where it is no error of ours, tell the log the whole of it."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, RobustadError):
        return first
    traceback.print_exception(error)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
