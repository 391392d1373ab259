import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from robustad import _C
from robustad.errors import InputError
from robustad.ops import (
    AttentionStatistics,
    attention_degree,
    attention_statistics,
    attention_with_degree,
)
from robustad.ops._attention_degree import PATH_VARIABLE

reference = importlib.import_module("robustad.ops.reference.attention_degree")
ops = torch.ops.robustad
NAN, INF = float("nan"), float("inf")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]
# Every instruction set this machine has; the others skip with a reason.
PATHS = [
    pytest.param(
        path,
        marks=pytest.mark.skipif(_C.attention_path(path) is None, reason=f"no {path} on this CPU"),
    )
    for path in ("portable", "avx2", "avx512")
]
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


def heads(shape, count=3, dtype=torch.float32, device="cpu", spread=1.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (spread * torch.randn(shape, generator=generator)).to(device, dtype) for _ in range(count)
    ]


def score_error(q, k, scale, unit=2.0**-24):
    """Most that a float32 score is off: d + 1 roundings of a sum of at most |q| |k|."""
    lengths = q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max()
    return float((q.shape[-1] + 1) * unit * scale * lengths)


def row_error(q, k, scale, unit=2.0**-24):
    """Most that an entry of S is off, relative to it."""
    # the score itself, its distance from the maximum, exp and the sum of a row
    n = k.shape[2]
    return 2 * score_error(q, k, scale, unit) + (n / 8 + 8) * 2.0**-24


def degree_error(q, k, tau, scale):
    """sum_j |dt/dS| S_j e <= e / (4 tau), and the sum of n terms of at most 1."""
    n = k.shape[2]
    return row_error(q, k, scale) / (4 * tau) + n * (n / 8 + 4) * 2.0**-24


def check_counts(degree, weights, delta, error):
    """A hard count may differ only by entries that rounding can carry over the threshold."""
    certain = (weights >= delta * (1 + error)).sum(dim=-1)
    possible = (weights >= delta * (1 - error)).sum(dim=-1)
    assert (degree == degree.round()).all()
    assert ((certain <= degree) & (degree <= possible)).all()


# Values


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("shape", "prefix"), SHAPES)
def test_values(shape, prefix, path, monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, path)
    check_values(shape, prefix, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("shape", "prefix"), SHAPES)
def test_values_on_a_gpu(shape, prefix):
    check_values(shape, prefix, "cuda")


def check_values(shape, prefix, device):
    q, k, v = heads(shape, device=device)
    n, scale, tau = shape[2] - prefix, shape[3] ** -0.5, 0.01
    delta = 1 / n
    wide = [x.double() for x in (q, k, v)]
    patches = [x[:, :, prefix:] for x in wide[:2]]
    weights = reference.attention(*patches)
    relative = row_error(*patches, scale)

    soft = attention_degree(q, k, delta, tau, prefix_tokens=prefix)
    assert (soft.dtype, soft.shape) == (torch.float32, (*shape[:2], n))
    expected = reference.attention_degree(*wide[:2], delta, tau, prefix_tokens=prefix)
    assert (soft - expected).abs().max() <= degree_error(*patches, tau, scale)
    check_counts(attention_degree(q, k, delta, prefix_tokens=prefix), weights, delta, relative)

    found = attention_statistics(q, k, delta, tau, prefix_tokens=prefix)
    assert isinstance(found, AttentionStatistics)
    _, effective, entropy = reference.attention_statistics(
        *wide[:2], delta, tau, prefix_tokens=prefix
    )
    assert (found.degree - expected).abs().max() <= degree_error(*patches, tau, scale)
    torch.testing.assert_close(
        found.effective_degree.double(), effective, rtol=3 * relative, atol=0
    )
    largest_score = float((patches[0] @ patches[1].transpose(-1, -2)).abs().max() * scale)
    bound = relative * (2 + 2 * largest_score + math.log(n))
    assert (found.entropy - entropy).abs().max() <= bound

    out, degree = attention_with_degree(q, k, v, delta, tau, prefix_tokens=prefix)
    assert (degree - expected).abs().max() <= degree_error(*wide[:2], tau, scale)
    attended = F.scaled_dot_product_attention(*wide)
    assert (out - attended).abs().max() <= 2 * row_error(*wide[:2], scale) * v.abs().max()
    assert (out.dtype, out.shape) == (q.dtype, q.shape)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, device):
    # Products of 16-bit numbers are exact in float32: the degree is as good as from float32.
    q, k, v = heads((1, 2, 90, 64), dtype=dtype, device=device)
    wide = [x.double() for x in (q, k, v)]
    degree = attention_degree(q, k, 1 / 89, 0.01, prefix_tokens=1)
    expected = reference.attention_degree(*wide[:2], 1 / 89, 0.01, prefix_tokens=1)
    bound = degree_error(*wide[:2], 0.01, 1 / 8)
    assert (degree - expected).abs().max() <= bound
    out, fused = attention_with_degree(q, k, v, 1 / 89, 0.01, prefix_tokens=1)
    assert (out.dtype, fused.dtype) == (dtype, torch.float32)
    assert (fused - expected).abs().max() <= bound
    exact = F.scaled_dot_product_attention(*wide)
    plain = F.scaled_dot_product_attention(q, k, v)
    # not worse than twice what torch makes of the same dtype
    assert (out - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-6


@pytest.mark.parametrize("device", DEVICES)
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


@pytest.mark.parametrize("device", DEVICES)
def test_one_entry_takes_all(device):
    q = 30 * torch.eye(16, device=device)[None, None]
    found = attention_statistics(q, q, delta=0.5)
    assert (found.degree == 1).all()
    torch.testing.assert_close(found.effective_degree, torch.ones_like(found.degree))
    assert found.entropy.abs().max() < 1e-6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tau", [None, 0.01])
def test_a_prefix_that_takes_all_attention_leaves_the_degree_alone(tau, device):
    # Class tokens and registers do attract nearly all of it; exp(-400) is 0 in float32.
    q, k, v = heads((1, 1, 40, 16), device=device)
    q[..., 0] = 20.0
    k[:, :, :2, 0] = 80.0
    k[:, :, 2:, 0] = 0.0
    out, degree = attention_with_degree(q, k, v, 1 / 38, tau, prefix_tokens=2)
    assert torch.equal(degree, attention_degree(q, k, 1 / 38, tau, prefix_tokens=2)) or tau
    expected = reference.attention_degree(q.double()[:, :, 2:], k.double()[:, :, 2:], 1 / 38, tau)
    torch.testing.assert_close(degree.double(), expected.double(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))


def test_large_scores_do_not_overflow():
    q, k = heads((1, 1, 50, 16), 2, spread=40.0)
    found = attention_statistics(q, k, 0.02, 0.01, scale=1.0)
    assert all(torch.isfinite(x).all() for x in found)
    assert (found.effective_degree >= 1 - 1e-5).all()


def test_scale_is_used():
    q, k = heads((1, 2, 30, 16), 2)
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


def test_nan_stays_in_its_row():
    q, k = heads((1, 1, 30, 16), 2)
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
def test_any_shape(count, tokens, d, delta, tau, spread, data):
    prefix = data.draw(st.integers(0, tokens - 1))
    q, k = heads((1, count, tokens, d), 2, spread=spread, seed=tokens)
    degree, effective, entropy = attention_statistics(q, k, delta, tau, prefix_tokens=prefix)
    patches = [x.double()[:, :, prefix:] for x in (q, k)]
    weights = reference.attention(*patches)
    error = row_error(*patches, d**-0.5)
    if tau is None:
        check_counts(degree, weights, delta, error)
    else:
        expected = reference.count(weights, delta, tau)
        assert (degree - expected).abs().max() <= degree_error(*patches, tau, d**-0.5)
    assert (effective >= 1 - error).all()
    assert (effective <= (tokens - prefix) * (1 + 3 * error)).all()
    assert (entropy <= math.log(tokens - prefix) + 20 * error).all()


# Gradients


def relative_gap(ours, exact):
    largest = exact.abs().max()
    return float((ours - exact).abs().max() / largest) if largest > 1e-12 else 0.0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tau", [None, 0.003])
@pytest.mark.parametrize(("shape", "prefix"), SHAPES[:3] + SHAPES[4:6])
def test_gradients(shape, prefix, tau, path, monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, path)
    check_gradients(shape, prefix, tau, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("tau", [None, 0.003])
@pytest.mark.parametrize(("shape", "prefix"), SHAPES)
def test_gradients_on_a_gpu(shape, prefix, tau):
    check_gradients(shape, prefix, tau, "cuda")


def check_gradients(shape, prefix, tau, device):
    inputs = heads(shape, device=device)
    n = shape[2] - prefix
    # e errors of S, in factors that are differences of terms of the same size
    bound = 100 * row_error(*inputs[:2], shape[3] ** -0.5)
    counted = 0 if tau is None else 1
    for function, twin, arguments, first, last in (
        (attention_statistics, reference.attention_statistics, 2, 1 - counted, 3),
        (attention_with_degree, reference.attention_with_degree, 3, 0, 1 + counted),
    ):
        ours = [x.clone().requires_grad_() for x in inputs[:arguments]]
        exact = [x.double().requires_grad_() for x in inputs[:arguments]]
        made = function(*ours, 1 / n, tau, prefix_tokens=prefix)[first:last]
        expected = twin(*exact, 1 / n, tau, prefix_tokens=prefix)[first:last]
        ways = [torch.randn_like(x) for x in made]
        grads = torch.autograd.grad(made, ours, ways)
        wanted = torch.autograd.grad(expected, exact, [x.double() for x in ways])
        for grad, want in zip(grads, wanted, strict=True):
            assert (grad.dtype, grad.shape) == (torch.float32, shape)
            assert relative_gap(grad, want) <= bound


@pytest.mark.parametrize("device", DEVICES)
def test_each_statistic_has_its_own_gradient(device):
    inputs = heads((1, 2, 40, 16), 2, device=device)
    for index in range(3):
        ours = [x.clone().requires_grad_() for x in inputs]
        exact = [x.double().requires_grad_() for x in inputs]
        grads = torch.autograd.grad(attention_statistics(*ours, 0.03, 0.01)[index].sum(), ours)
        wanted = torch.autograd.grad(
            reference.attention_statistics(*exact, 0.03, 0.01)[index].sum(), exact
        )
        for grad, want in zip(grads, wanted, strict=True):
            assert relative_gap(grad, want) < 1e-4


def test_the_formula_is_the_derivative():
    # The twin's derivative is torch's own; finite differences vouch for both.
    q, k = (x.double().requires_grad_() for x in heads((1, 1, 6, 4), 2))
    assert torch.autograd.gradcheck(
        lambda q, k: reference.attention_statistics(q, k, 0.2, 0.05, prefix_tokens=1), (q, k)
    )


def test_few_heads_are_shared_between_threads():
    # Parts of a head have sums of their own, added up in a fixed order.
    inputs = heads((1, 1, 700, 16))
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            leaves = [x.clone().requires_grad_() for x in inputs]
            out, degree = attention_with_degree(*leaves, 1 / 700, 0.01, prefix_tokens=1)
            found.append(torch.autograd.grad(out.sum() + degree.sum(), leaves))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_hard_count_has_no_gradient():
    q, k, v = (x.requires_grad_() for x in heads((1, 1, 8, 4)))
    assert not attention_degree(q, k, 0.1).requires_grad
    out, degree = attention_with_degree(q, k, v, 0.1)
    assert out.requires_grad
    assert not degree.requires_grad
    found = attention_statistics(q, k, 0.1)
    assert (found.degree.requires_grad, found.entropy.requires_grad) == (False, True)


def test_the_narrowest_soft_count_is_the_hard_one_and_has_finite_gradients():
    q, k, v = (x.requires_grad_() for x in heads((1, 2, 30, 16)))
    out, degree = attention_with_degree(q, k, v, 0.03, 1e-20)
    assert torch.equal(degree, attention_degree(q, k, 0.03))
    for grad in torch.autograd.grad(1e6 * degree.sum() + out.sum(), (q, k, v)):
        assert grad.isfinite().all()


def test_the_degree_alone_gives_values_no_gradient():
    q, k, v = (x.requires_grad_() for x in heads((1, 1, 8, 4)))
    grads = torch.autograd.grad(attention_with_degree(q, k, v, 0.1, 0.01)[1].sum(), (q, k, v))
    assert grads[0].abs().max() > 0
    assert torch.equal(grads[2], torch.zeros_like(v))


def test_the_second_derivative_is_refused():
    q, k = (x.requires_grad_() for x in heads((1, 1, 8, 4), 2))
    (grad,) = torch.autograd.grad(attention_degree(q, k, 0.1, 0.01).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


def test_memory_is_far_below_the_matrix(tmp_path):
    # 2 x 16384 x 16384 float32 would take 2 GiB.
    resource = pytest.importorskip("resource")
    q, k = heads((1, 2, 16384, 16), 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    degree = attention_degree(q, k, 1 / 16384)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert degree.shape == (1, 2, 16384)
    assert grown < 64 * 1024  # KiB


# As operators

NUMBERS = (0.05, 0.01, 1, 0.25)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["degree", "statistics", "with_degree"])
@pytest.mark.parametrize("tau", [None, 0.01])
def test_operators(name, tau, device):
    count = 3 if name == "with_degree" else 2
    inputs = [x.requires_grad_() for x in heads((2, 2, 9, 16), count, device=device)]
    operator = getattr(ops, f"attention_{name}")
    torch.library.opcheck(operator.default, (*inputs, 0.05, tau, 1, 0.25))


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_operators(device):
    q, k, v = heads((2, 2, 9, 16), device=device)
    a, b, c, r, lse = (torch.rand(2, 2, 8, device=device) for _ in range(5))
    torch.library.opcheck(ops.attention_degree_backward.default, (q, k, lse, a, b, c, r, *NUMBERS))
    whole = torch.rand(2, 2, 9, device=device) + 2
    torch.library.opcheck(
        ops.attention_with_degree_backward.default,
        (v, whole, q, k, v, whole, lse, a, r, *NUMBERS),
    )


def loss(q, k, v):
    out, degree = attention_with_degree(q, k, v, 0.1, 0.01, prefix_tokens=1)
    found = attention_statistics(q, k, 0.1, 0.01)
    alone = attention_degree(q, k, 0.1, 0.02)
    return out.sum() + degree.sum() + sum(x.sum() for x in found) + alone.sum()


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_with_dynamic_shapes(device):
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (12, 17):
        plain = [x.requires_grad_() for x in heads((2, 2, tokens, 16), device=device)]
        traced = [x.detach().clone().requires_grad_() for x in plain]
        expected = torch.autograd.grad(loss(*plain), plain)
        found = torch.autograd.grad(compiled(*traced), traced)
        for ours, want in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-4)


class Module(torch.nn.Module):
    def __init__(self, tau):
        super().__init__()
        self.tau = tau

    def forward(self, q, k, v):
        out, degree = attention_with_degree(q, k, v, 0.05, self.tau, prefix_tokens=2)
        found = attention_statistics(q, k, 0.05, self.tau, prefix_tokens=2)
        return (out, degree, attention_degree(q, k, 0.05, self.tau), *found)


def test_exported():
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("tokens", min=4, max=4096)}
    exported = torch.export.export(
        Module(0.01), tuple(heads((2, 3, 20, 16))), dynamic_shapes=(free,) * 3
    )
    names = {str(node.target) for node in exported.graph.nodes}
    assert "robustad.attention_with_degree.default" in names
    others = heads((1, 3, 31, 16))
    for ours, want in zip(exported.module()(*others), Module(0.01)(*others), strict=True):
        torch.testing.assert_close(ours, want)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tau", [None, 0.01])
def test_translated_to_onnx(tau, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    from robustad.export.translations.attention_degree import TRANSLATIONS

    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("tokens", min=4)}
    program = torch.onnx.export(
        Module(tau).eval(),
        tuple(heads((2, 3, 20, 16))),
        dynamo=True,
        opset_version=18,
        custom_translation_table=TRANSLATIONS,
        dynamic_shapes=(free,) * 3,
        verbose=False,
    )
    program.save(tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    others = heads((1, 3, 31, 16))
    fed = {one.name: x.numpy() for one, x in zip(session.get_inputs(), others, strict=True)}
    for theirs, ours in zip(session.run(None, fed), Module(tau)(*others), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_translated_entropy_keeps_its_digits_where_scores_are_large(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    from robustad.export.translations.attention_degree import TRANSLATIONS

    class Entropy(torch.nn.Module):
        def forward(self, q, k):
            return attention_statistics(q, k, 0.05, scale=1.0).entropy

    q, k = heads((1, 1, 20, 16), 2)
    q[..., 0], k[..., 0] = 256.0, 256.0  # adds 65536 to all scores
    q[..., 1:] = q[..., 1:].round()  # products that float32 holds exactly
    k[..., 1:] = k[..., 1:].round()
    program = torch.onnx.export(
        Entropy().eval(),
        (q, k),
        dynamo=True,
        opset_version=18,
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    )
    program.save(tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    (theirs,) = session.run(None, dict(zip(names, (q.numpy(), k.numpy()), strict=True)))
    wanted = reference.attention_statistics(q.double(), k.double(), 0.05, scale=1.0)[2]
    assert (torch.from_numpy(theirs) - wanted).abs().max() < 1e-5
    assert (attention_statistics(q, k, 0.05, scale=1.0).entropy - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_autocast(device):
    q, k, v = heads((1, 2, 20, 16), device=device)
    low = [x.bfloat16() for x in (q, k, v)]
    with torch.autocast(device, torch.bfloat16):
        out, degree = attention_with_degree(q, k, v, 0.05, 0.01)
        alone = attention_degree(q, low[1], 0.05, 0.01)
    assert (out.dtype, degree.dtype) == (torch.bfloat16, torch.float32)
    wanted_out, wanted = attention_with_degree(*low, 0.05, 0.01)
    assert torch.equal(out, wanted_out)
    assert torch.equal(degree, wanted)
    torch.testing.assert_close(alone, wanted)


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
