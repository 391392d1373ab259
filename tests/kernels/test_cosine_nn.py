"""The Triton search against float64, in the interpreter or on a GPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from robustad.kernels import cosine_nn as kernels
from robustad.kernels import cosine_nn_coarse as coarse_pass
from robustad.kernels import cosine_nn_dense as dense_pass

CUDA = torch.cuda.is_available()
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(CUDA, reason="compiled here, not interpreted")),
    pytest.param("cuda", marks=pytest.mark.skipif(not CUDA, reason="needs a CUDA device")),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.float(), dim=1, eps=1e-12).contiguous()


def random(rows: int, dim: int, seed: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def vectors(kind: str, queries: int, bank: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Queries and a bank of unit vectors that are hard to tell apart in one way or another."""
    q, b = random(queries, dim, seed), random(bank, dim, seed + 1)
    if kind == "near-duplicates":  # closer than float16 can tell
        b = random(1, dim, seed + 2) + 3e-5 * b
        q = b[torch.arange(queries) % bank] + 1e-5 * q
    elif kind == "clusters":
        centres = random(3, dim, seed + 2)
        b = centres[torch.arange(bank) % 3] + 1e-3 * b
        q = centres[torch.arange(queries) % 3] + 1e-3 * q
    elif kind == "opposite":  # all similarities negative
        b = b.abs()
        q = -q.abs()
    elif kind == "one entry":  # the rest rounds to subnormal float16
        b[:, 1:] *= 1e-6
    return unit(q), unit(b)


def search(queries: Tensor, bank: Tensor, k: int, device: str) -> Tensor:
    queries, bank = queries.to(device), bank.to(device)
    distances, nearest = kernels.search(queries, bank, *kernels.pack(bank), k)
    exact = queries.double() @ bank.double().T
    torch.testing.assert_close(
        distances.double(), 1 - exact.gather(1, nearest), rtol=0, atol=1e-6, equal_nan=True
    )
    return nearest.cpu()


def check(nearest: Tensor, queries: Tensor, bank: Tensor, k: int) -> None:
    exact = queries.double() @ bank.double().T
    best = exact.topk(k, dim=1).values
    assert nearest.shape == (len(queries), k)
    assert nearest.dtype == torch.int64
    assert int(nearest.min()) >= 0
    assert int(nearest.max()) < len(bank)
    assert all(len(set(row)) == k for row in nearest.tolist())
    # The same rows, ties within 1e-6 apart, and in order.
    torch.testing.assert_close(exact.gather(1, nearest), best, rtol=0, atol=1e-6)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_shape(device: str, data: st.DataObject) -> None:
    queries = data.draw(st.integers(1, 4), "queries")
    bank = data.draw(st.integers(1, 400), "bank")
    dim = data.draw(st.integers(1, 130), "dim")
    k = data.draw(st.integers(1, min(16, bank)), "k")
    kinds = ["random", "near-duplicates", "clusters", "opposite", "one entry"]
    kind = data.draw(st.sampled_from(kinds), "kind")
    q, b = vectors(kind, queries, bank, dim, data.draw(st.integers(0, 99), "seed"))
    check(search(q, b, k, device), q, b, k)


@pytest.mark.parametrize(
    ("queries", "bank", "dim", "k"),
    [(1, 1, 1, 1), (3, 129, 1, 1), (2, 257, 37, 16), (2, 300, 384, 1), (1, 140, 1536, 3)],
)
def test_awkward_shapes(device: str, queries: int, bank: int, dim: int, k: int) -> None:
    q, b = vectors("random", queries, bank, dim, 0)
    check(search(q, b, k, device), q, b, k)


@pytest.mark.parametrize("kind", ["near-duplicates", "clusters", "opposite", "one entry"])
def test_rows_alike(device: str, kind: str) -> None:
    q, b = vectors(kind, 2, 270, 37, 5)
    check(search(q, b, 3, device), q, b, 3)


@pytest.mark.parametrize("limit", [0, 10**6])
@pytest.mark.parametrize("k", [1, 3, 16])
def test_of_equal_rows_the_first(
    device: str, k: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_pass, "limit", lambda groups: limit)
    q, b = unit(random(1, 5, 0)), unit(random(1, 5, 1)).repeat(150, 1)
    assert search(q, b, k, device).tolist() == [list(range(k))]


@pytest.mark.parametrize("kind", ["random", "clusters"])
@pytest.mark.parametrize("k", [1, 5])
def test_queries_with_too_many_candidates(
    device: str, kind: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_pass, "limit", lambda groups: 0)  # any candidate is one too many
    q, b = vectors(kind, 3, 150, 37, 2)
    q[1] = 0.0
    nearest = search(q, b, k, device)
    check(nearest[[0, 2]], q[[0, 2]], b, k)
    assert nearest[1].tolist() == list(range(k))


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_queries_without_a_direction(device: str, value: float) -> None:
    q, b = vectors("random", 3, 140, 20, 3)
    q[1] = 0.0
    q[1, 4] = value
    q, b = q.to(device), b.to(device)
    nearest = kernels.search(q, b, *kernels.pack(b), 2)[1].cpu()
    q, b = q.cpu(), b.cpu()
    assert nearest[1].tolist() == [0, 1]
    check(nearest[[0, 2]], q[[0, 2]], b, 2)


@pytest.mark.parametrize("length", [1e-44, 1e-30, 1e-10, 1e10, 1e30, 1e38])
def test_queries_of_any_length(device: str, length: float) -> None:
    q, b = vectors("random", 2, 40, 300, 3)
    largest = q.abs().amax(dim=1, keepdim=True)
    scaled = (q / largest * length).to(device)
    exact = unit_double(scaled.cpu()) @ b.double().T  # short ones have few bits left
    distances, nearest = kernels.search(scaled, b.to(device), *kernels.pack(b.to(device)), 2)
    best = exact.topk(2, dim=1)
    assert nearest.tolist() == best.indices.tolist()
    torch.testing.assert_close(distances.cpu().double(), 1 - best.values, rtol=0, atol=1e-6)


def unit_double(rows: Tensor) -> Tensor:
    return F.normalize(rows.double(), dim=1, eps=0.0)


def test_distances_without_a_direction(device: str) -> None:
    q, b = vectors("random", 3, 40, 20, 3)
    q[0], q[1, 4] = 0.0, torch.nan
    distances, _ = kernels.search(q.to(device), b.to(device), *kernels.pack(b.to(device)), 2)
    assert distances[0].tolist() == [1.0, 1.0]
    assert bool(distances[1].isnan().all())
    assert bool(distances[2].isfinite().all())


def test_zero_rows_in_the_bank(device: str) -> None:
    q, b = vectors("opposite", 2, 20, 6, 0)
    b[[4, 7]] = 0.0  # nearer than all that point away
    nearest = search(q, b, 3, device)
    assert nearest[:, :2].tolist() == [[4, 7]] * 2
    check(nearest, q, b, 3)


def test_a_bank_of_zeros(device: str) -> None:
    q, b = unit(random(2, 6, 0)), torch.zeros(20, 6)
    assert search(q, b, 2, device).tolist() == [[0, 1]] * 2


def test_queries_in_blocks(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "BUFFER", 1)
    monkeypatch.setattr(kernels, "TILE_QUERIES", 2)
    q, b = vectors("random", 5, 40, 16, 4)
    check(search(q, b, 2, device), q, b, 2)


@pytest.mark.parametrize("kind", ["random", "near-duplicates", "clusters", "one entry"])
def test_maxima_are_within_half_the_margin(device: str, kind: str) -> None:
    q, b = (one.to(device) for one in vectors(kind, 3, 200, 37, 6))
    coarse, side = kernels.pack(b)
    width, groups = coarse.shape[1], coarse.shape[0] // 16
    bias, centre, error = side[:256], side[256 : 256 + width], side[256 + width :]
    rounded = coarse.new_empty(3, width)
    margins, count = torch.zeros(2, 3, dtype=torch.int32, device=device)
    coarse_pass.round_queries[(3,)](
        q, centre, error, torch.empty_like(q), rounded, margins, count, 37, width, BLOCK=64
    )
    maxima = torch.zeros(3, groups, dtype=torch.int16, device=device)
    kernels._group_maxima(rounded, coarse, bias, maxima)
    centred = b.double() - centre[:37].double()
    similarity = q.double() @ centred.T / centred.norm(dim=1).max()
    for block in range(2):
        for group in range(8):
            rows = [r for r in range(block * 128 + group, block * 128 + 128, 8) if r < 200]
            exact = 32767 * similarity[:, rows].amax(dim=1)
            off = (maxima[:, block * 8 + group].double() - exact).abs()
            assert (off <= margins / 2).all()
            # and the bound is not so wide that everything would be searched
            assert (off >= margins / 2000).any() or kind != "random"


def test_the_packed_bank(device: str) -> None:
    b = unit(random(130, 70, 0)).to(device)
    coarse, side = kernels.pack(b)
    assert (coarse.shape, side.shape) == kernels.packed_shapes(130, 70)
    assert coarse.shape == (256, 128)
    assert (coarse.dtype, side.dtype) == (torch.float16, torch.float32)
    assert not coarse[:, 70:].any()
    # Rows 130 and 131 are in groups 2 and 3 of the second block, which have no row; those after
    # 136 repeat rows 128 and 129.
    assert torch.equal(coarse[136], coarse[128])
    assert torch.equal(coarse[137], coarse[129])
    assert 0 < float(side[-1]) < 2.0**-11


def large(rows: int, seed: int, device: str) -> Tensor:
    return unit(random(rows, 384, seed)).to(device)


@pytest.mark.parametrize(("queries", "bank", "k"), [(1, 16384, 1), (1024, 5000, 1), (300, 9001, 8)])
def test_large(device: str, queries: int, bank: int, k: int, request: Any) -> None:
    if device == "cpu":
        pytest.skip("too large for the interpreter")
    q, b = large(queries, 0, device), large(bank, 1, device)
    q[: queries // 2] = b[: queries // 2]
    check(search(q, b, k, device), q.cpu(), b.cpu(), k)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3])
def test_large_bank_of_like_rows(device: str, spread: float) -> None:
    if device == "cpu":
        pytest.skip("too large for the interpreter")
    b = unit(large(1, 0, device) + spread * large(20000, 1, device))
    q = unit(large(1, 0, device) + spread * large(200, 2, device))
    check(search(q, b, 4, device), q.cpu(), b.cpu(), 4)
