"""Exact cosine nearest neighbours, the one door to every memory bank."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.errors import InputError

Precision = Literal["fp32", "bf16"]
# What a bf16 product of unit vectors is off besides the rounding of its factors: a result below 1
# is rounded by at most 2^-9, the partial sums of a split reduction by 2^-8 in all; 2% for norms
# that are only nearly 1. Accumulation in fp32 adds less than D * 2^-23.
BF16_OUTPUT = 1.02 * (2.0**-9 + 2.0**-8)
# Bank rows scored at once: the search holds (Q, BLOCK) similarities.
BLOCK = 4096


@dataclass(frozen=True)
class PackedBank:
    """A bank prepared once by `pack_bank`, for use in many searches.

    Attributes
    ----------
    unit : Tensor, (M, D), float32
        The bank's vectors at unit length; zero vectors stay zero.
    """

    unit: Tensor


def pack_bank(bank: Tensor) -> PackedBank:
    """Normalise a bank once, instead of at every search.

    Parameters
    ----------
    bank : Tensor, (M, D), floating point
        Bank vectors, of any norm.

    Returns
    -------
    PackedBank
        Accepted by `cosine_nn` wherever a bank is.

    Raises
    ------
    InputError
        If `bank` is not a 2-D floating tensor with at least one row and column, or not finite.
    """
    _check_rows("bank", bank)
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(bank).all()):
        raise InputError("bank: expected finite values, got NaN or infinity")
    return PackedBank(F.normalize(bank.float(), dim=1, eps=1e-12))


def cosine_nn(
    queries: Tensor, bank: Tensor | PackedBank, k: int = 1, *, precision: Precision = "fp32"
) -> tuple[Tensor, Tensor]:
    """Cosine distances to the k nearest bank vectors.

    Parameters
    ----------
    queries : Tensor, (Q, D), floating point
        Query vectors, of any norm.
    bank : Tensor, (M, D), floating point, or PackedBank
        Bank vectors, of any norm, on the same device.
    k : int in 1..M, default 1
        Number of neighbours.
    precision : {"fp32", "bf16"}, default "fp32"
        Precision of the search. With "bf16" a coarse pass finds candidates, which are rescored in
        float32; a query that its error bound cannot settle is searched again in float32, so the
        result stays exact. It pays only on hardware that multiplies bf16 faster.

    Returns
    -------
    distances : Tensor, (Q, k), float32
        `1 - cos`, ascending, in [0, 2]. Differentiable with respect to `queries` and `bank`
        through the chosen neighbours, which are constants of the backward pass.
    indices : Tensor, (Q, k), int64
        Bank rows.

    Raises
    ------
    InputError
        If a shape, dtype, device or `k` does not fit, or `bank` is not finite.

    Notes
    -----
    A vector of norm zero has distance 1 to everything; norms are taken in float32, so they should
    lie between 1e-12 and 1e19. A query with a NaN gets NaN distances. The matrix of all distances
    is never stored: the search runs over blocks of the bank without gradient, and the chosen
    neighbours' distances are computed again with it. On CUDA, the search in float32 is as precise
    as torch's matrix products are set to be (`torch.set_float32_matmul_precision`).

    Examples
    --------
    >>> import torch
    >>> bank = torch.eye(3)
    >>> distances, indices = cosine_nn(torch.tensor([[2.0, 2.0, 0.0]]), bank, k=2)
    >>> distances, sorted(indices[0].tolist())
    (tensor([[0.2929, 0.2929]]), [0, 1])
    """
    unit_bank = (bank if isinstance(bank, PackedBank) else pack_bank(bank)).unit
    _check(queries, unit_bank, k, precision)
    unit_queries = F.normalize(queries.float(), dim=1, eps=1e-12)
    # Autocast would turn the float32 search into an inexact one.
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        if precision == "bf16":
            indices = _search_bf16(unit_queries.detach(), unit_bank.detach(), k)
        else:
            indices = _search(unit_queries.detach(), unit_bank.detach(), k)
    chosen = unit_bank[indices]  # (Q, k, D)
    distances = 1.0 - (chosen * unit_queries.unsqueeze(1)).sum(dim=2)
    distances = distances.clamp(0.0, 2.0)
    if k > 1:  # the last bits of a recomputed dot product may swap near-equal neighbours
        distances, order = distances.sort(dim=1, stable=True)
        indices = indices.gather(1, order)
    return distances, indices


def _check(queries: Tensor, bank: Tensor, k: int, precision: str) -> None:
    _check_rows("queries", queries)
    if queries.shape[1] != bank.shape[1]:
        raise InputError(
            f"queries and bank: expected the same D, got {queries.shape[1]} and {bank.shape[1]}"
        )
    if queries.device != bank.device:
        raise InputError(
            f"queries and bank: expected one device, got {queries.device} and {bank.device}"
        )
    if not 1 <= k <= bank.shape[0]:
        raise InputError(f"k: expected 1..{bank.shape[0]} (the bank's rows), got {k}")
    if precision not in ("fp32", "bf16"):
        raise InputError(f"precision: expected 'fp32' or 'bf16', got {precision!r}")


def _check_rows(name: str, value: Tensor) -> None:
    if value.ndim != 2 or not value.is_floating_point() or 0 in value.shape:
        raise InputError(
            f"{name}: expected a floating-point tensor (rows, D), neither of them 0, got "
            f"{tuple(value.shape)} of {value.dtype}"
        )


def _search(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    best = queries.new_full((queries.shape[0], k), -torch.inf)
    indices = torch.zeros(queries.shape[0], k, dtype=torch.int64, device=queries.device)
    for start in range(0, bank.shape[0], BLOCK):
        similarity = queries @ bank[start : start + BLOCK].T
        if k == 1:
            top, at = similarity.max(dim=1, keepdim=True)
            better = top > best
            best = torch.where(better, top, best)
            indices = torch.where(better, at + start, indices)
        else:
            top, at = similarity.topk(min(k, similarity.shape[1]), dim=1)
            best, order = torch.cat([best, top], dim=1).topk(k, dim=1)
            indices = torch.cat([indices, at + start], dim=1).gather(1, order)
    return indices


def _search_bf16(queries: Tensor, bank: Tensor, k: int, candidates: int = 16) -> Tensor:
    """Coarse search in bf16, exact rescoring; queries with too many candidates go to fp32."""
    candidates = min(k + candidates, bank.shape[0])
    coarse_queries = queries.bfloat16()
    query_error = _rounding(queries, coarse_queries)
    bank_error = queries.new_zeros(())
    best = queries.new_full((queries.shape[0], candidates), -torch.inf)
    indices = torch.zeros(best.shape, dtype=torch.int64, device=queries.device)
    for start in range(0, bank.shape[0], BLOCK):
        block = bank[start : start + BLOCK]
        coarse_block = block.bfloat16()
        bank_error = torch.maximum(bank_error, _rounding(block, coarse_block).max())
        similarity = (coarse_queries @ coarse_block.T).float()
        top, at = similarity.topk(min(candidates, similarity.shape[1]), dim=1)
        best, order = torch.cat([best, top], dim=1).topk(candidates, dim=1)
        indices = torch.cat([indices, at + start], dim=1).gather(1, order)
    exact = (bank[indices] * queries.unsqueeze(1)).sum(dim=2)  # (Q, candidates)
    top, order = exact.topk(k, dim=1)
    chosen = indices.gather(1, order)
    if candidates < bank.shape[0]:
        # A row left out has a coarse score of at most the last candidate's. With q' and b' rounded,
        # q.b - q'.b' = (q - q').b + q'.(b - b'), and |b| = 1, |q'| <= 1 + |q - q'|.
        error = query_error + (1.0 + query_error) * bank_error
        error = error + BF16_OUTPUT + bank.shape[1] * 2.0**-23
        doubtful = ~(best[:, -1] + error < top[:, -1])
        if bool(doubtful.any()):
            chosen[doubtful] = _search(queries[doubtful], bank, k)
    return chosen


def _rounding(rows: Tensor, rounded: Tensor) -> Tensor:
    """Length of what rounding took from each row."""
    length: Tensor = torch.linalg.vector_norm(rows - rounded.float(), dim=1)
    return length
