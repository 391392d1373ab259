"""Exact cosine nearest neighbours on an NVIDIA GPU.

The queries are rounded to float16 and each gets a bound of what that costs it (`round_queries`),
the matrix unit finds the largest similarity of each group of bank rows (`group_maxima`), and the
groups that may hold one of the k nearest are scored in float32 (`nearest_rows`); queries for which
these are too many go through the bank in float32 (`cosine_nn_dense`). The result is that of a
float32 search; the score matrix is never stored. The torch reference is `robustad.ops.cosine_nn`.
"""

from contextlib import nullcontext
from functools import cache

import torch
import triton
from torch import Tensor

from robustad.kernels import cosine_nn_coarse as coarse_pass
from robustad.kernels import cosine_nn_dense as dense_pass
from robustad.kernels import cosine_nn_refine as fine_pass

# Bytes of group maxima held at once: 64 MB, as long as one tile of queries fits. Each takes two
# bytes in the coarse pass, and four should its query end up in the dense one.
BUFFER = 64 * 2**20
MAXIMUM_BYTES = 6
TILE_QUERIES = 128


def packed_shapes(rows: int, dim: int) -> tuple[tuple[int, int], tuple[int]]:
    """Shapes of the two tensors that `pack` makes of a bank (rows, dim)."""
    padded, width = _up(rows, coarse_pass.TILE), _up(dim, coarse_pass.DEPTH)
    return (padded, width), (padded + width + 1,)


def pack(unit_bank: Tensor) -> tuple[Tensor, Tensor]:
    """Round a bank for the coarse pass, once for many searches.

    Parameters
    ----------
    unit_bank : Tensor, (M, D), float32
        Vectors of length 1 or 0, finite.

    Returns
    -------
    coarse : Tensor, (M rounded up to 256, D rounded up to 64), float16
        The centred rows over R, the length of the longest of them.
    side : Tensor, (M + D + 1, both rounded up likewise), float32
        For each row its product with the centre; the centre, that is the mean of the bank; the
        largest length of what rounding took from a row.
    """
    count, dim = unit_bank.shape
    (padded, width), _ = packed_shapes(count, dim)
    centre = unit_bank.mean(dim=0)
    centred = unit_bank - centre
    longest = torch.linalg.vector_norm(centred, dim=1).max().clamp_min(1e-30)
    centred /= longest
    rounded = centred.half()
    error = torch.linalg.vector_norm(centred - rounded.float(), dim=1).max()
    # In float64 block by block: the whole bank in float64 may not fit.
    blocks = [centred[start : start + 2**16] for start in range(0, count, 2**16)]
    bias = torch.cat([(block.double() @ centre.double()).float() for block in blocks])
    rows = torch.arange(padded, device=unit_bank.device)
    # Rows past the end repeat the first member of their group, so that they change no maximum. In
    # a group without any row they repeat row 0; the fine pass does not look at those.
    groups = coarse_pass.GROUPS.value
    first = rows // coarse_pass.BLOCK_ROWS * coarse_pass.BLOCK_ROWS + rows % groups
    rows = torch.where(rows < count, rows, torch.where(first < count, first, 0))
    coarse = rounded.new_zeros(padded, width)
    coarse[:, :dim] = rounded[rows]
    side = torch.cat([bias[rows], centre, centre.new_zeros(width - dim), error.reshape(1)])
    return coarse, side


def search(
    queries: Tensor, unit_bank: Tensor, coarse: Tensor, side: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Find the k nearest bank rows of each query.

    Parameters
    ----------
    queries : Tensor, (Q, D), float32
        Vectors of any length.
    unit_bank : Tensor, (M, D), float32
        Vectors of length 1 or 0, finite.
    coarse, side : Tensor
        `pack(unit_bank)`.
    k : int in 1..M
        Meant for up to 16; more is correct and slow.

    Returns
    -------
    distances : Tensor, (Q, k), float32
        `1 - cos`, ascending. 1 for a query of zeros, NaN for one with a NaN or infinity.
    nearest : Tensor, (Q, k), int64
        Bank rows; of equally near rows the lower one is taken, and comes first. Rows 0 .. k - 1
        for queries without a direction.

    Notes
    -----
    Only launches: nothing waits for the GPU, apart from tuning when the first shape of its kind
    comes. Rows within the rounding of float32 of each other (about 1e-7) may change places.
    """
    queries, unit_bank = queries.contiguous(), unit_bank.contiguous()
    device = queries.device
    query_count, dim = queries.shape
    bank_count = unit_bank.shape[0]
    padded, width = coarse.shape
    bias, centre, error = side[:padded], side[padded:], side[padded + width :]
    groups = padded // coarse_pass.MEMBERS.value
    limit = dense_pass.limit(groups)
    nearest = torch.empty(query_count, k, dtype=torch.int64, device=device)
    block = BUFFER // (MAXIMUM_BYTES * groups) // TILE_QUERIES * TILE_QUERIES
    block = min(max(block, TILE_QUERIES), query_count)
    distances = torch.empty(query_count, k, device=device)
    unit = torch.empty(block, dim, device=device)
    rounded = coarse.new_empty(block, width)
    # Rows of one tensor, each aligned as a tensor of its own would be.
    integers = torch.empty(3, _up(block, 32), dtype=torch.int32, device=device)
    margins, flooded, flooded_count = integers.unbind(0)
    maxima = torch.empty(block, groups, dtype=torch.int16, device=device)
    final = bias.new_empty(block, groups) if groups > limit else None
    warps = fine_pass.warps(block)
    fine_values = fine_pass.launch_values(groups, dim, k, warps)
    listed_values = fine_pass.launch_values(groups, dim, k, dense_pass.LISTED_WARPS)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for start in range(0, query_count, block):
            part = slice(start, start + block)
            found = (nearest[part], distances[part])
            count = len(found[0])
            coarse_pass.round_queries[(count,)](
                queries[part],
                centre,
                error,
                unit,
                rounded,
                margins,
                flooded_count,
                dim,
                width,
                BLOCK=512,
                num_warps=1,
            )
            _group_maxima(rounded[:count], coarse, bias, maxima[:count])
            sizes = (bank_count, groups, dim, k)
            listed = (flooded, flooded_count)
            fine_pass.nearest_rows[(count,)](
                unit,
                unit_bank,
                maxima,
                margins,
                *found,
                *listed,
                *sizes,
                limit,
                **fine_values,
                num_warps=warps,
            )
            if final is None:
                continue
            grid = (_programs(device.index),)
            dense_pass.exact_maxima[grid](
                unit,
                unit_bank,
                *listed,
                final,
                *sizes[:3],
                **dense_pass.MAXIMA_VALUES,
                num_warps=dense_pass.MAXIMA_WARPS,
            )
            dense_pass.listed_nearest_rows[grid](
                unit,
                unit_bank,
                *listed,
                final,
                *found,
                *sizes,
                **listed_values,
                num_warps=dense_pass.LISTED_WARPS,
            )
    return distances, nearest


def _group_maxima(queries: Tensor, bank: Tensor, bias: Tensor, maxima: Tensor) -> None:
    query_count, bank_count = len(queries), len(bank)
    query_class, bank_class = coarse_pass.classes(query_count, bank_count)

    def grid(values: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(query_count, values["BLOCK_M"]) * (bank_count // values["BLOCK_N"])
        return (tiles,)

    sizes = (query_count, bank_count, maxima.shape[1], bank.shape[1], query_class, bank_class)
    wide = max(queries.numel(), bank.numel()) >= 2**31
    tuned = coarse_pass.tuned_group_maxima
    if tuned is not None:
        tuned[grid](queries, bank, bias, maxima, *sizes, WIDE=wide)
        return
    values = coarse_pass.launch_values(coarse_pass.CONFIGURATIONS[-1])
    coarse_pass.group_maxima[grid(values)](
        queries, bank, bias, maxima, *sizes, **values, WIDE=wide, num_warps=4, num_stages=4
    )


@cache
def _programs(device: int | None) -> int:
    if device is None:  # the interpreter's tensors are on the CPU
        return 2
    properties = torch.cuda.get_device_properties(device)
    return dense_pass.programs(properties.multi_processor_count)


def _up(count: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-count // multiple) * multiple
