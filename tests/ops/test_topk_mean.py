import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustad import _C
from robustad.errors import InputError
from robustad.ops import resolve_k, topk_mean
from robustad.ops.reference.topk_mean import select_torch, spread_torch, topk_mean_torch
from robustad.ops.topk_mean import TOPK_MEAN, TOPK_MEAN_BACKWARD, _place

INF = math.inf
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]
PATHS = _C.topk_mean_paths()
# Relative rounding of one operation in each dtype.
UNIT = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 2**-24, torch.float64: 2**-53}


def scores(rows, columns, dtype=torch.float32, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact(values, k):
    """The definition, in float64; also how large its terms are."""
    top = values.double().sort(dim=1, descending=True).values[:, :k]
    return top.mean(dim=1), top.abs().mean(dim=1)


# Values


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("k", [1, 2, 7, 31, 32, 33, 64, 199, 200])
def test_values(path, dtype, k):
    values = scores(5, 200, dtype)
    mean, size = exact(values, k)
    ours = topk_mean(values, k)
    assert ours.dtype == dtype
    assert ours.shape == (5,)
    # the result is rounded once or twice, the sum k times at the worst
    bound = size * (2 * UNIT[dtype] + k * min(UNIT[dtype], UNIT[torch.float32]))
    assert ((ours.double() - mean).abs() <= bound + 1e-30).all()
    reference = topk_mean_torch(values, k)
    assert reference.dtype == dtype
    assert ((reference.double() - mean).abs() <= bound + 1e-30).all()


@pytest.mark.parametrize("columns", [1, 2, 31, 32, 33, 63, 64, 65, 96, 1000, 1369])
def test_every_length(path, columns):
    values = scores(3, columns, seed=columns)
    for k in {1, (columns + 1) // 2, columns}:
        torch.testing.assert_close(topk_mean(values, k).double(), exact(values, k)[0])


def test_the_largest_and_the_mean():
    values = scores(8, 77)
    assert torch.equal(topk_mean(values, 1), values.max(dim=1).values)
    torch.testing.assert_close(topk_mean(values, 77), values.mean(dim=1))
    torch.testing.assert_close(topk_mean(values, 1.0), values.mean(dim=1))


def test_sorted_rows():
    # rising rows replace the weakest at every column, falling ones never
    rising = torch.arange(500.0)[None]
    assert topk_mean(rising, 10).item() == 494.5
    assert topk_mean(rising.flip(1), 10).item() == 494.5


def test_a_large_sum_is_not_lost_in_rounding():
    values = torch.full((1, 1_000_000), 0.1)
    assert topk_mean(values, 1_000_000).item() == pytest.approx(float(np.float32(0.1)), rel=1e-7)


def test_memory_layouts():
    values = scores(40, 60)
    for view in (values.t(), values[::2], values[:, ::3], values[3:4].expand(5, -1)):
        assert torch.equal(topk_mean(view, 5), topk_mean(view.contiguous().clone(), 5))
        torch.testing.assert_close(topk_mean(view, 5), topk_mean_torch(view, 5))
    assert topk_mean(torch.empty(0, 7), 3).shape == (0,)


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    monkeypatch.setenv("ROBUSTAD_TOPK_MEAN", request.param)
    return request.param


def by_sorting(values, k, weights=None, ties="first"):
    """Means and gradients of rows of numbers, in the plainest way there is."""
    means, gradients = [], []
    for row, own in zip(values, np.ones_like(values) if weights is None else weights, strict=True):
        # stable: of equal scores the first
        order = [i for i in np.argsort(-row, kind="stable") if own[i] > 0]
        count = min(k if isinstance(k, int) else resolve_k(k, max(1, len(order))), len(order))
        part = np.zeros(len(row))
        part[order[:count]] = 1
        if ties == "shared" and count:
            tied = [i for i in order if row[i] == row[order[count - 1]]]
            part[tied] = part[tied].sum() / len(tied)
        part *= own
        total = part.sum()
        means.append((part[part > 0] @ row[part > 0]) / total if count else math.nan)
        gradients.append(part / total if count else part)
    return np.array(means), np.array(gradients)


def both(values, k, **keywords):
    values = values.detach().clone().requires_grad_()
    means = topk_mean(values, k, **keywords)
    return means.detach(), torch.autograd.grad(means.sum(), values)[0]


finite = st.floats(-(2**30), 2**30, width=32) | st.sampled_from([0.0, -0.0, 1.0, 2.0])
shapes = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=80)


@pytest.mark.parametrize("ties", ["first", "shared"])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_row_against_a_sort(ties, data):
    values = data.draw(arrays.arrays(np.float32, data.draw(shapes), elements=finite))
    k = data.draw(st.integers(1, values.shape[1]) | st.sampled_from([0.01, 0.1, 0.5, 1.0]))
    weight = st.sampled_from([0.0, 0.0, 0.25, 1.0, 3.0])
    drawn = data.draw(st.none() | arrays.arrays(np.float32, values.shape, elements=weight))
    weights = None if drawn is None else torch.from_numpy(drawn)
    expected = by_sorting(values.astype(np.float64), k, drawn, ties)
    for path in PATHS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ROBUSTAD_TOPK_MEAN", path)
            means, gradient = both(torch.from_numpy(values), k, weights=weights, ties=ties)
        # the mean of the smallest numbers there are cannot be exact
        size = max(1e-6 * np.abs(values).max(initial=0), 2e-45)
        np.testing.assert_allclose(means, expected[0], rtol=2e-6, atol=size)
        np.testing.assert_allclose(gradient, expected[1], rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [1, 7, 8, 9, 127, 128, 129, 1369, 5000])
def test_every_path_agrees_with_the_reference(path, dtype, columns):
    generator = torch.Generator().manual_seed(columns)
    values = torch.randn(4, columns, generator=generator).to(dtype)
    values[1] = 1.0
    values[2, ::3] = math.nan
    values[3] = values[3].sort().values
    weights = torch.rand(4, columns, generator=generator) * (torch.arange(columns) % 3 > 0)
    for k in {1, max(1, columns // 100), (columns + 1) // 2, columns}:
        for own in (None, weights):
            for shared in (False, True):
                means, state = TOPK_MEAN(values, own, k, 0.0, shared)
                their_means, their_state = select_torch(values, own, k, 0.0, shared)
                torch.testing.assert_close(means, their_means, equal_nan=True)
                torch.testing.assert_close(state, their_state, equal_nan=True)
                grad = torch.tensor([1.0, -2.0, 0.0, 0.3], dtype=dtype)
                ours = TOPK_MEAN_BACKWARD(grad, values, own, state)
                torch.testing.assert_close(ours, spread_torch(grad, values, own, state))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("columns", [5, 1369, 9000, 50_000])
def test_devices(device, dtype, columns):
    values = scores(3, columns, dtype, seed=columns)
    weights = torch.rand(3, columns, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    for k in {1, max(1, columns // 100), columns // 2, columns}:
        for keywords in ({}, {"ties": "shared"}, {"weights": weights}):
            expected = both(values, k, **keywords)
            moved = {key: getattr(v, "to", lambda _, v=v: v)(device) for key, v in keywords.items()}
            ours = both(values.to(device), k, **moved)
            again = both(values.to(device), k, **moved)
            for one, other, same in zip(ours, expected, again, strict=True):
                torch.testing.assert_close(one.cpu(), other)
                assert torch.equal(one, same)  # in every run the same


def test_threads_change_nothing():
    values = scores(40, 9001)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(both(values, 90))
    finally:
        torch.set_num_threads(before)
    for means, gradient in results[1:]:
        assert torch.equal(means, results[0][0])
        assert torch.equal(gradient, results[0][1])


# Special values


def test_the_path_is_checked(monkeypatch):
    values = scores(1, 3).requires_grad_()
    means = topk_mean(values, 1)
    monkeypatch.setenv("ROBUSTAD_TOPK_MEAN", "sse")
    expected = "^ROBUSTAD_TOPK_MEAN: expected portable, avx2 or avx512, got sse$"
    with pytest.raises(InputError, match=expected):
        topk_mean(values, 1)
    with pytest.raises(InputError, match=expected):
        means.backward()
    for absent in {"portable", "avx2", "avx512"} - set(PATHS):
        monkeypatch.setenv("ROBUSTAD_TOPK_MEAN", absent)
        with pytest.raises(InputError, match=f"^ROBUSTAD_TOPK_MEAN: this CPU has no {absent}$"):
            topk_mean(values, 1)


@pytest.mark.parametrize(
    ("row", "k", "expected"),
    [
        ([1, math.nan, 3], 1, math.nan),
        ([1, math.nan, 3], 2, math.nan),
        ([math.nan] * 3, 2, math.nan),
        ([1, INF, 3], 1, INF),
        ([1, INF, 3], 2, INF),
        ([-INF, -INF, 3], 1, 3.0),
        ([-INF, -INF, 3], 2, -INF),
        ([INF, -INF, 3], 3, math.nan),
        ([-INF] * 40, 33, -INF),
        ([3.4e38, 3.4e38, 0], 2, 3.4e38),
        ([1e-45, 0, 0], 1, 1e-45),
    ],
)
def test_special_values(path, row, k, expected):
    values = torch.tensor([row], dtype=torch.float32)
    value = torch.tensor([expected], dtype=torch.float32)
    torch.testing.assert_close(topk_mean(values, k), value, equal_nan=True, rtol=1e-6, atol=0)
    if abs(expected) < 1e38:  # torch's float32 sum overflows where the double one does not
        torch.testing.assert_close(topk_mean_torch(values, k), value, equal_nan=True)


@pytest.mark.parametrize("at", [0, 5, 31, 32, 40, 63, 64, 99])
def test_nan_counts_as_the_largest_wherever_it_is(path, at):
    values = scores(1, 100)
    values[0, at] = math.nan
    gradient = both(values, 3)[1]
    assert gradient.nonzero()[:, 1].tolist() == sorted(values.topk(3).indices[0].tolist())
    values[0, 7] = -math.nan
    assert both(values, 2)[1].nonzero()[:, 1].tolist() == sorted({at, 7})


def test_of_equal_scores_the_first_are_taken(path):
    values = torch.tensor([[1.0, 2, 2, 2, 0], [5, 5, 5, 5, 5], [0.0, -0.0, 0, -0.0, -1]])
    chosen = [row.nonzero()[:, 0].tolist() for row in both(values, 2)[1]]
    assert chosen == [[1, 2], [0, 1], [0, 1]]


# Gradients


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("k", [1, 3, 50])
def test_the_gradient_is_shared_by_the_selected(dtype, k):
    values = scores(4, 50, torch.float32).to(dtype)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    weight = torch.tensor([1.0, -2.0, 0.0, 4.0], dtype=dtype)
    (topk_mean(ours, k) * weight).sum().backward()
    (topk_mean_torch(theirs, k) * weight).sum().backward()
    assert ours.grad.dtype == dtype
    assert (ours.grad != 0).sum() == 3 * k
    # rows have no ties but in low precision, where any k of the equal ones will do
    torch.testing.assert_close(ours.grad.sum(dim=1), theirs.grad.sum(dim=1), rtol=1e-2, atol=0)
    if dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_gradcheck_in_float64(k):
    values = torch.randperm(27, generator=torch.Generator().manual_seed(0)).reshape(3, 9)
    values = values.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: topk_mean(x, k), [values])
    assert torch.autograd.gradgradcheck(lambda x: topk_mean(x, k).square(), [values])


def test_finite_differences_in_float32():
    # spaced by 1, probed by 1/4: exact in float32, and no order changes
    values = torch.randperm(40, generator=torch.Generator().manual_seed(1)).reshape(2, 20).float()
    values.requires_grad_()
    (gradient,) = torch.autograd.grad(topk_mean(values, 4).sum(), values)
    for at in range(40):
        step = torch.zeros(40)
        step[at] = 0.25
        moved = topk_mean(values.detach() + step.reshape(2, 20), 4)
        back = topk_mean(values.detach() - step.reshape(2, 20), 4)
        assert ((moved - back).sum() / 0.5).item() == gradient.flatten()[at].item()


def test_a_second_derivative():
    values = scores(2, 9).requires_grad_()
    (first,) = torch.autograd.grad(topk_mean(values, 3).square().sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), values)
    # d2/dx2 of mean^2: 2 / k^2 for each pair of selected entries, k of them in a row
    expected = torch.zeros(2, 9).scatter_(1, values.topk(3).indices, 2 / 3)
    torch.testing.assert_close(second, expected)


def test_ties_send_the_gradient_to_the_first():
    values = torch.tensor([[1.0, 7.0, 7.0, 7.0]], requires_grad=True)
    topk_mean(values, 2).backward()
    assert values.grad.tolist() == [[0.0, 0.5, 0.5, 0.0]]


def test_no_gradient_is_kept_where_none_is_asked_for():
    values = scores(2, 9)
    assert not topk_mean(values, 2).requires_grad
    with torch.no_grad():
        assert not topk_mean(values.requires_grad_(), 2).requires_grad
    assert topk_mean(values, 2).requires_grad


def test_the_gradient_of_a_strided_input():
    values = scores(9, 4).requires_grad_()
    topk_mean(values.t(), 2).sum().backward()
    again = values.detach().t().contiguous().requires_grad_()
    topk_mean(again, 2).sum().backward()
    assert torch.equal(values.grad, again.grad.t())


def test_the_scores_may_not_change_before_the_gradient():
    values = scores(2, 9).requires_grad_()
    copy = values * 1
    means = topk_mean(copy, 2)
    copy.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        means.sum().backward()


@pytest.mark.parametrize("shape", [(2, 2**31), (2**31, 3), (2**21, 2**20)])
def test_what_a_grid_cannot_hold_is_left_to_torch(shape):
    assert _place(torch.empty(shape, device="meta")) == (None, ())
