from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustad._batching import runs


@pytest.mark.parametrize(
    ("items", "size", "expected"),
    [
        ("", 2, []),
        ("a", 1, ["a"]),
        ("aaa", 2, ["aa", "a"]),
        ("aab", 2, ["aa", "b"]),
        ("aba", 5, ["a", "b", "a"]),
        ("aabbba", 3, ["aa", "bbb", "a"]),
    ],
)
def test_table_of_runs(items, size, expected):
    assert ["".join(run) for run in runs(items, size, key=lambda item: item)] == expected


@given(st.lists(st.integers(0, 3)), st.integers(1, 5))
def test_runs_keep_every_item_and_are_as_long_as_they_may(items, size):
    batches = list(runs(items, size, key=lambda item: item % 2))
    assert list(chain.from_iterable(batches)) == items
    assert all(1 <= len(batch) <= size for batch in batches)
    assert all(len({item % 2 for item in batch}) == 1 for batch in batches)
    for batch, following in pairwise(batches):
        assert len(batch) == size or batch[0] % 2 != following[0] % 2


def test_runs_ask_for_no_more_than_they_give():
    def items():
        yield from (1, 1)
        raise AssertionError("a third item was asked for too early")

    with pytest.raises(AssertionError, match="too early"):
        list(runs(items(), 2, key=lambda item: item))
    taken = iter(runs(iter([1, 2, 3]), 1, key=lambda item: item))
    assert next(taken) == [1]
