"""A progress bar on standard error, so that standard output stays a script's."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
