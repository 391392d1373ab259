"""The Triton kernels against the C++ core and the torch twins; interpreted without a GPU."""

import importlib

import pytest
import torch

pytest.importorskip("triton")

from robustad.kernels import attention_degree as kernels
from robustad.kernels import attention_degree_backward as backward
from robustad.kernels import attention_degree_gradients as gradients
from robustad.kernels import attention_degree_tiles as tiles

reference = importlib.import_module("robustad.ops.reference.attention_degree")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# (B, H, N, d), tokens of the prefix: rows and columns that fill no tile, padded heads, several
# blocks of the prefix.
SHAPES = [((1, 2, 50, 16), 0), ((1, 1, 70, 24), 3), ((2, 1, 40, 32), 20)]
UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# bf16 arithmetic is wrong in the interpreter; fp16 takes the same way through the kernels.
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * torch.cuda.is_available()


def heads(shape, dtype, count=3):
    generator = torch.Generator().manual_seed(0)
    made = [1.3 * torch.randn(shape, generator=generator) for _ in range(count)]
    return [x.to(DEVICE, dtype) for x in made]


def score_error(q, k, scale):
    lengths = q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max()
    return float((q.shape[-1] + 1) * 2.0**-23 * scale * lengths)


def row_error(q, k, scale):
    """Relative error of an entry of S: its score, exp2 and the sum of a row."""
    return 2 * score_error(q, k, scale) + (k.shape[2] + 16) * 2.0**-23


@pytest.mark.parametrize("tau", [None, 0.01])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "prefix"), SHAPES)
def test_forward(shape, prefix, dtype, tau):
    q, k, v = heads(shape, dtype)
    wide = [x.double() for x in (q, k, v)]
    patches = [x[:, :, prefix:] for x in (q, k)]
    n, scale = shape[2] - prefix, shape[3] ** -0.5
    delta = 1.1 / n
    e = row_error(q, k, scale)
    expected, effective, entropy = reference.attention_statistics(
        *wide[:2], delta, tau, prefix_tokens=prefix
    )
    # a hard count of generic numbers: none is so near to the threshold
    bound = 0.0 if tau is None else e / (4 * tau) + n * n * 2.0**-24

    degree, lse, moment = kernels.degree(*patches, delta, tau, scale)
    assert (degree - expected).abs().max() <= bound
    scores = patches[0].double() @ patches[1].double().transpose(-1, -2) * scale
    assert (lse - scores.logsumexp(dim=-1)).abs().max() <= e
    if tau is None:
        assert moment.shape == (0,)
    else:
        soft = torch.sigmoid((scores.softmax(-1) - delta) / tau)
        exact = (scores.softmax(-1) * soft * (1 - soft)).sum(-1)
        assert (moment - exact).abs().max() <= e * (1 + 1 / (4 * tau))

    again = kernels.statistics(*patches, delta, tau, scale)
    assert torch.equal(again[0], degree)
    torch.testing.assert_close(again[1].double(), effective, rtol=3 * e, atol=0)
    assert (again[2] - entropy).abs().max() <= e * (4 + 2 * scores.abs().max())
    torch.testing.assert_close(again[3], lse)

    out, degree, whole, lse, _ = kernels.with_degree(q, k, v, delta, tau, prefix, scale)
    assert out.dtype == dtype
    attended, _ = reference.attention_with_degree(*wide, delta, prefix_tokens=prefix)
    # weights and result are rounded to the dtype
    size = v.double().abs().max()
    assert (out - attended).abs().max() <= (2 * e + 3 * UNIT[dtype]) * size
    assert (degree - expected).abs().max() <= bound
    every = wide[0] @ wide[1].transpose(-1, -2) * scale
    assert (whole - every.logsumexp(dim=-1)).abs().max() <= e
    assert (lse - scores.logsumexp(dim=-1)).abs().max() <= e


def exact_gradients(function, inputs, ways, **options):
    leaves = [x.double().requires_grad_() for x in inputs]
    made = function(*leaves, **options)
    used = [(one, way.double()) for one, way in zip(made, ways, strict=True) if way is not None]
    return torch.autograd.grad([one for one, _ in used], leaves, [way for _, way in used])


def check(found, expected, dtype, e, floor):
    """Weights, scores' gradients and results are rounded to the dtype; float16 has a floor."""
    for ours, want in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        largest = want.abs().max()
        assert (ours - want).abs().max() <= (100 * e + 8 * UNIT[dtype]) * largest + floor


@pytest.mark.parametrize("tau", [None, 0.01])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "prefix"), SHAPES[:2])
def test_gradients(shape, prefix, dtype, tau):
    inputs = heads(shape, dtype)
    q, k, v = inputs
    n, scale = shape[2] - prefix, shape[3] ** -0.5
    delta, e = 1.1 / n, row_error(q, k, scale)
    options = {"delta": delta, "tau": tau, "prefix_tokens": prefix}
    # As small as gradients of a mean over a batch: float16 would lose them unscaled.
    size = 1e-4
    g_degree, g_effective, g_entropy = (
        size * torch.randn(*shape[:2], n, device=DEVICE) for _ in range(3)
    )
    patches = [x[:, :, prefix:] for x in (q, k)]
    found = kernels.statistics(*patches, delta, tau, scale)
    _, effective, entropy, lse, moment = found
    a = None if tau is None else g_degree / tau
    r = 2 * g_effective * effective - g_entropy * entropy
    if a is not None:
        r = r - a * moment
    terms = (a, -2 * g_effective * effective.square(), -g_entropy, r)
    made = backward.degree_backward(*patches, lse, *terms, delta, tau or 0.0, scale)
    ways = (None if tau is None else g_degree, g_effective, g_entropy)
    wanted = exact_gradients(reference.attention_statistics, (q, k), ways, **options)
    floor = 2.0**-24 if dtype == torch.float16 else 0.0
    check(made, [x[:, :, prefix:] for x in wanted], dtype, e, floor)

    if a is not None:
        made = backward.degree_backward(
            *patches, lse, a, None, None, -a * moment, delta, tau, scale
        )
        ways = (g_degree, None, None)
        wanted = exact_gradients(reference.attention_statistics, (q, k), ways, **options)
        check(made, [x[:, :, prefix:] for x in wanted], dtype, e, floor)

    out, _, whole, lse, moment = kernels.with_degree(q, k, v, delta, tau, prefix, scale)
    grad = (size * torch.randn(shape, device=DEVICE)).to(dtype)
    dsum = (grad.float() * out.float()).sum(-1)
    r = None if a is None else -a * moment
    made = backward.with_degree_backward(
        grad, dsum, q, k, v, whole, lse, a, r, delta, tau or 0.0, prefix, scale
    )
    ways = (grad, None if tau is None else g_degree)
    wanted = exact_gradients(reference.attention_with_degree, inputs, ways, **options)
    check(made, wanted, dtype, e, floor)


def test_a_gradient_below_the_range_of_float16_is_not_lost():
    # Scores' gradients are near 1e-12 here; those of q are brought back up by large keys.
    q, k, _ = heads((1, 1, 32, 16), torch.float16)
    k = 2000 * k
    q = q / 2000
    tau, delta = 1.0, 1 / 32
    _, lse, moment = kernels.degree(q, k, delta, tau, 0.25)
    a = torch.full((1, 1, 32), 2e-6, device=DEVICE)
    dq, _ = backward.degree_backward(q, k, lse, a, None, None, -a * moment, delta, tau, 0.25)
    exact = exact_gradients(
        lambda q, k: (reference.attention_degree(q, k, delta, tau),), (q, k), (a,)
    )[0]
    assert exact.abs().max() > 2.0**-24
    assert (dq - exact).abs().max() <= 2.0**-8 * exact.abs().max() + 2.0**-24


@pytest.mark.parametrize("tokens", [6, 11, 38, 64])
def test_equal_scores_reach_a_threshold_of_one_in_n(tokens):
    q = torch.zeros(1, 1, tokens + 1, 16, device=DEVICE)
    assert (kernels.degree(q[:, :, 1:], q[:, :, 1:], 1 / tokens, None, 0.25)[0] == tokens).all()
    assert (kernels.with_degree(q, q, q, 1 / tokens, None, 1, 0.25)[1] == tokens).all()


def test_inputs_of_any_stride():
    q, k, v = torch.randn(2, 20, 3, 2, 16, device=DEVICE).permute(2, 0, 3, 1, 4)
    ours = kernels.with_degree(q, k, v, 0.05, 0.01, 1, 0.25)
    plain = kernels.with_degree(*(x.contiguous() for x in (q, k, v)), 0.05, 0.01, 1, 0.25)
    for one, other in zip(ours, plain, strict=True):
        assert torch.equal(one, other)
    across = q.transpose(2, 3).contiguous().transpose(2, 3)
    assert across.stride(3) != 1
    degree = kernels.degree(across, k, 0.05, 0.01, 0.25)[0]
    assert torch.equal(degree, kernels.degree(q, k, 0.05, 0.01, 0.25)[0])


def test_heads_beyond_32_bit_offsets_are_copied():
    # Tokens first, as in sequence-first models: 32768 tokens, 65536 elements apart.
    far = torch.empty(32768, 64, 16, 64, device="meta").permute(1, 2, 0, 3)
    assert kernels.laid_out(far).stride(2) == 64
    near = far[:, :, :32767]
    assert kernels.laid_out(near) is near


def test_no_heads():
    q = torch.zeros(0, 2, 8, 16, device=DEVICE)
    assert kernels.degree(q, q, 0.1, 0.01, 0.25)[0].shape == (0, 2, 8)
    rows = torch.zeros(0, 2, 8, device=DEVICE)
    dq, _ = backward.degree_backward(q, q, rows, rows, None, None, rows, 0.1, 0.01, 0.25)
    assert dq.shape == q.shape


@pytest.mark.parametrize("choice", [tiles.forward_tiles, tiles.query_tiles, tiles.key_tiles])
def test_every_case_has_tiles(choice):
    for head in tiles.HEADS:
        for size in (2, 4):
            for fused in (False, True):
                for tile in choice(head, size, fused):
                    # powers of two that matrix instructions take
                    assert min(tile.m, tile.n) >= 16
                    assert all(x & (x - 1) == 0 for x in tile[:3])


@pytest.mark.parametrize(("d", "size"), [(1, 16), (16, 16), (24, 32), (80, 128), (128, 128)])
def test_padding(d, size):
    assert tiles.padded(d) == size


def test_variants_cover_every_kernel_and_dtype():
    found = kernels.variants() + gradients.variants()
    assert len({one.name for one in found}) == len(found)
    for kernel in ("forward", "query_gradient", "key_gradient"):
        names = [one.name for one in found if one.name.startswith(kernel)]
        for word in ("fp16", "bf16", "fp32", "fused", "statistics", "soft", "hard", "d 128"):
            assert any(word in name for name in names), (kernel, word)
