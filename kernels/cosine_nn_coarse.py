"""Coarse pass of the exact nearest neighbour: half precision on the matrix unit, maxima of groups.

The bank is centred: with m its mean, q.b - q.m = (q - m).(b - m) + m.(b - m) ranks the rows of a
query as q.b does, and its factors are as short as the vectors are alike, so rounding costs less the
closer the bank lies together. The longest b - m, R, is the unit of length. Only the largest
similarity of each group of 16 bank rows is written, as a 16-bit integer in steps of R / 32767.

Why float16: entries are at most 1, where it is as fast as bfloat16 and rounds eight times finer.
On features of real images (ResNet-18, 25088 rows) 1.3 of 1568 groups are left to be scored exactly;
bfloat16 without centring leaves 22, and float8 945, which costs more than its speed saves.
"""

# Kernels have no Python types: their arguments are described beside them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from dataclasses import replace
from typing import Any

import triton
import triton.language as tl

from robustad.kernels.aot import Variant

# Bank rows lie in blocks of 128. Row r of a block belongs to its group r % 8, not r // 16: then the
# 16 members are held by one thread of Hopper's matrix unit, and no thread asks another for values.
BLOCK_ROWS = 128
GROUPS = tl.constexpr(8)  # a block
MEMBERS = tl.constexpr(16)  # a group
STEPS = tl.constexpr(32767.0)  # of the stored maxima, from similarity 0 to R
ZERO, NAN = tl.constexpr(-1), tl.constexpr(-2)  # margins of what has no direction
DEPTH = 64  # the packed dimension is a multiple of it


@triton.jit
def round_queries(
    queries,  # (Q, D) float32, of any length
    centre,  # (D,) float32, m
    bank_error,  # (1,) float32, largest length of what rounding took from a row of (b - m) / R
    unit,  # (Q, D) float32, written: the queries at length 1
    coarse,  # (Q, width) float16, written
    margins,  # (Q,) int32, written
    flooded_count,  # (1,) int32, set to 0 for the fine pass
    dim,
    width,
    BLOCK: tl.constexpr,
):
    """Normalise, centre and round a query, and find its margin.

    That is how far below the k-th maximum a group still counts. With c = q - m, p = (b - m) / R and
    c', p' the rounded ones, c.p - c'.p' = (c - c').p + c'.(p - p'), where |p| <= 1 and
    |c'| <= |c| + |c - c'|. The matrix unit adds D exact products into sums of at most |c|, each
    addition off by less than 2^-22. Where there is nothing to search the margin is negative: `ZERO`
    for a vector of zeros, to which all bank rows are equally near, `NAN` with a NaN or infinity.
    """
    row = tl.program_id(0).to(tl.int64)
    if row == 0:
        tl.store(flooded_count, 0)
    query = queries + row * dim
    # The largest entry is taken out first, so that no square overflows or vanishes, and the
    # smallest numbers are made larger before that, because their quotients are not exact.
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(query + at, mask=at < dim, other=0.0)
        largest = tl.maximum(largest, tl.abs(value))
    peak = tl.max(largest, axis=0)
    lift = tl.where(peak < 2.0**-64, 2.0**64, 1.0)
    peak = tl.where(peak > 0.0, peak * lift, 1.0)
    size = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(query + at, mask=at < dim, other=0.0) * lift / peak
        size += value * value
    squared = tl.sum(size, axis=0)
    length = tl.where(squared > 0.0, tl.sqrt(squared), 1.0)

    lost = tl.zeros((BLOCK,), tl.float32)
    size = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(query + at, mask=at < dim, other=0.0) * lift / peak / length
        tl.store(unit + row * dim + at, value, mask=at < dim)
        value -= tl.load(centre + at, mask=at < dim, other=0.0)
        rounded = value.to(tl.float16)
        tl.store(coarse + row * width + at, rounded, mask=at < width)
        difference = value - rounded.to(tl.float32)
        lost += difference * difference
        size += value * value
    query_error = tl.sqrt(tl.sum(lost, axis=0))
    centred = tl.sqrt(tl.sum(size, axis=0))
    error = query_error + (centred + query_error) * tl.load(bank_error)
    # 0.1% and 1e-6 for lengths that are only nearly right and for these sums themselves; each of
    # the two maxima compared is off by half a step.
    error = 1.001 * (error + dim * 2.0**-22 * centred) + 1e-6
    margin = tl.minimum(tl.ceil(2.0 * error * STEPS), 4.0 * STEPS).to(tl.int32) + 2
    margin = tl.where(squared > 0.0, margin, tl.where(squared == 0.0, ZERO, NAN))
    tl.store(margins + row, margin)


@triton.jit(do_not_specialize=["query_class", "bank_class"])
def group_maxima(
    queries,  # (Q, width) float16
    bank,  # (rows, width) float16, p'
    bias,  # (rows,) float32, m.p
    maxima,  # (Q, groups) int16, written
    query_count,
    bank_count,
    groups,
    width,
    query_class,  # what the best configuration depends on, see `classes`
    bank_class,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Similarities of a tile of queries and a tile of bank rows, reduced to group maxima.

    One program a tile: maxima go to memory, so a few queries spread over the whole bank as well as
    many do. `GROUP_M` query tiles share their bank tiles in the level-2 cache. `WIDE` says that
    element offsets need 64 bits.
    """
    tiles_m = tl.cdiv(query_count, BLOCK_M)
    tiles_n = bank_count // BLOCK_N
    program = tl.program_id(0)
    band = program // (GROUP_M * tiles_n)
    height = min(tiles_m - band * GROUP_M, GROUP_M)
    inside = program % (GROUP_M * tiles_n)
    tile_m = band * GROUP_M + inside % height
    tile_n = inside // height

    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows past the end repeat the last query: nothing to mask in the loop.
    sources = tl.minimum(rows, query_count - 1)
    if WIDE:
        sources = sources.to(tl.int64)
        columns = columns.to(tl.int64)
    depth = tl.arange(0, BLOCK_K)
    query_at = queries + sources[:, None] * width + depth[None, :]
    bank_at = bank + columns[None, :] * width + depth[:, None]
    similarity = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for _ in range(0, width, BLOCK_K):
        similarity = tl.dot(tl.load(query_at), tl.load(bank_at), similarity)
        query_at += BLOCK_K
        bank_at += BLOCK_K

    similarity += tl.load(bias + columns)[None, :]
    found: tl.constexpr = BLOCK_N // MEMBERS
    blocks: tl.constexpr = found // GROUPS
    members = tl.reshape(similarity, (BLOCK_M, blocks, MEMBERS, GROUPS))
    largest = tl.reshape(tl.max(members, axis=2), (BLOCK_M, found))
    # A NaN query is not searched, but its integers should be defined ones.
    largest = tl.where(largest == largest, largest, 0.0)
    # |q.p| is at most 1, so cutting off there does not add to the error.
    largest = tl.minimum(tl.maximum(largest, -1.0), 1.0) * STEPS
    steps = tl.floor(largest + 0.5).to(tl.int16)
    at = tile_n * found + tl.arange(0, found)
    to = maxima + rows.to(tl.int64)[:, None] * groups + at[None, :]
    tl.store(to, steps, mask=(rows < query_count)[:, None])


# Tile of queries, tile of bank rows, warps, stages. A tile of 256 bank rows needs the registers of
# eight warps; two blocks of 128 x 128 fit one Hopper multiprocessor, so that one's maxima are taken
# while the other multiplies.
CONFIGURATIONS = (
    (128, 256, 8, 3),
    (128, 256, 8, 4),
    (128, 128, 8, 3),
    (128, 128, 4, 4),
    (64, 256, 4, 3),
    (64, 128, 4, 4),
)
TILE = max(configuration[1] for configuration in CONFIGURATIONS)


def classes(query_count: int, bank_count: int) -> tuple[int, int]:
    """Sizes in powers of four: shapes of one class share a tuned configuration."""
    return (query_count.bit_length() + 1) // 2, (bank_count.bit_length() + 1) // 2


def launch_values(configuration: tuple[int, int, int, int]) -> dict[str, int]:
    """Compile-time arguments of `group_maxima` for one of the configurations."""
    block_m, block_n, _, _ = configuration
    return {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": DEPTH, "GROUP_M": 8}


def _fitting(configs: list[Any], named: dict[str, Any], **_: Any) -> list[Any]:
    """Configurations worth trying: few queries don't need tall tiles."""
    short = named["query_count"] <= 64
    return [one for one in configs if (one.kwargs["BLOCK_M"] == 64) == short]


def _tuned() -> Any:
    if not isinstance(group_maxima, triton.JITFunction):  # the interpreter cannot tune
        return None
    configs = [
        triton.Config(launch_values(one), num_warps=one[2], num_stages=one[3])
        for one in CONFIGURATIONS
    ]
    return triton.autotune(
        configs=configs,
        key=["width", "query_class", "bank_class"],
        prune_configs_by={"early_config_prune": _fitting},
    )(group_maxima)


tuned_group_maxima = _tuned()


def variants() -> list[Variant]:
    """List the variants to be compiled ahead of time."""
    signature = {
        "queries": "*fp16",
        "bank": "*fp16",
        "bias": "*fp32",
        "maxima": "*i16",
        "query_count": "i32",
        "bank_count": "i32",
        "groups": "i32",
        "width": "i32",
        "query_class": "i32",
        "bank_class": "i32",
    }
    found = [
        Variant(
            name=f"group_maxima {one[0]}x{one[1]}, {one[2]} warps, {one[3]} stages"
            + (", wide" if wide else ""),
            kernel=group_maxima,
            signature=signature,
            constexprs=launch_values(one) | {"WIDE": wide},
            num_warps=one[2],
            num_stages=one[3],
            expect_wgmma=True,
            aligned=("bank_count", "groups", "width"),
            local_limit=16,
            archs=(90,) if one[:2] == (128, 256) and one[3] > 3 else (80, 90),
        )
        for one in CONFIGURATIONS
        for wide in (False, True)
        if not wide or one == CONFIGURATIONS[0]
    ]
    single = replace(
        found[-1],
        name="group_maxima of one query",
        constexprs={**found[-1].constexprs, "query_count": 1},
    )
    rounding = {
        "queries": "*fp32",
        "centre": "*fp32",
        "bank_error": "*fp32",
        "unit": "*fp32",
        "coarse": "*fp16",
        "margins": "*i32",
        "flooded_count": "*i32",
        "dim": "i32",
        "width": "i32",
    }
    found.append(single)
    found.append(Variant("round_queries", round_queries, rounding, {"BLOCK": 512}, num_warps=1))
    return found
