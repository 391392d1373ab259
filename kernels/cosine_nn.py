"""Exact cosine nearest neighbours on an NVIDIA GPU.

Three kernels: the queries are rounded to float16 and each gets a bound of what that costs it
(`round_queries`), the matrix unit finds the largest similarity of each group of bank rows
(`group_maxima`), and the groups that may hold one of the k nearest are scored in float32
(`nearest_rows`). The result is that of a float32 search; the score matrix is never stored. The
torch reference is `robustad.ops.cosine_nn`.
"""

import torch
import triton
from torch import Tensor

from robustad.kernels import cosine_nn_coarse as coarse_pass
from robustad.kernels import cosine_nn_refine as fine_pass

# Bytes of group maxima held at once: 64 MB, as long as one tile of queries fits.
BUFFER = 64 * 2**20
TILE_QUERIES = 128


def pack(unit_bank: Tensor) -> tuple[Tensor, Tensor]:
    """Round a bank for the coarse pass, once for many searches.

    Parameters
    ----------
    unit_bank : Tensor, (M, D), float32
        Vectors of length 1 or 0.

    Returns
    -------
    coarse : Tensor, (M rounded up to 256, D rounded up to 64), float16
        The rounded bank.
    error : Tensor, (1,), float32
        Largest length of what rounding took from a row.
    """
    count, dim = unit_bank.shape
    rounded = unit_bank.half()
    error = torch.linalg.vector_norm(unit_bank - rounded.float(), dim=1).max().reshape(1)
    rows = torch.arange(_up(count, coarse_pass.TILE), device=unit_bank.device)
    # Rows past the end repeat the first member of their group, so that they change no maximum. In
    # a group without any row they repeat row 0; the fine pass does not look at those.
    groups = coarse_pass.GROUPS.value
    first = rows // coarse_pass.BLOCK_ROWS * coarse_pass.BLOCK_ROWS + rows % groups
    rows = torch.where(rows < count, rows, torch.where(first < count, first, 0))
    packed = rounded.new_zeros(len(rows), _up(dim, coarse_pass.DEPTH))
    packed[:, :dim] = rounded[rows]
    return packed, error


def search(
    unit_queries: Tensor, unit_bank: Tensor, coarse: Tensor, error: Tensor, k: int
) -> Tensor:
    """Find the k most similar bank rows of each query.

    Parameters
    ----------
    unit_queries : Tensor, (Q, D), float32, contiguous
        Vectors of length 1 or 0.
    unit_bank : Tensor, (M, D), float32, contiguous
        Vectors of length 1 or 0, finite.
    coarse, error : Tensor
        `pack(unit_bank)`.
    k : int in 1..M
        Meant for up to 16; more is correct and slow.

    Returns
    -------
    Tensor, (Q, k), int64
        Bank rows, most similar first; of equally similar rows the lower one is taken, and comes
        first. For a query of zeros, or with a NaN, rows 0 .. k - 1.

    Notes
    -----
    Only launches: nothing waits for the GPU, apart from tuning when the first shape of its kind
    comes. Rows within the rounding of float32 of each other (about 1e-7) may change places.
    """
    query_count, dim = unit_queries.shape
    bank_count = unit_bank.shape[0]
    padded, width = coarse.shape
    groups = padded // coarse_pass.MEMBERS.value
    nearest = torch.empty(query_count, k, dtype=torch.int64, device=unit_queries.device)
    block = max(BUFFER // (2 * groups) // TILE_QUERIES * TILE_QUERIES, TILE_QUERIES)
    block = min(block, query_count)
    rounded = coarse.new_empty(block, width)
    margins = torch.empty(block, dtype=torch.int32, device=unit_queries.device)
    maxima = torch.empty(block, groups, dtype=torch.int16, device=unit_queries.device)
    fine_values = fine_pass.launch_values(dim, k)
    with torch.cuda.device_of(unit_queries):
        for start in range(0, query_count, block):
            queries = unit_queries[start : start + block]
            count = len(queries)
            coarse_pass.round_queries[(count,)](
                queries, error, rounded, margins, dim, width, BLOCK=512, num_warps=1
            )
            _group_maxima(rounded[:count], coarse, maxima[:count])
            fine_pass.nearest_rows[(count,)](
                queries,
                unit_bank,
                maxima,
                margins,
                nearest[start : start + block],
                bank_count,
                groups,
                dim,
                k,
                **fine_values,
                num_warps=fine_pass.warps(count),
            )
    return nearest


def _group_maxima(queries: Tensor, bank: Tensor, maxima: Tensor) -> None:
    query_count, bank_count = len(queries), len(bank)
    query_class, bank_class = coarse_pass.classes(query_count, bank_count)

    def grid(values: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(query_count, values["BLOCK_M"]) * (bank_count // values["BLOCK_N"])
        return (tiles,)

    arguments = (queries, bank, maxima, query_count, bank_count, maxima.shape[1], bank.shape[1])
    wide = max(queries.numel(), bank.numel()) >= 2**31
    tuned = coarse_pass.tuned_group_maxima
    if tuned is not None:
        tuned[grid](*arguments, query_class, bank_class, WIDE=wide)
        return
    values = coarse_pass.launch_values(coarse_pass.CONFIGURATIONS[-1])
    coarse_pass.group_maxima[grid(values)](
        *arguments, query_class, bank_class, **values, WIDE=wide, num_warps=4, num_stages=4
    )


def _up(count: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-count // multiple) * multiple
