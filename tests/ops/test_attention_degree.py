import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad.errors import InputError
from robustad.ops import (
    AttentionStatistics,
    attention_degree,
    attention_statistics,
    attention_with_degree,
)
from robustad.ops._attention_degree import PATH_VARIABLE

reference = importlib.import_module("robustad.ops.reference.attention_degree")
NAN, INF = float("nan"), float("inf")
# (B, H, N, d), tokens of the prefix: heads of every padding, rows that fill no vector or tile.
SHAPES = [
    ((2, 3, 50, 16), 0),
    ((1, 2, 137, 64), 1),
    ((2, 2, 64, 80), 5),
    ((1, 1, 33, 7), 32),
    ((1, 1, 300, 128), 4),
    ((3, 1, 16, 32), 1),
    ((1, 2, 1, 1), 0),
]


def check_counts(degree, weights, delta, error):
    """A hard count may differ only by entries that rounding can carry over the threshold."""
    certain = (weights >= delta * (1 + error)).sum(dim=-1)
    possible = (weights >= delta * (1 - error)).sum(dim=-1)
    assert (degree == degree.round()).all()
    assert ((certain <= degree) & (degree <= possible)).all()


# Values


@pytest.mark.usefixtures("attention_path")
@pytest.mark.parametrize(("shape", "prefix"), SHAPES)
def test_values(attention, shape, prefix):
    check_values(attention, shape, prefix, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("shape", "prefix"), SHAPES)
def test_values_on_a_gpu(attention, shape, prefix):
    check_values(attention, shape, prefix, "cuda")


def check_values(attention, shape, prefix, device):
    q, k, v = attention.heads(shape, device=device)
    n, scale, tau = shape[2] - prefix, shape[3] ** -0.5, 0.01
    delta = 1 / n
    wide = [x.double() for x in (q, k, v)]
    patches = [x[:, :, prefix:] for x in wide[:2]]
    weights = reference.attention(*patches)
    relative = attention.row_error(*patches, scale)

    soft = attention_degree(q, k, delta, tau, prefix_tokens=prefix)
    assert (soft.dtype, soft.shape) == (torch.float32, (*shape[:2], n))
    expected = reference.attention_degree(*wide[:2], delta, tau, prefix_tokens=prefix)
    assert (soft - expected).abs().max() <= attention.degree_error(*patches, tau, scale)
    check_counts(attention_degree(q, k, delta, prefix_tokens=prefix), weights, delta, relative)

    found = attention_statistics(q, k, delta, tau, prefix_tokens=prefix)
    assert isinstance(found, AttentionStatistics)
    _, effective, entropy = reference.attention_statistics(
        *wide[:2], delta, tau, prefix_tokens=prefix
    )
    assert (found.degree - expected).abs().max() <= attention.degree_error(*patches, tau, scale)
    torch.testing.assert_close(
        found.effective_degree.double(), effective, rtol=3 * relative, atol=0
    )
    largest_score = float((patches[0] @ patches[1].transpose(-1, -2)).abs().max() * scale)
    bound = relative * (2 + 2 * largest_score + math.log(n))
    assert (found.entropy - entropy).abs().max() <= bound

    out, degree = attention_with_degree(q, k, v, delta, tau, prefix_tokens=prefix)
    assert (degree - expected).abs().max() <= attention.degree_error(*wide[:2], tau, scale)
    attended = F.scaled_dot_product_attention(*wide)
    assert (out - attended).abs().max() <= 2 * attention.row_error(*wide[:2], scale) * v.abs().max()
    assert (out.dtype, out.shape) == (q.dtype, q.shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(attention, dtype, device):
    # Products of 16-bit numbers are exact in float32: the degree is as good as from float32.
    q, k, v = attention.heads((1, 2, 90, 64), dtype=dtype, device=device)
    wide = [x.double() for x in (q, k, v)]
    degree = attention_degree(q, k, 1 / 89, 0.01, prefix_tokens=1)
    expected = reference.attention_degree(*wide[:2], 1 / 89, 0.01, prefix_tokens=1)
    bound = attention.degree_error(*wide[:2], 0.01, 1 / 8)
    assert (degree - expected).abs().max() <= bound
    out, fused = attention_with_degree(q, k, v, 1 / 89, 0.01, prefix_tokens=1)
    assert (out.dtype, fused.dtype) == (dtype, torch.float32)
    assert (fused - expected).abs().max() <= bound
    exact = F.scaled_dot_product_attention(*wide)
    plain = F.scaled_dot_product_attention(q, k, v)
    # not worse than twice what torch makes of the same dtype
    assert (out - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-6


def test_equal_scores_attend_to_everything(device):
    q = torch.zeros(1, 2, 64, 16, device=device)
    found = attention_statistics(q, q, delta=1 / 64)
    assert (found.degree == 64).all()
    torch.testing.assert_close(found.effective_degree, torch.full_like(found.degree, 64.0))
    torch.testing.assert_close(found.entropy.exp(), torch.full_like(found.degree, 64.0))
    assert (attention_degree(q, q, delta=1 / 63) == 0).all()
    # a sigmoid at its centre
    torch.testing.assert_close(
        attention_degree(q, q, 1 / 64, 1.0), torch.full_like(found.degree, 32.0)
    )


def test_one_entry_takes_all(device):
    q = 30 * torch.eye(16, device=device)[None, None]
    found = attention_statistics(q, q, delta=0.5)
    assert (found.degree == 1).all()
    torch.testing.assert_close(found.effective_degree, torch.ones_like(found.degree))
    assert found.entropy.abs().max() < 1e-6


@pytest.mark.parametrize("tau", [None, 0.01])
def test_a_prefix_that_takes_all_attention_leaves_the_degree_alone(attention, tau, device):
    # Class tokens and registers do attract nearly all of it; exp(-400) is 0 in float32.
    q, k, v = attention.heads((1, 1, 40, 16), device=device)
    q[..., 0] = 20.0
    k[:, :, :2, 0] = 80.0
    k[:, :, 2:, 0] = 0.0
    out, degree = attention_with_degree(q, k, v, 1 / 38, tau, prefix_tokens=2)
    assert torch.equal(degree, attention_degree(q, k, 1 / 38, tau, prefix_tokens=2)) or tau
    expected = reference.attention_degree(q.double()[:, :, 2:], k.double()[:, :, 2:], 1 / 38, tau)
    torch.testing.assert_close(degree.double(), expected.double(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))


def test_large_scores_do_not_overflow(attention):
    q, k = attention.heads((1, 1, 50, 16), 2, spread=40.0)
    found = attention_statistics(q, k, 0.02, 0.01, scale=1.0)
    assert all(torch.isfinite(x).all() for x in found)
    assert (found.effective_degree >= 1 - 1e-5).all()


def test_scale_is_used(attention):
    q, k = attention.heads((1, 2, 30, 16), 2)
    halved = attention_degree(q, k, 0.03, 0.01, scale=0.125)
    torch.testing.assert_close(halved, attention_degree(q / 2, k, 0.03, 0.01))


def test_memory_layouts():
    # what a transformer block has: slices of one projection
    joint = torch.randn(2, 20, 3, 4, 16).permute(2, 0, 3, 1, 4)
    q, k, v = joint
    for found, expected in (
        (attention_degree(q, k, 0.05, 0.01), reference.attention_degree(q, k, 0.05, 0.01)),
        (
            attention_with_degree(q, k, v, 0.05)[0],
            reference.attention_with_degree(q, k, v, 0.05)[0],
        ),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert attention_degree(q[:0], k[:0], 0.05).shape == (0, 4, 20)


def test_nan_stays_in_its_row(attention):
    q, k = attention.heads((1, 1, 30, 16), 2)
    clean = attention_statistics(q, k, 0.03, 0.01)
    q[0, 0, 4, 3] = NAN
    found = attention_statistics(q, k, 0.03, 0.01)
    others = [i for i in range(30) if i != 4]
    for before, after in zip(clean, found, strict=True):
        assert torch.equal(before[:, :, others], after[:, :, others])
    assert found.entropy[0, 0, 4].isnan()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 70),
    st.integers(1, 40),
    st.floats(0.0, 1.0),
    st.one_of(st.none(), st.floats(1e-3, 10.0)),
    st.floats(0.0, 4.0),
    st.data(),
)
def test_any_shape(attention, count, tokens, d, delta, tau, spread, data):
    prefix = data.draw(st.integers(0, tokens - 1))
    q, k = attention.heads((1, count, tokens, d), 2, spread=spread, seed=tokens)
    degree, effective, entropy = attention_statistics(q, k, delta, tau, prefix_tokens=prefix)
    patches = [x.double()[:, :, prefix:] for x in (q, k)]
    weights = reference.attention(*patches)
    error = attention.row_error(*patches, d**-0.5)
    if tau is None:
        check_counts(degree, weights, delta, error)
    else:
        expected = reference.count(weights, delta, tau)
        assert (degree - expected).abs().max() <= attention.degree_error(*patches, tau, d**-0.5)
    assert (effective >= 1 - error).all()
    assert (effective <= (tokens - prefix) * (1 + 3 * error)).all()
    assert (entropy <= math.log(tokens - prefix) + 20 * error).all()


# Arguments

GOOD = torch.zeros(1, 2, 8, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 8, 16)}, r"q: expected \(B, H, N, d\).*got \(2, 8, 16\)"),
        ({"q": GOOD.double()}, "q: expected .* of float32, bfloat16 or float16.*float64"),
        ({"k": GOOD.long()}, "k: expected .*int64"),
        ({"k": torch.zeros(1, 2, 9, 16)}, r"k: expected what q is.*\(1, 2, 9, 16\)"),
        ({"k": GOOD.half()}, "k: expected what q is.*float16"),
        ({"k": GOOD.to("meta")}, "k: expected what q is.* on cpu.* on meta"),
        ({"v": torch.zeros(1, 2, 8, 8)}, r"v: expected what q is.*\(1, 2, 8, 8\)"),
        ({"prefix_tokens": 8}, r"prefix_tokens: expected 0..N - 1 with N = 8.*got 8"),
        ({"prefix_tokens": -1}, "prefix_tokens: .*got -1"),
        ({"delta": 1.5}, r"delta: expected a number in \[0, 1\], got 1.5"),
        ({"delta": NAN}, "delta: .*nan"),
        ({"tau": 0.0}, "tau: expected a number of at least 1e-20 or None, got 0.0"),
        # 0 in float32, where it would count hard and leave the moment unwritten
        ({"tau": 1e-46}, "tau: expected a number of at least 1e-20.*got 1e-46"),
        ({"tau": -1.0}, "tau: .*got -1.0"),
        ({"tau": INF}, "tau: .*inf"),
        ({"scale": NAN}, "scale: expected a finite number.*got nan"),
        # infinite in float32
        ({"scale": -1e39}, "scale: expected .* float32's range, got -1e"),
    ],
)
def test_arguments_are_checked(changes, message):
    arguments = {"q": GOOD, "k": GOOD, "delta": 0.1} | changes
    if "v" not in changes:
        with pytest.raises(InputError, match=message):
            attention_degree(**arguments)
        with pytest.raises(InputError, match=message):
            attention_statistics(**arguments)
    with pytest.raises(InputError, match=message):
        attention_with_degree(**({"v": GOOD} | arguments))


@pytest.mark.parametrize("d", [0, 129])
def test_head_sizes_are_checked(d):
    q = torch.zeros(1, 1, 4, d)
    with pytest.raises(InputError, match=rf"head size d in 1..128, got {d}"):
        attention_degree(q, q, 0.1)


def test_an_unknown_path_is_refused(monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, "abacus")
    with pytest.raises(InputError, match=rf"{PATH_VARIABLE}: expected portable.*got abacus"):
        attention_degree(GOOD, GOOD, 0.1)
