import importlib

import faiss
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from robustad.errors import InputError
from robustad.ops import PackedBank, cosine_nn, pack_bank

module = importlib.import_module(
    "robustad.ops.cosine_nn"
)  # the package's attribute is the function
PRECISIONS = ["fp32", "bf16"]
NAN, INF = float("nan"), float("inf")


def vectors(rows, dim, seed=0, scale=1.0):
    return scale * torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def unit64(rows):
    return F.normalize(rows.double(), dim=1, eps=1e-12)


def check(queries, bank, k=1, precision="fp32"):
    """Against all distances in float64: the k smallest, each at the row it is said to be."""
    distances, indices = cosine_nn(queries, bank, k, precision=precision)
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
    monkeypatch.setattr(module, "BLOCK", 7)


# Against others


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 2, 5, 16])
@pytest.mark.parametrize("dim", [1, 37, 384])
def test_small_banks(dim, k, precision):
    check(vectors(50, dim), vectors(40, dim, seed=1), k, precision)
    check(vectors(50, dim), vectors(k, dim, seed=1), k, precision)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 3, 16])
@pytest.mark.parametrize("rows", [16, 20, 21, 22, 90])
def test_many_blocks(rows, k, precision):
    check(vectors(30, 8), vectors(rows, 8, seed=1), k, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 4])
def test_a_bank_of_more_than_a_block(k, precision):
    check(vectors(40, 24), vectors(module.BLOCK * 2 + 11, 24, seed=1), k, precision)


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


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 2])
def test_zero_vectors_have_distance_one(k, precision):
    bank = torch.eye(3)
    distances, _ = cosine_nn(torch.zeros(2, 3), bank, k, precision=precision)
    assert (distances == 1).all()
    bank = torch.cat([-torch.eye(3), torch.zeros(1, 3)])
    distances, indices = cosine_nn(torch.tensor([[1.0, 0.0, 0.0]]), bank[[0, 3]], k)
    assert distances[0].tolist() == [1.0, 2.0][:k]
    assert indices[0].tolist() == [1, 0][:k]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_parallel_and_opposite(precision):
    bank = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    distances, indices = cosine_nn(torch.tensor([[6.0, 8.0]]), bank, 2, precision=precision)
    assert distances.tolist() == [[0.0, 2.0]]
    assert indices.tolist() == [[0, 1]]


# Ties and special values


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 5, 16])
def test_a_bank_of_equal_rows(k, precision, small_blocks):
    check(vectors(9, 12), vectors(1, 12, seed=1).repeat(50, 1), k, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_duplicates(precision, small_blocks):
    bank = vectors(10, 12).repeat(4, 1)
    distances, indices = check(vectors(10, 12), bank, 4, precision)
    assert distances.max() <= 1e-6
    assert (indices % 10 == torch.arange(10)[:, None]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_query_that_is_not_finite(value, k, precision, small_blocks):
    queries, bank = vectors(6, 12), vectors(40, 12, seed=1)
    expected = cosine_nn(queries, bank, k)
    queries[2, 5] = value
    distances, indices = cosine_nn(queries, bank, k, precision=precision)
    assert distances[2].isnan().all()
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(distances[others], expected[0][others], rtol=0, atol=2e-6)
    assert torch.equal(indices[others], expected[1][others])
    assert ((indices >= 0) & (indices < 40)).all()


# The coarse pass


def rounded_down(decoys, place, dim=66):
    """A query and a bank whose factors and products all round against the best row.

    Each row's score falls short in bf16 by 2.4 * 2^-8. All rows have the same coarse score; the
    row at `place` is the best by 2e-4.
    """
    low, high = 1 + 2**-8 - 2**-16, 1 + 2**-8 + 2**-16
    query = torch.full((dim,), low / 8, dtype=torch.float64)
    query[:8], query[62:] = high / 8, 0
    row = query.clone()
    row[:8] = -high / 8
    query[62] = (1 - query.square().sum()).sqrt()
    bank = row.repeat(decoys + 1, 1)
    bank[:, 62] = -0.0012
    bank[place, 62] = 0
    bank[:, 63] = (1 - bank.square().sum(dim=1)).sqrt()
    return query[None].float(), bank.float()


@pytest.mark.parametrize("place", [0, 1, 50, 99, 100])
def test_the_coarse_pass_is_not_fooled_by_its_own_rounding(place):
    queries, bank = rounded_down(100, place)
    coarse = queries.bfloat16() @ bank.bfloat16().T
    assert (coarse == coarse[0, 0]).all()
    _, indices = check(queries, bank, 1, "bf16")
    assert indices.item() == place


def bound(queries, bank):
    """What `_search_bf16` takes as the largest error of each query's coarse scores."""
    query_error = (queries - queries.bfloat16().float()).norm(dim=1, keepdim=True)
    bank_error = (bank - bank.bfloat16().float()).norm(dim=1)
    accumulation = bank.shape[1] * 2.0**-23
    return query_error + (1 + query_error) * bank_error + module.BF16_OUTPUT + accumulation


@pytest.mark.parametrize("dim", [1, 2, 37, 384, 1536])
def test_the_error_bound(dim):
    # mantissas next to a rounding tie, of both directions, beside ordinary ones
    mantissa = 1 + 2**-8 + 2**-16 * (2 * (vectors(60, dim, seed=3) > 0) - 1)
    for rows in (vectors(60, dim), mantissa * vectors(60, dim, seed=4).sign()):
        queries = F.normalize(rows)
        bank = F.normalize(torch.cat([rows.roll(1, 0), rows + 0.1 * vectors(60, dim, seed=5)]))
        coarse = (queries.bfloat16() @ bank.bfloat16().T).double()
        off = (coarse - queries.double() @ bank.double().T).abs()
        below = coarse.abs() < 1  # at 1 the output's rounding doubles, where nothing is better
        assert (off <= bound(queries, bank))[below].all()
    queries, bank = rounded_down(30, 7)
    coarse = (queries.bfloat16() @ bank.bfloat16().T).double()
    off = (coarse - queries.double() @ bank.double().T).abs()
    assert (off <= bound(queries, bank)).all()
    assert off.max() > 2.1 * 2.0**-8  # two roundings of factors alone are 2^-7


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(18, 120),
    dim=st.sampled_from([1, 2, 5, 32, 100]),
    k=st.integers(1, 16),
    spread=st.sampled_from([0.0, 1e-7, 1e-5, 1e-3, 4e-3, 1e-2, 0.1, 1.0]),
)
@example(seed=0, rows=40, dim=32, k=1, spread=0.0)
def test_near_duplicates_are_told_apart_in_bf16(seed, rows, dim, k, spread):
    centre = vectors(1, dim, seed)
    bank = centre + spread * vectors(rows, dim, seed + 1)
    queries = torch.cat([bank[:3], centre, centre + spread * vectors(6, dim, seed + 2)])
    _, coarse = check(queries, bank, k, "bf16")
    _, exact = check(queries, bank, k)
    similarity = unit64(queries) @ unit64(bank).T
    off = similarity.gather(1, coarse) - similarity.gather(1, exact)
    assert off.abs().max() <= 1e-6


def test_confident_queries_are_not_searched_twice(monkeypatch):
    searched = []
    search = module._search
    monkeypatch.setattr(
        module, "_search", lambda q, b, k: searched.append(len(q)) or search(q, b, k)
    )
    bank = vectors(500, 64, seed=1)
    cosine_nn(bank[:20] + 0.01 * vectors(20, 64), bank, precision="bf16")
    assert searched == []
    close = torch.cat([bank[:20], vectors(1, 64, seed=9) + 1e-4 * vectors(100, 64, seed=8)])
    check(torch.cat([bank[:20], close[-1:]]), close, 1, "bf16")
    assert searched[0] == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_autocast_does_not_blur_the_search(precision):
    queries, bank = vectors(50, 64), vectors(900, 64, seed=1)
    expected = cosine_nn(queries, bank, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distances, indices = cosine_nn(queries, bank, 4, precision=precision)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, expected[0], rtol=0, atol=1e-6)
    assert torch.equal(indices, expected[1])


# Gradients


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_gradients_are_those_of_the_dense_formula(k, packed, precision, small_blocks):
    queries, bank = vectors(8, 12), vectors(40, 12, seed=1)
    weight = vectors(8, k, seed=2)
    ours = queries.clone().requires_grad_(), bank.clone().requires_grad_()
    theirs = queries.clone().requires_grad_(), bank.clone().requires_grad_()
    chosen = pack_bank(ours[1]) if packed else ours[1]
    (cosine_nn(ours[0], chosen, k, precision=precision)[0] * weight).sum().backward()
    dense = 1 - F.cosine_similarity(theirs[0][:, None], theirs[1][None], dim=2)
    (dense.topk(k, largest=False).values * weight).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad.abs().max() > 0.1
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_gradients_stay_finite_at_the_ends():
    bank = torch.eye(3)
    queries = torch.cat([bank, -bank, torch.ones(1, 3)]).requires_grad_()
    cosine_nn(queries, bank[:1])[0].sum().backward()
    assert queries.grad.isfinite().all()
    # at its nearest row and at the opposite one the distance is stationary
    assert queries.grad[[0, 3]].abs().max() < 1e-6


def test_no_gradient_without_need():
    queries, bank = vectors(4, 6), vectors(9, 6, seed=1)
    assert not cosine_nn(queries, bank)[0].requires_grad
    with torch.no_grad():
        assert not cosine_nn(queries.requires_grad_(), bank)[0].requires_grad


# Packed banks


def test_a_packed_bank_gives_the_same():
    queries, bank = vectors(10, 12), vectors(30, 12, seed=1)
    packed = pack_bank(bank.double())
    assert packed.unit.dtype == torch.float32
    torch.testing.assert_close(packed.unit.norm(dim=1), torch.ones(30))
    for one, other in zip(cosine_nn(queries, packed, 3), cosine_nn(queries, bank, 3), strict=True):
        assert torch.equal(one, other)
    again = PackedBank(packed.unit.clone())
    assert torch.equal(cosine_nn(queries, again)[1], cosine_nn(queries, bank)[1])
    assert (pack_bank(torch.zeros(2, 3)).unit == 0).all()


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
    for k in (0, 31, -1):
        with pytest.raises(InputError, match=rf"^k: expected 1..30 \(the bank's rows\), got {k}$"):
            cosine_nn(queries, bank, k)
    with pytest.raises(InputError, match=r"^queries and bank: expected the same D, got 4 and 5$"):
        cosine_nn(queries, vectors(3, 5))
    with pytest.raises(InputError, match=r"^precision: expected 'fp32' or 'bf16', got 'fp16'$"):
        cosine_nn(queries, bank, precision="fp16")
    with pytest.raises(InputError, match=r"expected one device, got cpu and meta$"):
        cosine_nn(queries, PackedBank(bank.to("meta")))
