import math

import pytest
import torch

from robustad.errors import InputError
from robustad.ops import topk_mean

INF = math.inf
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def scores(rows, columns, dtype=torch.float32, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


def both(values, k, **keywords):
    values = values.detach().clone().requires_grad_()
    means = topk_mean(values, k, **keywords)
    return means.detach(), torch.autograd.grad(means.sum(), values)[0]


def test_a_mask_and_weights():
    values = torch.tensor([[9.0, 4.0, 2.0, 3.0], [1.0, 1.0, 5.0, 7.0]])
    mask = torch.tensor([[False, True, True, True], [True, False, False, False]])
    assert topk_mean(values, 2, weights=mask).tolist() == [3.5, 1.0]
    # a fraction of the three and the one that are valid
    assert topk_mean(values, 0.67, weights=mask).tolist() == [3.5, 1.0]
    for dtype in DTYPES:
        weights = torch.tensor([0.0, 1.0, 9.0, 3.0], dtype=dtype)
        assert topk_mean(values, 2, weights=weights).tolist() == [3.25, 5.5]
    assert topk_mean(values, 1, weights=torch.tensor([-1.0, math.nan, 0.0, 1.0]))[0] == 3.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ties", ["first", "shared"])
def test_a_row_without_a_valid_entry(dtype, ties):
    values = torch.tensor([[3.0, 1.0], [2.0, 4.0]], dtype=dtype)
    mask = torch.tensor([[False, False], [True, False]])
    means, gradient = both(values, 0.5, weights=mask, ties=ties)
    assert math.isnan(means[0])
    assert means[1] == 2
    assert gradient.tolist() == [[0, 0], [1, 0]]


def test_what_is_masked_may_be_anything():
    values = torch.tensor([[math.nan, INF, -INF, 2.0, 1.0]])
    mask = torch.tensor([[False, False, False, True, True]])
    for ties in ("first", "shared"):
        for dtype in (torch.float32, torch.float64):
            means, gradient = both(values.to(dtype), 5, weights=mask, ties=ties)
            assert means.tolist() == [1.5]
            assert gradient.tolist() == [[0, 0, 0, 0.5, 0.5]]


def test_weights_are_constants():
    values, weights = scores(2, 9), torch.rand(2, 9).requires_grad_()
    assert not topk_mean(values, 2, weights=weights).requires_grad
    assert topk_mean(values.requires_grad_(), 2, weights=weights).requires_grad


def test_ties_shared_or_first():
    values = torch.tensor([[1.0, 7.0, 7.0, 7.0, 8.0]])
    assert both(values, 3)[1].tolist() == [
        [0, *([pytest.approx(1 / 3)] * 2), 0, pytest.approx(1 / 3)]
    ]
    means, gradient = both(values, 3, ties="shared")
    assert means.item() == pytest.approx(22 / 3)
    assert gradient[0].tolist() == pytest.approx([0, 2 / 9, 2 / 9, 2 / 9, 1 / 3])
    # weights make the mean depend on it: 2 of 3 ties, or all of them for 2/3
    weights = torch.tensor([1.0, 1.0, 1.0, 4.0, 1.0])
    assert topk_mean(values, 3, weights=weights).item() == pytest.approx(22 / 3)
    shared = topk_mean(values, 3, weights=weights, ties="shared").item()
    assert shared == pytest.approx((7 * 4 + 8) / (4 + 1))


@pytest.mark.parametrize(
    ("weights", "got"),
    [
        (torch.ones(2, 4), r"\(2, 4\) of torch.float32"),
        (torch.ones(2), r"\(2,\) of torch.float32"),
        (torch.ones(2, 3, dtype=torch.int64), r"\(2, 3\) of torch.int64"),
        (torch.ones(2, 3).to_sparse(), r"\(2, 3\) of torch.float32, torch.sparse_coo"),
    ],
)
def test_weights_of_another_kind(weights, got):
    expected = r"^weights: expected a bool or floating-point tensor of shape \(2, 3\) or \(3,\)"
    with pytest.raises(InputError, match=rf"{expected}, got {got}$"):
        topk_mean(torch.zeros(2, 3), 1, weights=weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_infinite_weight_has_no_gradient(dtype):
    weights = torch.tensor([1.0, INF, 1.0])
    means, gradient = both(torch.tensor([[1.0, 3.0, 2.0]], dtype=dtype), 2, weights=weights)
    assert means.isnan().all()
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]


def test_weights_on_another_device():
    with pytest.raises(
        InputError, match=r"^weights: expected a tensor on cpu, .* got one on meta$"
    ):
        topk_mean(torch.zeros(2, 3), 1, weights=torch.ones(2, 3, device="meta"))


def test_ties_of_another_kind():
    with pytest.raises(InputError, match=r"^ties: expected 'first' or 'shared', got 'last'$"):
        topk_mean(torch.zeros(2, 3), 1, ties="last")
