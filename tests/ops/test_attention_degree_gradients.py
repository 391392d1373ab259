"""Gradients of the attention operators, and their memory."""

import importlib

import pytest
import torch

from robustad.ops import attention_degree, attention_statistics, attention_with_degree

reference = importlib.import_module("robustad.ops.reference.attention_degree")
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


def relative_gap(ours, exact):
    largest = exact.abs().max()
    return float((ours - exact).abs().max() / largest) if largest > 1e-12 else 0.0


@pytest.mark.usefixtures("attention_path")
@pytest.mark.parametrize("tau", [None, 0.003])
@pytest.mark.parametrize(("shape", "prefix"), SHAPES[:3] + SHAPES[4:6])
def test_gradients(attention, shape, prefix, tau):
    check_gradients(attention, shape, prefix, tau, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("tau", [None, 0.003])
@pytest.mark.parametrize(("shape", "prefix"), SHAPES)
def test_gradients_on_a_gpu(attention, shape, prefix, tau):
    check_gradients(attention, shape, prefix, tau, "cuda")


def check_gradients(attention, shape, prefix, tau, device):
    inputs = attention.heads(shape, device=device)
    n = shape[2] - prefix
    # e errors of S, in factors that are differences of terms of the same size
    bound = 100 * attention.row_error(*inputs[:2], shape[3] ** -0.5)
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


def test_each_statistic_has_its_own_gradient(attention, device):
    inputs = attention.heads((1, 2, 40, 16), 2, device=device)
    for index in range(3):
        ours = [x.clone().requires_grad_() for x in inputs]
        exact = [x.double().requires_grad_() for x in inputs]
        grads = torch.autograd.grad(attention_statistics(*ours, 0.03, 0.01)[index].sum(), ours)
        wanted = torch.autograd.grad(
            reference.attention_statistics(*exact, 0.03, 0.01)[index].sum(), exact
        )
        for grad, want in zip(grads, wanted, strict=True):
            assert relative_gap(grad, want) < 1e-4


def test_the_formula_is_the_derivative(attention):
    # The twin's derivative is torch's own; finite differences vouch for both.
    q, k = (x.double().requires_grad_() for x in attention.heads((1, 1, 6, 4), 2))
    assert torch.autograd.gradcheck(
        lambda q, k: reference.attention_statistics(q, k, 0.2, 0.05, prefix_tokens=1), (q, k)
    )


def test_few_heads_are_shared_between_threads(attention):
    # Parts of a head have sums of their own, added up in a fixed order.
    inputs = attention.heads((1, 1, 700, 16))
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


def test_a_hard_count_has_no_gradient(attention):
    q, k, v = (x.requires_grad_() for x in attention.heads((1, 1, 8, 4)))
    assert not attention_degree(q, k, 0.1).requires_grad
    out, degree = attention_with_degree(q, k, v, 0.1)
    assert out.requires_grad
    assert not degree.requires_grad
    found = attention_statistics(q, k, 0.1)
    assert (found.degree.requires_grad, found.entropy.requires_grad) == (False, True)


def test_the_narrowest_soft_count_is_the_hard_one_and_has_finite_gradients(attention):
    q, k, v = (x.requires_grad_() for x in attention.heads((1, 2, 30, 16)))
    out, degree = attention_with_degree(q, k, v, 0.03, 1e-20)
    assert torch.equal(degree, attention_degree(q, k, 0.03))
    for grad in torch.autograd.grad(1e6 * degree.sum() + out.sum(), (q, k, v)):
        assert grad.isfinite().all()


def test_the_degree_alone_gives_values_no_gradient(attention):
    q, k, v = (x.requires_grad_() for x in attention.heads((1, 1, 8, 4)))
    grads = torch.autograd.grad(attention_with_degree(q, k, v, 0.1, 0.01)[1].sum(), (q, k, v))
    assert grads[0].abs().max() > 0
    assert torch.equal(grads[2], torch.zeros_like(v))


def test_the_second_derivative_is_refused(attention):
    q, k = (x.requires_grad_() for x in attention.heads((1, 1, 8, 4), 2))
    (grad,) = torch.autograd.grad(attention_degree(q, k, 0.1, 0.01).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


def test_memory_is_far_below_the_matrix(attention, tmp_path):
    # 2 x 16384 x 16384 float32 would take 2 GiB.
    resource = pytest.importorskip("resource")
    q, k = attention.heads((1, 2, 16384, 16), 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    degree = attention_degree(q, k, 1 / 16384)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert degree.shape == (1, 2, 16384)
    assert grown < 64 * 1024  # KiB
