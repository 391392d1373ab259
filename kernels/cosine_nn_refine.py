"""Fine pass of the exact nearest neighbour: score the groups that may hold one of the k nearest.

The k-th largest group maximum bounds the k-th best coarse similarity from below, since k groups
hold k different rows. A group whose maximum lies more than the query's margin under it holds none
of the k nearest. The rows of all others are scored in float32. A query with very many of them is
put on a list for `cosine_nn_dense` instead. The host never waits for the GPU.
"""

# Kernels have no Python types: their arguments are described beside them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import triton
import triton.language as tl

from robustad.kernels.aot import Variant
from robustad.kernels.cosine_nn_coarse import BLOCK_ROWS, GROUPS, MEMBERS, NAN

ROWS = tl.constexpr(BLOCK_ROWS)
NONE = tl.constexpr(2**31 - 1)  # larger than any index
LOWEST = tl.constexpr(-(2**15))  # below all stored maxima, which start at -32767


@triton.jit
def load_maxima(maxima, start, groups, bank_count, CHUNK: tl.constexpr):
    """Maxima of groups start .. start + CHUNK; `LOWEST` for those without a single bank row."""
    at = start + tl.arange(0, CHUNK)
    held = (at < groups) & ((at // GROUPS) * ROWS + at % GROUPS < bank_count)
    return tl.load(maxima + at, mask=held, other=LOWEST).to(tl.int32)


@triton.jit
def kth_largest(maxima, groups, bank_count, k, CHUNK: tl.constexpr):
    """k-th largest group maximum, or `LOWEST` where there are fewer groups."""
    level = tl.full((), 32768, tl.int32)
    above = tl.full((), 0, tl.int32)
    while (above < k) & (level > LOWEST):
        largest = tl.full((CHUNK,), LOWEST, tl.int32)
        for start in range(0, groups, CHUNK):
            found = load_maxima(maxima, start, groups, bank_count, CHUNK)
            largest = tl.maximum(largest, tl.where(found < level, found, LOWEST))
        level = tl.max(largest, axis=0)
        if (k > 1) & (level > LOWEST):
            equal = tl.zeros((CHUNK,), tl.int32)
            for start in range(0, groups, CHUNK):
                found = load_maxima(maxima, start, groups, bank_count, CHUNK)
                equal += (found == level).to(tl.int32)
            above += tl.sum(equal, axis=0)
        else:
            above += 1
    return level


@triton.jit
def score_rows(query, bank, rows, held, dim, BLOCK_D: tl.constexpr):
    """Similarities of one query to MEMBERS bank rows, in float32."""
    total = tl.zeros((MEMBERS, BLOCK_D), tl.float32)
    sources = bank + rows.to(tl.int64)[:, None] * dim
    for start in range(0, dim, BLOCK_D):
        at = start + tl.arange(0, BLOCK_D)
        inside = at < dim
        part = tl.load(query + at, mask=inside, other=0.0)
        values = tl.load(sources + at[None, :], mask=held[:, None] & inside[None, :], other=0.0)
        total += values * part[None, :]
    return tl.sum(total, axis=1)


@triton.jit
def insert(scores, rows, best, best_rows):
    """Replace the worst of the best as long as one of the scored rows beats it."""
    going = True
    while going:
        score = tl.max(scores, axis=0)
        row = tl.min(tl.where(scores == score, rows, NONE), axis=0)
        worst = tl.min(best, axis=0)
        worst_row = tl.max(tl.where(best == worst, best_rows, -1), axis=0)
        going = (score > worst) | ((score == worst) & (row < worst_row))
        going &= score > float("-inf")  # rows past the end, and rows taken before
        if going:
            replaced = (best == worst) & (best_rows == worst_row)
            best = tl.where(replaced, score, best)
            best_rows = tl.where(replaced, row, best_rows)
            scores = tl.where(rows == row, float("-inf"), scores)
    return best, best_rows


@triton.jit
def store_best(nearest, distances, best, best_rows, slots, k):
    """Write rows and distances of the k best, best first, the lower of equals first."""
    best = tl.where(slots < k, best, float("-inf"))
    best_rows = tl.where(slots < k, best_rows, NONE)
    for rank in range(k):
        score = tl.max(best, axis=0)
        row = tl.min(tl.where(best == score, best_rows, NONE), axis=0)
        tl.store(nearest + rank, row.to(tl.int64))
        tl.store(distances + rank, tl.minimum(tl.maximum(1.0 - score, 0.0), 2.0))
        taken = best_rows == row
        best = tl.where(taken, float("-inf"), best)
        best_rows = tl.where(taken, NONE, best_rows)


@triton.jit
def nearest_rows(
    queries,  # (Q, D) float32, of length 1
    bank,  # (M, D) float32, of length 1 or 0
    maxima,  # (Q, groups) int16
    margins,  # (Q,) int32, negative: nothing to search
    nearest,  # (Q, k) int64, written: nearest first, the lower row of equals first
    distances,  # (Q, k) float32, written
    flooded,  # (Q,) int32, written: the queries with more than `limit` candidate groups
    flooded_count,  # (1,) int32
    bank_count,
    groups,
    dim,
    k,
    limit,
    SLOTS: tl.constexpr,  # a power of two, at least k
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One query a program: find its candidate groups, score them, keep the k best rows."""
    query_row = tl.program_id(0).to(tl.int64)
    query = queries + query_row * dim
    maxima += query_row * groups
    margin = tl.load(margins + query_row)

    slots = tl.arange(0, SLOTS)
    # Slots beyond k hold infinity, so that they are never the worst. A query of zeros is at
    # distance 1 from every row; the first k stay.
    best = tl.where(slots < k, 0.0, float("inf"))
    best_rows = slots
    if margin >= 0:
        best = tl.where(slots < k, float("-inf"), float("inf"))
        best_rows = tl.where(slots < k, NONE - 1 - slots, slots)
        floor = kth_largest(maxima, groups, bank_count, k, CHUNK) - margin
        floor = tl.maximum(floor, LOWEST + 1)
        if groups > limit:
            candidates = tl.zeros((CHUNK,), tl.int32)
            for start in range(0, groups, CHUNK):
                found = load_maxima(maxima, start, groups, bank_count, CHUNK)
                candidates += (found >= floor).to(tl.int32)
            if tl.sum(candidates, axis=0) > limit:
                tl.store(flooded + tl.atomic_add(flooded_count, 1), query_row.to(tl.int32))
                floor = tl.full((), NONE, tl.int32)
        for start in range(0, groups, CHUNK):
            at = start + tl.arange(0, CHUNK)
            found = load_maxima(maxima, start, groups, bank_count, CHUNK)
            group = tl.min(tl.where(found >= floor, at, NONE), axis=0)
            while group < NONE:
                first = (group // GROUPS) * ROWS + group % GROUPS
                rows = first + GROUPS * tl.arange(0, MEMBERS)
                held = rows < bank_count
                scores = score_rows(query, bank, rows, held, dim, BLOCK_D)
                scores = tl.where(held, scores, float("-inf"))
                best, best_rows = insert(scores, rows, best, best_rows)
                group = tl.min(tl.where((found >= floor) & (at > group), at, NONE), axis=0)

    to = query_row * k
    store_best(nearest + to, distances + to, best, best_rows, slots, k)
    if margin == NAN:
        tl.store(distances + to + slots, float("nan"), mask=slots < k)


def launch_values(groups: int, dim: int, k: int, warps: int) -> dict[str, int]:
    """Compile-time arguments of `nearest_rows`."""
    return {
        "SLOTS": max(2, triton.next_power_of_2(k)),
        # Maxima are read many at a time, because each read is waited for.
        "CHUNK": min(1024, max(64, triton.next_power_of_2(groups))),
        "BLOCK_D": min(64 if warps == 1 else 128, max(16, triton.next_power_of_2(dim))),
    }


def warps(query_count: int) -> int:
    """Warps a query: one has no barriers to wait at, but few queries don't fill the GPU with it."""
    return 1 if query_count > 512 else 4


def variants() -> list[Variant]:
    """List the variants to be compiled ahead of time."""
    signature = {
        "queries": "*fp32",
        "bank": "*fp32",
        "maxima": "*i16",
        "margins": "*i32",
        "nearest": "*i64",
        "distances": "*fp32",
        "flooded": "*i32",
        "flooded_count": "*i32",
        "bank_count": "i32",
        "groups": "i32",
        "dim": "i32",
        "k": "i32",
        "limit": "i32",
    }
    return [
        Variant(
            name=f"nearest_rows {groups} groups, D {dim}, k {k}, {count} warps",
            kernel=nearest_rows,
            signature=signature,
            constexprs=launch_values(groups, dim, k, count)
            | {n: 1 for n, v in (("k", k), ("dim", dim)) if v == 1},
            num_warps=count,
            aligned=("groups", "dim") if dim % 16 == 0 else ("groups",),
            local_limit=32,
        )
        for groups, dim, k, count in (
            (1024, 384, 1, 1),
            (1024, 384, 1, 4),
            (64, 384, 1, 4),
            (256, 384, 16, 1),
            (1024, 1536, 16, 4),
            (1024, 37, 1, 1),
            (64, 1, 1, 1),
        )
    ]
