"""Nearest bank vector of each query on an NVIDIA GPU, against torch's matrix product and maximum.

Only "torch bf16" is not exact: it is what a user who wants speed would write. "coarse pass" is the
part of ours that runs on the matrix unit, by itself; its share of the GPU's peak is what counts.
Banks are packed, and rounded for torch, outside the timing.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from patch_features import DIM, made
from torch import Tensor

BLOCK = 4096
Search = Callable[[Tensor], Tensor]  # indices (Q,)
CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)
SHAPES = [(1, 16384), (1024, 1024), (1024, 16384), (8192, 16384), (8192, 131072)]


def by_operator(bank: Tensor) -> Search:
    from robustad.ops import cosine_nn, pack_bank

    packed = pack_bank(bank)
    return lambda queries: cosine_nn(queries, packed)[1][:, 0]


def by_kernels(bank: Tensor) -> Search:
    from robustad.kernels import cosine_nn as kernels

    packed = kernels.pack(bank)
    return lambda queries: kernels.search(queries, bank, *packed, 1)[1][:, 0]


def coarse_pass(bank: Tensor) -> Search:
    from robustad.kernels import cosine_nn as kernels

    coarse, side = kernels.pack(bank)
    rounded: dict[int, tuple[Tensor, Tensor]] = {}

    def search(queries: Tensor) -> Tensor:
        if len(queries) not in rounded:  # in the warm-up
            maxima = queries.new_empty(len(queries), len(coarse) // 16, dtype=torch.int16)
            rounded[len(queries)] = queries.half(), maxima
        halves, maxima = rounded[len(queries)]
        kernels._group_maxima(halves, coarse, side, maxima)
        return maxima

    return search


def torch_whole(bank: Tensor) -> Search:
    return lambda queries: (queries @ bank.T).max(dim=1).indices


def torch_bf16(bank: Tensor) -> Search:
    half = bank.bfloat16()
    return lambda queries: (queries.bfloat16() @ half.T).max(dim=1).indices


def torch_blocked(bank: Tensor) -> Search:
    def search(queries: Tensor) -> Tensor:
        best = queries.new_full((len(queries),), -torch.inf)
        indices = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        for start in range(0, len(bank), BLOCK):
            similarity, at = (queries @ bank[start : start + BLOCK].T).max(dim=1)
            better = similarity > best
            best = torch.where(better, similarity, best)
            indices = torch.where(better, at + start, indices)
        return indices

    return search


IMPLEMENTATIONS: dict[str, Callable[[Tensor], Search]] = {
    "robustad": by_operator,
    "robustad kernels": by_kernels,
    "coarse pass": coarse_pass,
    "torch whole": torch_whole,
    "torch blocked": torch_blocked,
    "torch bf16": torch_bf16,
}
EXACT = ("robustad", "robustad kernels", "torch whole", "torch blocked")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}x{DIM}")
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("device", [CUDA])
def test_cosine_nn(benchmark: Any, device: str, impl: str, shape: tuple[int, int]) -> None:
    rows, size = shape
    benchmark.group = f"cosine_nn on a GPU, {rows} x {size} x {DIM}"
    queries, bank = (F.normalize(made(n, seed)).to(device) for seed, n in enumerate(shape))
    search = IMPLEMENTATIONS[impl](bank)

    def timed() -> Tensor:
        found = search(queries)
        torch.cuda.synchronize()
        return found

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    timed()
    memory = torch.cuda.max_memory_allocated() - before
    indices = benchmark.pedantic(timed, rounds=20, warmup_rounds=3)
    info = {}
    if impl in EXACT:
        part = slice(0, 512)
        exact = queries[part].double() @ bank.double().T
        nearest = exact.max(dim=1).values
        lost = nearest - exact.gather(1, indices[part, None])[:, 0]
        assert float(lost.max()) <= 1e-6
        info["same_index"] = float((indices[part] == exact.argmax(dim=1)).double().mean())
    benchmark.extra_info.update(
        items=rows,
        flops=2 * rows * size * DIM,
        bytes=4 * DIM * (rows + size),
        device=device,
        dtype={"torch bf16": "bfloat16", "coarse pass": "float16"}.get(impl, "float32"),
        extra_memory=memory,
        **info,
    )
