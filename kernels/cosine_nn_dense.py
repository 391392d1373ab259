"""Last resort of the exact nearest neighbour, for queries whose candidates are most of the bank.

That happens where bank rows repeat or lie within rounding of each other, as patches of a uniform
background do. For the listed queries all similarities are computed in float32, a tile at a time,
and reduced to group maxima as in the coarse pass. These maxima are final: the k nearest rows lie in
the k groups with the largest ones, and no others are scored.
"""

# Kernels have no Python types: their arguments are described beside them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import triton
import triton.language as tl

from robustad.kernels.aot import Variant
from robustad.kernels.cosine_nn_coarse import BLOCK_ROWS, GROUPS, MEMBERS
from robustad.kernels.cosine_nn_refine import NONE, insert, launch_values, score_rows, store_best

ROWS = tl.constexpr(BLOCK_ROWS)


@triton.jit
def exact_maxima(
    queries,  # (Q, D) float32
    bank,  # (M, D) float32
    flooded,  # (Q,) int32, the listed queries
    flooded_count,  # (1,) int32, how many
    maxima,  # (Q, groups) float32, written: one row a listed query
    bank_count,
    groups,
    dim,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Group maxima of the listed queries in float32; programs share the tiles among them."""
    count = tl.load(flooded_count)
    tiles_n = tl.cdiv(bank_count, ROWS)
    tiles = tl.cdiv(count, BLOCK_M) * tiles_n
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        listed = (tile // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
        tile_n = tile % tiles_n
        rows = tl.load(flooded + listed, mask=listed < count, other=0).to(tl.int64)
        columns = tile_n * ROWS + tl.arange(0, ROWS)
        held = columns < bank_count
        query_at = queries + rows[:, None] * dim
        bank_at = bank + columns.to(tl.int64)[None, :] * dim
        similarity = tl.zeros((BLOCK_M, ROWS), tl.float32)
        for start in range(0, dim, BLOCK_K):
            at = start + tl.arange(0, BLOCK_K)
            inside = at < dim
            left = tl.load(query_at + at[None, :], mask=inside[None, :], other=0.0)
            right = tl.load(bank_at + at[:, None], mask=inside[:, None] & held[None, :], other=0.0)
            similarity = tl.dot(left, right, similarity, input_precision="ieee")
        similarity = tl.where(held[None, :], similarity, float("-inf"))
        largest = tl.max(tl.reshape(similarity, (BLOCK_M, MEMBERS, GROUPS)), axis=1)
        at = tile_n * GROUPS + tl.arange(0, GROUPS)
        to = maxima + listed.to(tl.int64)[:, None] * groups + at[None, :]
        tl.store(to, largest, mask=(listed < count)[:, None])


@triton.jit
def listed_nearest_rows(
    queries,  # (Q, D) float32
    bank,  # (M, D) float32
    flooded,  # (Q,) int32, the listed queries
    flooded_count,  # (1,) int32, how many
    maxima,  # (Q, groups) float32, of the listed queries
    nearest,  # (Q, k) int64, written for the listed queries
    distances,  # (Q, k) float32, likewise
    bank_count,
    groups,
    dim,
    k,
    SLOTS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Score the k groups with the largest maxima; of equal ones, the first."""
    count = tl.load(flooded_count)
    used = tl.cdiv(bank_count, ROWS) * GROUPS  # the groups that `exact_maxima` wrote
    slots = tl.arange(0, SLOTS)
    for listed in range(tl.program_id(0), count, tl.num_programs(0)):
        query_row = tl.load(flooded + listed).to(tl.int64)
        own = maxima + (tl.full((), 0, tl.int64) + listed) * groups
        best = tl.where(slots < k, float("-inf"), float("inf"))
        best_rows = tl.where(slots < k, NONE - 1 - slots, slots)
        level = tl.full((), float("inf"), tl.float32)
        group = tl.full((), -1, tl.int32)
        for _ in range(k):
            largest = tl.full((CHUNK,), float("-inf"), tl.float32)
            where = tl.full((CHUNK,), NONE, tl.int32)
            for start in range(0, used, CHUNK):
                at = start + tl.arange(0, CHUNK)
                found = tl.load(own + at, mask=at < used, other=float("-inf"))
                left = (found < level) | ((found == level) & (at > group))
                better = left & (found > largest)
                largest = tl.where(better, found, largest)
                where = tl.where(better, at, where)
            level = tl.max(largest, axis=0)
            group = tl.min(tl.where(largest == level, where, NONE), axis=0)
            if level > float("-inf"):
                first = (group // GROUPS) * ROWS + group % GROUPS
                rows = first + GROUPS * tl.arange(0, MEMBERS)
                held = rows < bank_count
                scores = score_rows(queries + query_row * dim, bank, rows, held, dim, BLOCK_D)
                scores = tl.where(held, scores, float("-inf"))
                best, best_rows = insert(scores, rows, best, best_rows)
        to = query_row * k
        store_best(nearest + to, distances + to, best, best_rows, slots, k)


def limit(groups: int) -> int:
    """Candidate groups of a query above which scoring the whole bank at once is less work."""
    return max(128, groups // 8)


def programs(multiprocessors: int) -> int:
    """Programs launched, however many queries are listed: mostly none are."""
    return 2 * multiprocessors


MAXIMA_VALUES = {"BLOCK_M": 64, "BLOCK_K": 16}
MAXIMA_WARPS = 8
LISTED_WARPS = 4


def variants() -> list[Variant]:
    """List the variants to be compiled ahead of time."""
    signature = {
        "queries": "*fp32",
        "bank": "*fp32",
        "flooded": "*i32",
        "flooded_count": "*i32",
        "maxima": "*fp32",
        "nearest": "*i64",
        "distances": "*fp32",
        "bank_count": "i32",
        "groups": "i32",
        "dim": "i32",
        "k": "i32",
    }
    found = []
    for dim in (384, 37):
        aligned = ("groups", "dim") if dim % 16 == 0 else ("groups",)
        name = f"exact_maxima D {dim}"
        found.append(
            Variant(name, exact_maxima, signature, MAXIMA_VALUES, MAXIMA_WARPS, 3, aligned=aligned)
        )
    for k in (1, 16):
        values = launch_values(1024, 384, k, LISTED_WARPS) | ({"k": 1} if k == 1 else {})
        found.append(
            Variant(
                name=f"listed_nearest_rows k {k}",
                kernel=listed_nearest_rows,
                signature=signature,
                constexprs=values,
                num_warps=LISTED_WARPS,
                aligned=("groups", "dim"),
                local_limit=32,
            )
        )
    return found
