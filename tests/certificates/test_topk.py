import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.certificates import topk_bounds, topk_lipschitz
from robustad.errors import InputError
from robustad.ops import topk_mean


def intervals(seed, rows=1, patches=6):
    generator = torch.Generator().manual_seed(seed)
    lower = torch.rand(rows, patches, generator=generator)
    return lower, lower + 0.5 * torch.rand(rows, patches, generator=generator), generator


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(["none", "mask", "any"]))
def test_no_scores_within_the_intervals_leave_the_bounds(seed, k, kind):
    lower, upper, generator = intervals(seed)
    weights = None
    if kind != "none":
        weights = (torch.rand(6, generator=generator) > 0.3).float()
        if kind == "any":
            weights = weights * (0.1 + 5 * torch.rand(6, generator=generator))
    found = topk_bounds(lower, upper, k, weights=weights)
    # all corners, where the extremes are, and points between
    corners = torch.tensor([*itertools.product([0.0, 1.0], repeat=6)])
    share = torch.cat([corners, torch.rand(300, 6, generator=generator)])
    scores = lower + share * (upper - lower)
    each = None if weights is None else weights.expand_as(scores).contiguous()
    means = topk_mean(scores, k, weights=each)
    if weights is not None and not bool((weights > 0).any()):
        assert bool(found.lower.isnan() & found.upper.isnan())
        return
    assert bool((means >= found.lower - 1e-5).all())
    assert bool((means <= found.upper + 1e-5).all())
    if kind != "any":  # attained
        assert float(means.min()) == pytest.approx(float(found.lower), abs=1e-5)
        assert float(means.max()) == pytest.approx(float(found.upper), abs=1e-5)


def test_weights_can_make_the_mean_fall_when_a_score_rises():
    weights = torch.tensor([1.0, 1.0, 100.0])
    before = topk_mean(torch.tensor([[10.0, 1.0, 0.9]]), 2, weights=weights)
    after = topk_mean(torch.tensor([[10.0, 1.0, 1.1]]), 2, weights=weights)
    assert after < before
    found = topk_bounds(
        torch.tensor([[10.0, 1.0, 0.9]]), torch.tensor([[10.0, 1.0, 1.1]]), 2, weights=weights
    )
    assert float(found.lower) <= float(after)
    assert float(found.upper) >= float(before)


def test_exact_weighted_bounds_by_all_subsets():
    lower, upper, generator = intervals(3, patches=5)
    weights = 0.1 + torch.rand(5, generator=generator)
    found = topk_bounds(lower, upper, 2, weights=weights)
    low, high, mass = lower[0], upper[0], weights
    limit = low.sort().values[-2]
    feasible = []
    for chosen in itertools.combinations(range(5), 2):
        others = [i for i in range(5) if i not in chosen]
        if all(high[i] >= limit for i in chosen) and not any(
            int((high >= low[i]).sum()) <= 2 for i in others
        ):
            feasible.append([*chosen])
    means = [float((mass[c] * high[c]).sum() / mass[c].sum()) for c in feasible]
    floor = [float((mass[c] * low[c].clamp_min(limit)).sum() / mass[c].sum()) for c in feasible]
    assert float(found.upper) == pytest.approx(max(means), abs=1e-6)
    assert float(found.lower) == pytest.approx(min(floor), abs=1e-6)


def test_several_images_and_a_share():
    lower, upper, _ = intervals(0, rows=4, patches=100)
    found = topk_bounds(lower, upper, 0.05)
    assert torch.equal(found.lower, topk_mean(lower, 0.05))
    assert torch.equal(found.upper, topk_mean(upper, 5))


@pytest.mark.parametrize(("norm", "order"), [("linf", torch.inf), ("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_lipschitz_constants_hold_and_are_attained(norm, order, k):
    generator = torch.Generator().manual_seed(k)
    first = torch.randn(500, 20, generator=generator, dtype=torch.float64)
    second = first + torch.randn(500, 20, generator=generator, dtype=torch.float64) ** 3
    change = (topk_mean(second, k) - topk_mean(first, k)).abs()
    length = torch.linalg.vector_norm(second - first, ord=order, dim=1)
    constant = topk_lipschitz(k, 20, norm)
    assert bool((change <= constant * length + 1e-12).all())
    push = torch.zeros(1, 20, dtype=torch.float64)
    push[0, :k] = 1.0  # of the k largest alike
    base = torch.zeros(1, 20, dtype=torch.float64)
    base[0, :k] = 5.0
    gain = float(topk_mean(base + push, k) - topk_mean(base, k))
    reached = float(torch.linalg.vector_norm(push, ord=order))
    assert gain == pytest.approx(constant * reached)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"tensors \(B, N\), got \(3,\)"),
        (torch.zeros(1, 3), torch.zeros(1, 2), "two floating-point tensors"),
        (torch.ones(1, 3), torch.zeros(1, 3), "lower <= upper"),
        (torch.full((1, 3), torch.nan), torch.zeros(1, 3), "no NaN"),
    ],
)
def test_bad_intervals(lower, upper, message):
    with pytest.raises(InputError, match=message):
        topk_bounds(lower, upper, 1)


def test_bad_norm_and_count():
    with pytest.raises(InputError, match="norm: expected 'linf', 'l2' or 'l1', got 'l3'"):
        topk_lipschitz(1, 5, "l3")
    with pytest.raises(InputError, match=r"k: expected a count in 1\.\.5, got 6"):
        topk_lipschitz(6, 5, "l2")
