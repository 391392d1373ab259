import importlib
import os
from unittest import mock

import faiss
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from robustad import _C
from robustad.errors import InputError
from robustad.ops import PackedBank, cosine_nn, pack_bank
from robustad.ops.reference.cosine_nn import cosine_nn_torch, unit_vectors

reference = importlib.import_module("robustad.ops.reference.cosine_nn")
PATHS = [*_C.cosine_nn_paths(), "torch"]
NAN, INF = float("nan"), float("inf")


def vectors(rows, dim, seed=0, scale=1.0):
    return scale * torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def unit64(rows):
    rows = rows.double()
    return rows / rows.norm(dim=1, keepdim=True).where(rows.any(dim=1, keepdim=True), 1)


def nearest_on(path, queries, bank, k=1):
    """`cosine_nn` by one instruction set, or by the torch twin."""
    if path == "torch":
        return cosine_nn_torch(queries, unit_vectors(bank), k)
    with mock.patch.dict(os.environ, ROBUSTAD_COSINE_NN=path):
        return cosine_nn(queries, bank, k)


def check(queries, bank, k=1, path=PATHS[0]):
    """Against all distances in float64: the k smallest, each at the row it is said to be."""
    distances, indices = nearest_on(path, queries, bank, k)
    assert (distances.dtype, indices.dtype) == (torch.float32, torch.int64)
    assert distances.shape == indices.shape == (len(queries), k)
    exact = 1 - unit64(queries) @ unit64(bank).T
    nearest = exact.sort(dim=1).values[:, :k]
    assert (distances - nearest).abs().max() <= 2e-6
    assert (exact.gather(1, indices) - nearest).abs().max() <= 1e-6
    assert (distances[:, 1:] >= distances[:, :-1]).all()
    assert all(len(set(row)) == k for row in indices.tolist())
    assert distances.min() >= 0
    assert distances.max() <= 2
    return distances, indices


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(reference, "BLOCK", 7)


# Against others


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [1, 2, 5, 16])
@pytest.mark.parametrize("dim", [1, 37, 384])
def test_small_banks(dim, k, path):
    check(vectors(50, dim), vectors(40, dim, seed=1), k, path)
    check(vectors(50, dim), vectors(k, dim, seed=1), k, path)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [1, 3, 16])
@pytest.mark.parametrize("rows", [16, 20, 21, 22, 90])
def test_many_blocks(rows, k, path):
    check(vectors(30, 8), vectors(rows, 8, seed=1), k, path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [1, 4])
def test_a_bank_of_more_than_a_block(k, path):
    check(vectors(40, 24), vectors(reference.BLOCK * 2 + 11, 24, seed=1), k, path)


@pytest.mark.parametrize("k", [1, 6])
def test_agreement_with_faiss_and_scikit_learn(k):
    queries, bank = vectors(200, 64, scale=3.0), vectors(5000, 64, seed=1, scale=0.2)
    distances, indices = check(queries, bank, k)
    index = faiss.IndexFlatIP(64)
    index.add(F.normalize(bank).numpy())
    similarity, rows = index.search(F.normalize(queries).numpy(), k)
    neighbours = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    theirs, columns = neighbours.fit(bank.double().numpy()).kneighbors(queries.double().numpy())
    for other, at in ((1 - similarity, rows), (theirs, columns)):
        np.testing.assert_allclose(distances, other, rtol=0, atol=2e-6)
        apart = np.abs(np.diff(theirs, axis=1)) > 1e-6  # neighbours in a tie may swap
        settled = np.pad(apart, ((0, 0), (1, 0)), constant_values=True)
        settled &= np.pad(apart, ((0, 0), (0, 1)), constant_values=True)
        assert settled.mean() > 0.9
        np.testing.assert_array_equal(indices.numpy()[settled], at[settled])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype):
    queries, bank = vectors(20, 16).to(dtype), vectors(30, 16, seed=1).to(dtype)
    check(queries, bank, 3)
    check(queries, bank.float(), 3)


def test_memory_layouts():
    queries, bank = vectors(16, 20), vectors(16, 30, seed=1)
    check(queries.t(), bank.t(), 2)
    check(queries[::2], bank[::3, :20], 2)


# Norms


def test_norms_do_not_count():
    queries, bank = vectors(20, 16), vectors(30, 16, seed=1)
    expected = cosine_nn(queries, bank, 3)
    for scale in (1e-10, 1e-3, 1e6, 1e10):
        distances, indices = cosine_nn(queries * scale, bank / scale, 3)
        torch.testing.assert_close(distances, expected[0], rtol=0, atol=2e-6)
        assert torch.equal(indices, expected[1])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [1, 2])
def test_zero_vectors_have_distance_one(k, path):
    bank = torch.eye(3)
    distances, _ = nearest_on(path, torch.zeros(2, 3), bank, k)
    assert (distances == 1).all()
    bank = torch.cat([-torch.eye(3), torch.zeros(1, 3)])
    distances, indices = cosine_nn(torch.tensor([[1.0, 0.0, 0.0]]), bank[[0, 3]], k)
    assert distances[0].tolist() == [1.0, 2.0][:k]
    assert indices[0].tolist() == [1, 0][:k]


@pytest.mark.parametrize("path", PATHS)
def test_parallel_and_opposite(path):
    bank = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    distances, indices = nearest_on(path, torch.tensor([[6.0, 8.0]]), bank, 2)
    assert distances.tolist() == [[0.0, 2.0]]
    assert indices.tolist() == [[0, 1]]


# Ties and special values


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [1, 5, 16])
def test_a_bank_of_equal_rows(k, path, small_blocks):
    check(vectors(9, 12), vectors(1, 12, seed=1).repeat(50, 1), k, path)


@pytest.mark.parametrize("path", PATHS)
def test_duplicates(path, small_blocks):
    bank = vectors(10, 12).repeat(4, 1)
    distances, indices = check(vectors(10, 12), bank, 4, path)
    assert distances.max() <= 1e-6
    assert (indices % 10 == torch.arange(10)[:, None]).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_query_that_is_not_finite(value, k, path, small_blocks):
    queries, bank = vectors(6, 12), vectors(40, 12, seed=1)
    expected = cosine_nn(queries, bank, k)
    queries[2, 5] = value
    distances, indices = nearest_on(path, queries, bank, k)
    assert distances[2].isnan().all()
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(distances[others], expected[0][others], rtol=0, atol=2e-6)
    assert torch.equal(indices[others], expected[1][others])
    assert ((indices >= 0) & (indices < 40)).all()


# The coarse pass


def rounded_against(decoys, place, low, high, lack):
    """A query and a bank whose factors round down for the best row and up for the decoys.

    All share 62 components `low` (of the query and the best row) or `high` (of the decoys); the
    rest makes the best row better by `lack` times a component of the query.
    """
    query = torch.zeros(66, dtype=torch.float64)
    query[:62] = low
    query[62] = (1 - query.square().sum()).sqrt()
    row = torch.zeros(66, dtype=torch.float64)
    row[:62] = high
    row[62] = query[62] - lack
    bank = row.repeat(decoys + 1, 1)
    bank[place, :62], bank[place, 62] = low, query[62]
    bank[:, 63] = (1 - bank.square().sum(dim=1)).clamp(min=0).sqrt()
    return query[None].float(), bank.float()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", [0, 1, 50, 99, 100])
def test_the_coarse_pass_is_not_fooled_by_16_bit_integers(place, path):
    one = 32767
    queries, bank = rounded_against(100, place, 4146.495 / one, 4146.505 / one, 0.002)
    coarse = (queries.double() * one).round() @ (bank.double() * one).round().T
    assert coarse[0, place] < coarse.max()
    _, indices = check(queries, bank, 1, path)
    assert indices.item() == place


@pytest.mark.parametrize("path", _C.cosine_nn_paths())
def test_float32_sums_do_not_swap_rows(path):
    # 15 sums start at 2^-4; what is added to them is lost from one row and doubled in the other
    query, near, far = torch.zeros(3, 300, dtype=torch.float64)
    for row, share in ((query, 1.0), (near, 0.98), (far, 1.02)):
        row[:15] = 0.25
        row[15] = 0.1
        row[16:256] = 2**-14 * share
        row[16:256].view(15, 16)[:, 15] = 0
    far[15] -= 1.6e-5
    for place, row in enumerate((query, near, far)):
        row[280 + place] = (1 - row.square().sum()).sqrt()
    queries, bank = query[None].float(), torch.stack([far, near]).float()
    with mock.patch.dict(os.environ, ROBUSTAD_COSINE_NN=path):
        distances, indices = cosine_nn(queries, PackedBank.of_unit(bank))
    assert indices.item() == 1
    assert abs(distances.item() - (1 - queries.double() @ bank[1].double()).item()) <= 1e-6


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", [0, 1, 50, 99, 100])
def test_the_coarse_pass_is_not_fooled_by_bfloat16(place, path):
    tie = (1 + 2**-8) / 8  # between two bfloat16
    queries, bank = rounded_against(100, place, tie - 2**-20, tie + 2**-20, 0.001)
    coarse = queries.bfloat16().double() @ bank.bfloat16().double().T
    assert coarse[0, place] < coarse.max()
    _, indices = check(queries, bank, 1, path)
    assert indices.item() == place


def few_directions(rows, dim, seed=0, noise=0.2):
    """Vectors that differ in eight directions and, a little, in all others."""
    basis, mean = vectors(8, dim, seed=100), vectors(1, dim, seed=101)
    return mean + vectors(rows, 8, seed=seed) @ basis + noise * vectors(rows, dim, seed=seed + 1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("noise", [0.0, 0.2, 2.0])
def test_a_large_bank_of_few_directions(noise, k, path):
    check(
        few_directions(70, 192, seed=5, noise=noise),
        few_directions(5000, 192, noise=noise),
        k,
        path,
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", [0, 17, 4999])
def test_a_neighbour_beside_the_directions_of_the_others(place, path):
    bank = few_directions(5000, 192)
    beside = vectors(1, 192, seed=7)
    queries = few_directions(8, 192, seed=9, noise=0.0) + 4 * beside
    bank[place] = 0.3 * queries[0] + 8 * beside[0]  # none but this has what the queries share
    _, indices = check(queries, bank, 1, path)
    assert (indices == place).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", [1, 2, 16])
@pytest.mark.parametrize("rows", [15, 16, 17, 31, 32, 33, 48, 63, 65, 8193, 8208])
def test_rows_that_fill_no_group(rows, k, path):
    # all similarities negative: a padded row of zeros would be the nearest
    bank = -vectors(rows, 20, seed=1).abs()
    check(vectors(13, 20).abs(), bank, min(k, rows), path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 11, 12, 13, 31, 32, 33, 100])
def test_any_number_of_queries(count, path):
    check(vectors(count, 40), vectors(150, 40, seed=1), 2, path)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_more_queries_than_group_maxima_fit(path):
    # 70000 rows: groups of 64; 32 MB hold 7300 queries and their maxima
    queries, bank = vectors(7700, 8), vectors(70000, 8, seed=1)
    distances, indices = nearest_on(path, queries, bank)
    at = torch.cat([torch.arange(20), torch.arange(7200, 7420), torch.arange(7680, 7700)])
    exact = 1 - unit64(queries[at]) @ unit64(bank).T
    nearest = exact.min(dim=1).values
    assert (distances[at, 0] - nearest).abs().max() <= 2e-6
    assert (exact.gather(1, indices[at])[:, 0] - nearest).max() <= 1e-6


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_the_result(threads):
    queries, bank = vectors(300, 48), vectors(3000, 48, seed=1)
    expected = cosine_nn(queries, bank, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = cosine_nn(queries, bank, 3)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(18, 120),
    dim=st.sampled_from([1, 2, 5, 32, 100]),
    k=st.integers(1, 16),
    spread=st.sampled_from([0.0, 1e-7, 1e-5, 1e-3, 4e-3, 1e-2, 0.1, 1.0]),
)
@example(seed=0, rows=40, dim=32, k=1, spread=0.0)
def test_near_duplicates_are_told_apart(seed, rows, dim, k, spread):
    centre = vectors(1, dim, seed)
    bank = centre + spread * vectors(rows, dim, seed + 1)
    queries = torch.cat([bank[:3], centre, centre + spread * vectors(6, dim, seed + 2)])
    for path in PATHS:
        check(queries, bank, k, path)


# Errors


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (torch.zeros(4), r"\(4,\) of torch.float32"),
        (torch.zeros(2, 3, 4), r"\(2, 3, 4\) of torch.float32"),
        (torch.zeros(0, 4), r"\(0, 4\) of torch.float32"),
        (torch.zeros(4, 0), r"\(4, 0\) of torch.float32"),
        (torch.zeros(2, 4, dtype=torch.int64), r"\(2, 4\) of torch.int64"),
        (torch.zeros(2, 4, dtype=torch.complex64), r"\(2, 4\) of torch.complex64"),
    ],
)
def test_rows_of_another_kind(value, got):
    other = vectors(5, 4)
    expected = rf"expected a floating-point tensor \(rows, D\), neither of them 0, got {got}$"
    with pytest.raises(InputError, match=f"^queries: {expected}"):
        cosine_nn(value, other)
    with pytest.raises(InputError, match=f"^bank: {expected}"):
        cosine_nn(other, value)
    with pytest.raises(InputError, match=f"^bank: {expected}"):
        pack_bank(value)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_bank_that_is_not_finite(value):
    # one such row would hide all others of its block
    bank = vectors(30, 4)
    bank[7, 2] = value
    with pytest.raises(InputError, match=r"^bank: expected finite values, got NaN or infinity$"):
        cosine_nn(vectors(5, 4), bank)
    with pytest.raises(InputError, match=r"^bank: expected finite values"):
        pack_bank(bank)


def test_other_errors():
    queries, bank = vectors(5, 4), vectors(30, 4)
    for k in (0, 31, -1, 2.0):
        with pytest.raises(InputError, match=rf"^k: expected 1..30 \(the bank's rows\), got {k}$"):
            cosine_nn(queries, bank, k)
    with pytest.raises(InputError, match=r"^queries and bank: expected the same D, got 4 and 5$"):
        cosine_nn(queries, vectors(3, 5))
    for wrong in (0.0, -1.0, NAN, INF):
        with pytest.raises(InputError, match=r"^temperature: expected a positive number, got"):
            cosine_nn(queries, bank, temperature=wrong)
    with pytest.raises(InputError, match=r"expected one device, got cpu and meta$"):
        cosine_nn(queries, PackedBank.of_unit(bank.to("meta")))


def test_a_path_this_processor_lacks(monkeypatch):
    monkeypatch.setenv("ROBUSTAD_COSINE_NN", "quantum")
    expected = r"^ROBUSTAD_COSINE_NN: expected one of \[.*'portable'\] on this processor, got 'quan"
    with pytest.raises(InputError, match=expected):
        cosine_nn(vectors(5, 4), vectors(30, 4))
