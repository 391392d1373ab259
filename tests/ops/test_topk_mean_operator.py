import math
import sys

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from robustad.export.translations import translation_table
from robustad.ops import topk_mean
from robustad.ops.topk_mean import TOPK_MEAN, TOPK_MEAN_BACKWARD

INF = math.inf
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]


def scores(rows, columns, dtype=torch.float32, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


def both(values, k, **keywords):
    values = values.detach().clone().requires_grad_()
    means = topk_mean(values, k, **keywords)
    return means.detach(), torch.autograd.grad(means.sum(), values)[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_operator_is_registered_well(device, weighted, shared):
    values = scores(3, 40).to(device).requires_grad_()
    weights = (scores(3, 40, seed=1) > 0).float().to(device) if weighted else None
    torch.library.opcheck(TOPK_MEAN, (values, weights, 4, 0.1 if weighted else 0.0, shared))
    state = TOPK_MEAN(values, weights, 4, 0.0, shared)[1]
    grad = torch.ones(3, device=device, requires_grad=True)
    torch.library.opcheck(TOPK_MEAN_BACKWARD, (grad, values.detach(), weights, state))


def test_the_way_through_the_dispatcher_agrees():
    values = scores(3, 200).requires_grad_()
    weights = torch.rand(3, 200)
    direct = topk_mean(values, 7, weights=weights)
    listed = TOPK_MEAN(values, weights, 7, 0.0, False)[0]
    assert torch.equal(direct, listed)
    assert torch.equal(
        *(torch.autograd.grad(one.square().sum(), values)[0] for one in (direct, listed))
    )


def test_batched_gradients():
    values = scores(3, 20).requires_grad_()
    eye = torch.eye(3)
    (rows,) = torch.autograd.grad(topk_mean(values, 2), values, eye, is_grads_batched=True)
    for i in range(3):
        (one,) = torch.autograd.grad(topk_mean(values, 2), values, eye[i])
        assert torch.equal(rows[i], one)


def test_autocast_keeps_the_dtype():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert topk_mean(scores(2, 9), 2).dtype == torch.float32
        assert TOPK_MEAN(scores(2, 9), None, 2, 0.0, False)[0].dtype == torch.float32


class Head(torch.nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x):
        return topk_mean(x, self.k)


@pytest.mark.parametrize("k", [5, 0.1])
def test_compiled(k):
    compiled = torch.compile(Head(k), fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, columns in ((3, 130), (4, 77)):
        values = scores(rows, columns).requires_grad_()
        means = compiled(values)
        torch.testing.assert_close(means, topk_mean(values, k))
        (gradient,) = torch.autograd.grad(means.sum(), values)
        torch.testing.assert_close(gradient, both(values, k)[1])


@pytest.mark.parametrize("k", [5, 0.1])
@pytest.mark.parametrize("strict", [False, True])
def test_exported(k, strict):
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns", min=5)
    program = torch.export.export(
        Head(k), (scores(3, 130),), dynamic_shapes=({0: rows, 1: columns},), strict=strict
    )
    for size in ((3, 130), (2, 77)):
        torch.testing.assert_close(program.module()(scores(*size)), topk_mean(scores(*size), k))
    assert TOPK_MEAN in {node.target for node in program.graph.nodes}


class Heads(torch.nn.Module):
    """Every kind of selection in one graph, which is exported in the time of one."""

    kinds = [(k, ties) for k in (3, 0.1) for ties in ("first", "shared")]

    def forward(self, x, weights=None):
        return tuple(topk_mean(x, k, weights=weights, ties=ties) for k, ties in self.kinds)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.filterwarnings("ignore:# The axis name")
def test_onnx(weighted):
    onnxruntime = pytest.importorskip("onnxruntime")

    def arguments(rows, columns):
        values = scores(rows, columns).round(decimals=1)  # with ties
        weights = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) - 0.3
        weights[0] = 0.0
        values[1, 0], weights[1, 0] = INF, 0.0
        return (values, weights) if weighted else (values,)

    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Heads().eval(),
        arguments(4, 50),
        dynamo=True,
        verbose=False,
        opset_version=18,
        dynamic_shapes=(axes, axes) if weighted else (axes,),
        custom_translation_table=translation_table(),
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [one.name for one in session.get_inputs()]
    for size in ((4, 50), (2, 77)):
        given_ = arguments(*size)
        found = session.run(None, dict(zip(names, (one.numpy() for one in given_), strict=True)))
        for means, expected in zip(found, Heads()(*given_), strict=True):
            np.testing.assert_allclose(means, expected, rtol=1e-6, atol=1e-6)


def test_without_kernels_the_reference_runs(monkeypatch):
    module = sys.modules["robustad.ops.topk_mean"]
    values, weights = scores(3, 200), torch.rand(3, 200)
    expected = both(values, 0.1, weights=weights, ties="shared")
    monkeypatch.setattr(module, "_C", None)
    for ours, theirs in zip(
        both(values, 0.1, weights=weights, ties="shared"), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keywords", [{}, {"weights": torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5])}])
def test_function_transforms(dtype, keywords):
    values = scores(3, 5, dtype)
    means, expected = both(values, 2, **keywords)

    def total(of):
        return topk_mean(of, 2, **keywords).sum()

    def one(row):
        return topk_mean(row[None], 2, **keywords)[0]

    torch.testing.assert_close(torch.func.grad(total)(values), expected)
    torch.testing.assert_close(torch.func.vmap(one)(values), means)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(one))(values), expected)
    jacobian = torch.stack([torch.diag(column) for column in expected.T], dim=2)
    for way in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(way(lambda of: topk_mean(of, 2, **keywords))(values), jacobian)
    hessian = torch.func.hessian(lambda row: one(row) ** 2)(values[0])
    torch.testing.assert_close(hessian, 2 * torch.outer(expected[0], expected[0]))


def test_forward_mode_is_not_lost():
    values, direction = scores(3, 40), scores(3, 40, seed=1)
    expected = (both(values, 4)[1] * direction).sum(dim=1)
    for point in (values, values.clone().requires_grad_()):
        with forward_ad.dual_level():
            means = topk_mean(forward_ad.make_dual(point, direction), 4)
            torch.testing.assert_close(forward_ad.unpack_dual(means).tangent, expected)


def test_forward_mode_through_the_gradient():
    values = scores(3, 40).requires_grad_()
    means = topk_mean(values, 4)
    with forward_ad.dual_level():
        grad = forward_ad.make_dual(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))
        (spread,) = torch.autograd.grad(means, values, grad)
        tangent = forward_ad.unpack_dual(spread).tangent
    torch.testing.assert_close(tangent.sum(dim=1), torch.tensor([1.0, 2.0, 3.0]))


def test_zero_tensors_have_no_memory():
    assert topk_mean(torch._efficientzerotensor((3, 7)), 2).tolist() == [0.0] * 3
    values = scores(3, 7).requires_grad_()
    topk_mean(values, 2).backward(torch._efficientzerotensor((3,)))
    assert values.grad.tolist() == [[0.0] * 7] * 3
