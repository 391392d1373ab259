"""Mean of the k largest patch scores, with and without its gradient, against torch.topk."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robustad.ops import resolve_k, topk_mean
from robustad.ops.reference.topk_mean import topk_mean_torch

FRACTION = 0.01
# Images, patches: 448 and 672 pixels in patches of 14; filters on 448 pixels; one image.
SHAPES = [
    (64, 1024),
    (64, 2304),
    (64, 3136),
    (1, 1024),
    pytest.param((1024, 3136), marks=pytest.mark.slow),
]


def by_numpy_partition(scores: Tensor, k: int) -> Tensor:
    top = np.partition(scores.numpy(), scores.shape[1] - k, axis=1)[:, -k:]
    return torch.from_numpy(top.mean(axis=1))


IMPLEMENTATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "robustad": topk_mean,
    "torch topk": topk_mean_torch,
    "torch sort": lambda scores, k: scores.sort(dim=1, descending=True).values[:, :k].mean(dim=1),
    "numpy partition": by_numpy_partition,
}


@pytest.fixture(params=SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def scores(request: pytest.FixtureRequest) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(request.param, generator=generator).exp() * 0.2


def note(benchmark: Any, scores: Tensor, k: int) -> None:
    benchmark.extra_info.update(
        items=scores.shape[0],
        bytes=scores.numel() * scores.element_size(),
        k=k,
        device=str(scores.device),
        dtype=str(scores.dtype).removeprefix("torch."),
    )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_topk_mean(benchmark: Any, impl: str, scores: Tensor) -> None:
    k = resolve_k(FRACTION, scores.shape[1])
    benchmark.group = f"topk_mean, {scores.shape[0]} x {scores.shape[1]}, k = {k}"
    means = benchmark(IMPLEMENTATIONS[impl], scores, k)
    expected = scores.double().sort(dim=1, descending=True).values[:, :k].mean(dim=1)
    torch.testing.assert_close(means.double(), expected, rtol=1e-6, atol=0)
    note(benchmark, scores, k)


@pytest.mark.parametrize("impl", ["robustad", "torch topk", "torch sort"])
def test_topk_mean_with_gradient(benchmark: Any, impl: str, scores: Tensor) -> None:
    k = resolve_k(FRACTION, scores.shape[1])
    benchmark.group = f"topk_mean and gradient, {scores.shape[0]} x {scores.shape[1]}, k = {k}"
    scores.requires_grad_()

    def step() -> Tensor:
        (gradient,) = torch.autograd.grad(IMPLEMENTATIONS[impl](scores, k).sum(), scores)
        return gradient

    gradient = benchmark(step)
    top = scores.detach().topk(k, dim=1).indices
    expected = torch.zeros_like(gradient).scatter_(1, top, 1 / k)
    torch.testing.assert_close(gradient, expected)
    note(benchmark, scores, k)
