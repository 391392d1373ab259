"""Runs of consecutive items that fit into one batch."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def runs(items: Iterable[T], size: int, key: Callable[[T], Hashable]) -> Iterator[list[T]]:
    """Group consecutive items of equal `key` into lists of at most `size`, keeping the order.

    Examples
    --------
    >>> list(runs([1, 1, 1, 2, 1], 2, key=lambda item: item))
    [[1, 1], [1], [2], [1]]
    """
    batch: list[T] = []
    for item in items:
        if batch and (len(batch) == size or key(batch[0]) != key(item)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
