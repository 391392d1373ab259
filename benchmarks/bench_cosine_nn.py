"""Nearest bank vector of each query by cosine distance, against faiss, scikit-learn and torch.

Whatever can be prepared once for a bank (its norms, an index) is prepared outside the timing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.ops import PackedBank, cosine_nn, pack_bank

DIM = 384
BLOCK = 4096
Search = Callable[[Tensor], tuple[Tensor, Tensor]]
# Queries, bank rows: one image of 448 pixels against 4 and 16 shots; 8 images against 16 shots.
SHAPES = [
    (1024, 4096),
    pytest.param((1024, 16384), marks=pytest.mark.slow),
    pytest.param((8192, 16384), marks=pytest.mark.slow),
]


def features(rows: int, seed: int) -> Tensor:
    """Vectors of a low inner dimension, as patch features are, and some noise."""
    basis = torch.randn(24, DIM, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, 24, generator=generator)
    return latent @ basis + 0.3 * torch.randn(rows, DIM, generator=generator)


def torch_whole(unit_bank: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    similarity, indices = (F.normalize(queries) @ unit_bank.T).max(dim=1)
    return 1 - similarity, indices


def torch_blocked(unit_bank: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    queries = F.normalize(queries)
    best = queries.new_full((len(queries),), -torch.inf)
    indices = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(unit_bank), BLOCK):
        similarity, at = (queries @ unit_bank[start : start + BLOCK].T).max(dim=1)
        better = similarity > best
        best = torch.where(better, similarity, best)
        indices = torch.where(better, at + start, indices)
    return 1 - best, indices


def by_robustad(bank: Tensor, precision: Any) -> Search:
    packed: PackedBank = pack_bank(bank)

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        distances, indices = cosine_nn(queries, packed, precision=precision)
        return distances[:, 0], indices[:, 0]

    return search


def by_faiss(bank: Tensor) -> Search:
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(F.normalize(bank).numpy())

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        similarity, indices = index.search(F.normalize(queries).numpy(), 1)
        return 1 - torch.from_numpy(similarity[:, 0]), torch.from_numpy(indices[:, 0])

    return search


def by_scikit_learn(bank: Tensor) -> Search:
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute")
    neighbours.fit(bank.numpy())

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        distances, indices = neighbours.kneighbors(queries.numpy())
        return torch.from_numpy(distances[:, 0]), torch.from_numpy(indices[:, 0])

    return search


IMPLEMENTATIONS: dict[str, Callable[[Tensor], Search]] = {
    "robustad fp32": lambda bank: by_robustad(bank, "fp32"),
    "robustad bf16": lambda bank: by_robustad(bank, "bf16"),
    "torch whole": lambda bank: partial(torch_whole, F.normalize(bank)),
    "torch blocked": lambda bank: partial(torch_blocked, F.normalize(bank)),
    "faiss IndexFlatIP": by_faiss,
    "scikit-learn": by_scikit_learn,
}


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}x{DIM}")
def vectors(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, bank, and all distances in float64."""
    queries, bank = features(request.param[0], 0), features(request.param[1], 1)
    exact = 1 - F.normalize(queries.double()) @ F.normalize(bank.double()).T
    return queries, bank, exact


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_cosine_nn(benchmark: Any, impl: str, vectors: tuple[Tensor, Tensor, Tensor]) -> None:
    queries, bank, exact = vectors
    rows, size = exact.shape
    benchmark.group = f"cosine_nn, {rows} x {size} x {DIM}"
    search = IMPLEMENTATIONS[impl](bank)
    distances, indices = benchmark.pedantic(search, (queries,), rounds=5, warmup_rounds=1)
    nearest = exact.min(dim=1).values
    assert (distances - nearest).abs().max() <= 2e-6
    assert (exact.gather(1, indices[:, None])[:, 0] - nearest).max() <= 1e-6  # ties apart
    benchmark.extra_info.update(
        items=rows,
        flops=2 * rows * size * DIM,
        bytes=4 * DIM * (rows + size),
        device="cpu",
        dtype="float32",
        same_index=float((indices == exact.argmin(dim=1)).double().mean()),
        largest_error=float((distances - nearest).abs().max()),
    )
