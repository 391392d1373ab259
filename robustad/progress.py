"""A progress bar on standard error, so that standard output stays a script's."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
# How far back the speed is measured from which the time left follows.
SPEED_SECONDS = 3600.0


def track(
    items: Iterable[T], description: str, *, total: int | None = None, enabled: bool = True
) -> Iterator[T]:
    """Yield `items` while showing how many are done and how long the rest will take.

    Parameters
    ----------
    items : iterable
        What to go through.
    description : str
        Shown before the bar.
    total : int, optional
        Number of items, where `items` has no length.
    enabled : bool, default True
        False yields the items and shows nothing.

    Yields
    ------
    object
        The items.
    """
    if not enabled:
        yield from items
        return
    with _bar() as progress:
        yield from progress.track(items, total=total, description=description)


@contextmanager
def counter(description: str, *, enabled: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Give a function (done, total) that moves a progress bar.

    Parameters
    ----------
    description : str
        Shown before the bar.
    enabled : bool, default True
        False gives a function that shows nothing.

    Yields
    ------
    callable
        To be called with the number of items done and the number of all.
    """
    if not enabled:
        yield lambda done, total: None
        return
    with _bar() as progress:
        task = progress.add_task(description)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _bar(*more: str) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    added = (TextColumn(text) for text in more)
    # rich's own 30 seconds hold less than two steps of a slow run, and then there is no estimate
    return Progress(
        *columns,
        *added,
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=SPEED_SECONDS,
    )


@contextmanager
def status(
    description: str, total: int, *, enabled: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """Give a function (done, text) that moves a progress bar with a line of figures.

    Parameters
    ----------
    description : str
        Shown before the bar.
    total : int
        Number of items.
    enabled : bool, default True
        False gives a function that shows nothing.

    Yields
    ------
    callable
        To be called with the number of items done and what is to be shown behind the bar.
    """
    if not enabled:
        yield lambda done, text: None
        return
    with _bar("{task.fields[text]}") as progress:
        task = progress.add_task(description, total=total, text="")
        yield lambda done, text: progress.update(task, completed=done, text=text)
