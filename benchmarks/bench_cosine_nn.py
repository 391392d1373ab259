"""Nearest bank vector of each query by cosine distance, against faiss, scikit-learn and torch.

Whatever can be prepared once for a bank (its norms, an index) is prepared outside the timing.
Every instruction set that this processor has is timed beside the one that is taken by default.
"""

import ctypes
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import pytest
import torch
import torch.nn.functional as F
from patch_features import DIM, IMAGES, made, noise, of_images
from torch import Tensor

from robustad import _C
from robustad.ops import PackedBank, cosine_nn, pack_bank

BLOCK = 4096
CHECKED = 512  # queries compared with a float64 search
Search = Callable[[Tensor], tuple[Tensor, Tensor]]
Vectors = tuple[Tensor, Tensor, Tensor, str]
# Queries, bank rows: one image of 448 pixels against 1 and 16 shots; 8 images against 16 shots,
# and against 128 (or 16 shots with 8 rotations). Then noise, and real features: here the first
# number is that of images.
CASES = [
    (1024, 1024, ""),
    *(
        pytest.param(case, marks=pytest.mark.slow)
        for case in [
            *((queries, 16384, "") for queries in (1, 1024, 8192)),
            (8192, 131072, ""),
            (1024, 16384, "noise"),
            *((1, 12544, name) for name in IMAGES),
        ]
    ),
]


def made_or_taken(queries: int, size: int, of: str) -> tuple[Tensor, Tensor]:
    if of in IMAGES:
        return of_images(of, queries)
    make = noise if of else made
    return make(queries, 0), make(size, 1)


def torch_whole(unit_bank: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    similarity, indices = (F.normalize(queries) @ unit_bank.T).max(dim=1)
    return 1 - similarity, indices


def torch_blocked(unit_bank: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    return torch_blocked_of(unit_bank, F.normalize(queries))


def torch_blocked_of(unit_bank: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    best = torch.full((len(queries),), -torch.inf)
    indices = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(unit_bank), BLOCK):
        similarity, at = (queries @ unit_bank[start : start + BLOCK].T).max(dim=1)
        better = similarity.float() > best
        best = torch.where(better, similarity.float(), best)
        indices = torch.where(better, at + start, indices)
    return 1 - best, indices


def torch_bf16(unit_bank: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Not exact: what half the precision alone would give."""
    return torch_blocked_of(unit_bank, F.normalize(queries).bfloat16())


def by_robustad(bank: Tensor, path: str = "") -> Search:
    forced = partial(mock.patch.dict, os.environ, ROBUSTAD_COSINE_NN=path) if path else nullcontext
    with forced():
        packed: PackedBank = pack_bank(bank)

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        with forced():
            distances, indices = cosine_nn(queries, packed)
        return distances[:, 0], indices[:, 0]

    return search


def by_anomalib(bank: Tensor) -> Search:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel.__new__(PatchcoreModel)
    torch.nn.Module.__init__(model)
    model.memory_bank = F.normalize(bank)

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        distances, indices = model.nearest_neighbors(F.normalize(queries), n_neighbors=1)
        return distances.square() / 2, indices  # of unit vectors

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
    "robustad": by_robustad,
    **{f"robustad {path}": partial(by_robustad, path=path) for path in _C.cosine_nn_paths()},
    "faiss IndexFlatIP": by_faiss,
    "torch whole": lambda bank: partial(torch_whole, F.normalize(bank)),
    "torch blocked": lambda bank: partial(torch_blocked, F.normalize(bank)),
    "torch blocked bf16": lambda bank: partial(torch_bf16, F.normalize(bank).bfloat16()),
    "scikit-learn": by_scikit_learn,
    **({"anomalib": by_anomalib} if find_spec("anomalib") else {}),
}
# The largest error of a distance, and of the choice of a row.
TOLERANCE = {"torch blocked bf16": (2e-2, 2e-2), "anomalib": (1e-3, 1e-3)}
SMALL = 2**20  # up to here a search takes milliseconds
LARGE = 2**28  # a matrix of similarities of more entries than this is not formed


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "x".join(map(str, case)).rstrip("x"))
def vectors(request: pytest.FixtureRequest) -> Vectors:
    """Queries, bank, the distances of some queries in float64, and what the vectors are."""
    queries, bank = made_or_taken(*request.param)
    exact = 1 - F.normalize(queries[:CHECKED].double()) @ F.normalize(bank.double()).T
    return queries, bank, exact, request.param[-1]


def reset_peak_memory() -> int:
    """Start a new measurement of the most memory used, and return what is used now, in bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that is still held would hide what comes
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def status_bytes(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_cosine_nn(benchmark: Any, impl: str, vectors: Vectors) -> None:
    queries, bank, exact, of = vectors
    rows, size = len(queries), len(bank)
    if rows * size > LARGE and impl in ("torch whole", "anomalib", "scikit-learn"):
        pytest.skip(f"would form a matrix of {rows * size * 4 / 2**30:.0f} GiB")
    if rows * size > LARGE and impl == "robustad portable" and len(_C.cosine_nn_paths()) > 1:
        pytest.skip("takes minutes, and no such processor would be asked to")
    if impl.endswith("bf16") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bf16 products: torch would take a hundred times longer")
    benchmark.group = f"cosine_nn, {rows} x {size} x {DIM}" + (f", {of}" if of else "")
    search = IMPLEMENTATIONS[impl](bank)
    rounds = 3 if rows * size > LARGE else 7 if rows * size > SMALL else 50
    distances, indices = benchmark.pedantic(search, (queries,), rounds=rounds, warmup_rounds=1)
    # Afterwards: giving memory back to the system makes the next calls slower.
    extra = None
    if Path("/proc/self/clear_refs").exists():
        search(queries[:1])
        before = reset_peak_memory()
        search(queries)
        extra = max(0, status_bytes("VmHWM") - before)
    nearest = exact.min(dim=1).values
    of_distance, of_choice = TOLERANCE.get(impl, (2e-6, 1e-6))
    assert (distances[:CHECKED] - nearest).abs().max() <= of_distance
    assert (exact.gather(1, indices[:CHECKED, None])[:, 0] - nearest).max() <= of_choice
    benchmark.extra_info.update(
        items=rows,
        flops=2 * rows * size * DIM,
        bytes=4 * DIM * (rows + size),
        extra_memory=extra,
        device="cpu",
        dtype="float32",
        same_index=float((indices[:CHECKED] == exact.argmin(dim=1)).double().mean()),
        largest_error=float((distances[:CHECKED] - nearest).abs().max()),
    )
    if impl.startswith("robustad") and extra is not None:
        assert extra < 128e6
