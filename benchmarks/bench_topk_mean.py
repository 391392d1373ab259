"""Mean of the k largest patch scores, forward alone and with its gradient, beside its peers."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robustad.ops import topk_mean
from robustad.ops.reference.topk_mean import topk_mean_torch

# Images, patches and the k largest: a batch of 518 pixels in patches of 14; of heat maps of 448
# pixels; one image.
SHAPES = [(64, 1369, 14), (64, 200704, 2007), (1, 1024, 10)]
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def by_numpy_partition(scores: Tensor, k: int) -> Tensor:
    top = np.partition(scores.numpy(), scores.shape[1] - k, axis=1)[:, -k:]
    return torch.from_numpy(top.mean(axis=1))


@cache
def compiled() -> Callable[[Tensor, int], Tensor]:
    function: Callable[[Tensor, int], Tensor] = torch.compile(topk_mean_torch)
    try:
        function(torch.ones(2, 3), 1)
    except Exception as error:  # no compiler for it on this machine
        pytest.skip(f"torch.compile: {str(error).splitlines()[0]}")
    return function


IMPLEMENTATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "robustad": topk_mean,
    "torch topk": topk_mean_torch,
    "torch topk compiled": lambda scores, k: compiled()(scores, k),
    "torch sort": lambda scores, k: scores.sort(dim=1, descending=True).values[:, :k].mean(dim=1),
    "numpy partition": by_numpy_partition,
}
DIFFERENTIABLE = [name for name in IMPLEMENTATIONS if name != "numpy partition"]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def problem(request: pytest.FixtureRequest, device: str) -> tuple[Tensor, int]:
    rows, columns, k = request.param
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(rows, columns, generator=generator).exp() * 0.2
    return scores.to(device), k


def measure(benchmark: Any, what: str, scores: Tensor, k: int, run: Callable[[], Tensor]) -> Tensor:
    """Time a call, on a GPU until it is done, and note what it did."""
    rows, columns = scores.shape
    benchmark.group = f"{what}, {rows} x {columns}, k = {k}, {scores.device.type}"
    benchmark.extra_info.update(
        items=rows,
        bytes=scores.numel() * scores.element_size(),
        k=k,
        device=str(scores.device),
        dtype=str(scores.dtype).removeprefix("torch."),
    )
    if not scores.is_cuda:
        result: Tensor = benchmark(run)
        return result

    def until_done() -> Tensor:
        result = run()
        torch.cuda.synchronize()
        return result

    until_done()
    timed: Tensor = benchmark.pedantic(until_done, rounds=50, warmup_rounds=10)
    return timed


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_topk_mean(benchmark: Any, impl: str, problem: tuple[Tensor, int]) -> None:
    scores, k = problem
    if impl == "numpy partition" and scores.is_cuda:
        pytest.skip("numpy has no GPU")
    if impl == "torch topk compiled":
        compiled()
    means = measure(benchmark, "topk_mean", scores, k, lambda: IMPLEMENTATIONS[impl](scores, k))
    expected = scores.double().sort(dim=1, descending=True).values[:, :k].mean(dim=1)
    torch.testing.assert_close(means.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("impl", DIFFERENTIABLE)
def test_topk_mean_with_gradient(benchmark: Any, impl: str, problem: tuple[Tensor, int]) -> None:
    scores, k = problem
    if impl == "torch topk compiled":
        compiled()
    scores.requires_grad_()
    grad = torch.ones(scores.shape[0], device=scores.device)

    def step() -> Tensor:
        return torch.autograd.grad(IMPLEMENTATIONS[impl](scores, k), scores, grad)[0]

    gradient = measure(benchmark, "topk_mean and gradient", scores, k, step)
    top = scores.detach().topk(k, dim=1).indices
    expected = torch.zeros_like(gradient).scatter_(1, top, 1 / k)
    torch.testing.assert_close(gradient, expected)
