"""Counts and fractions of `topk_mean`, and scores that it refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from robustad.errors import InputError
from robustad.ops import resolve_k, topk_mean
from robustad.ops.reference.topk_mean import topk_mean_torch

# Counts and fractions


@pytest.mark.parametrize(
    ("k", "n", "count"),
    [
        (1, 1, 1),
        (5, 5, 5),
        (0.01, 1024, 10),
        (0.01, 1369, 13),
        (0.01, 50, 1),
        (0.01, 100, 1),
        (0.29, 100, 29),  # 0.29 * 100 = 28.999999999999996
        (0.57, 100, 57),
        (1e-9, 10, 1),
        (1.0, 7, 7),
        (0.999, 7, 6),
        (np.float64(0.5), 8, 4),
        (np.int64(3), 8, 3),
    ],
)
def test_counts(k, n, count):
    assert resolve_k(k, n) == count
    values = torch.randn(1, n, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(topk_mean(values, k), topk_mean_torch(values, count))


@given(st.integers(1, 100), st.integers(1, 20_000))
@example(29, 100)
def test_whole_percents_are_exact(percent, n):
    assert resolve_k(percent / 100, n) == max(1, percent * n // 100)


@pytest.mark.parametrize("k", [0, -1, 11])
def test_counts_out_of_range(k):
    with pytest.raises(InputError, match=rf"^k: expected a count in 1..10, got {k}$"):
        topk_mean(torch.zeros(2, 10), k)


@pytest.mark.parametrize("k", [True, "2", None, np.float32(0.5), torch.tensor(0.5)])
def test_neither_a_count_nor_a_fraction(k):
    with pytest.raises(InputError, match=r"^k: expected a count \(int\) or a fraction \(float\), "):
        topk_mean(torch.zeros(2, 10), k)


def test_a_count_below_one_of_an_unknown_length():
    class Pooled(torch.nn.Module):
        def forward(self, values):
            return topk_mean(values, 0)

    columns = torch.export.Dim("columns", min=2)
    with pytest.raises(InputError, match=r"^k: expected a count of at least 1, got 0"):
        torch.export.export(
            Pooled(), (torch.zeros(2, 10),), dynamic_shapes=[{1: columns}], strict=False
        )


@pytest.mark.parametrize("k", [0.0, -0.1, 1.01, 5.0, math.nan, math.inf])
def test_fractions_out_of_range(k):
    with pytest.raises(
        InputError, match=rf"^k: expected a fraction in \(0, 1\] or a count, got {k}$"
    ):
        topk_mean(torch.zeros(2, 10), k)


@pytest.mark.parametrize(
    ("values", "got"),
    [
        (torch.zeros(3), r"\(3,\) of torch.float32"),
        (torch.zeros(1, 2, 3), r"\(1, 2, 3\) of torch.float32"),
        (torch.zeros(2, 0), r"\(2, 0\) of torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int64), r"\(2, 3\) of torch.int64"),
        (torch.zeros(2, 3, dtype=torch.bool), r"\(2, 3\) of torch.bool"),
        (torch.zeros(2, 3).to(torch.float8_e4m3fn), r"\(2, 3\) of torch.float8_e4m3fn"),
    ],
)
def test_scores_of_another_kind(values, got):
    with pytest.raises(
        InputError,
        match=rf"^scores: expected a floating-point tensor \(B, N\) with N >= 1, got {got}$",
    ):
        topk_mean(values, 1)
