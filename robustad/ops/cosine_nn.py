"""Exact cosine nearest neighbours, the one door to every memory bank."""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Self

import torch
from torch import Tensor

from robustad.errors import InputError
from robustad.ops import _cosine_nn
from robustad.ops._eager import is_transformed
from robustad.ops.reference.cosine_nn import cosine_nn_torch, unit_vectors


@dataclass(frozen=True)
class PackedBank:
    """A bank prepared once by `pack_bank`, for use in many searches; not to be changed in place.

    Attributes
    ----------
    unit : Tensor, (M, D), float32
        The bank's vectors at unit length; zero vectors stay zero. All that need be saved: the
        rest follows from it, and depends on the processor.
    coarse, side : Tensor
        Two-byte copy in the order the device's matrix unit reads, and what else the coarse pass
        needs to bound its error.
    """

    unit: Tensor
    coarse: Tensor
    side: Tensor

    @classmethod
    def of_unit(cls, unit: Tensor) -> Self:
        """Pack vectors (M, D), float32, that have length 1 (or 0) and are finite already.

        Neither is checked: the search is exact only if they hold.

        Raises
        ------
        InputError
            If `unit` is not a 2-D float32 tensor with at least one row and column.
        """
        _check_rows("unit", unit)
        if unit.dtype != torch.float32:
            raise InputError(f"unit: expected torch.float32, got {unit.dtype}")
        return cls(unit, *_cosine_nn.pack(unit.detach()))

    def to(self, device: torch.device | str) -> Self:
        """Return the bank on a device, packed for it."""
        return (
            self if self.unit.device == torch.device(device) else self.of_unit(self.unit.to(device))
        )


def pack_bank(bank: Tensor) -> PackedBank:
    """Normalise and pack a bank once, instead of at every search.

    Parameters
    ----------
    bank : Tensor, (M, D), floating point
        Bank vectors, of any length.

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
    unit, finite = _cosine_nn.normalised(bank)
    if not finite:
        raise InputError("bank: expected finite values, got NaN or infinity")
    return PackedBank.of_unit(unit)


def cosine_nn(
    queries: Tensor, bank: Tensor | PackedBank, k: int = 1, *, temperature: float | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine distances to the k nearest bank vectors.

    Parameters
    ----------
    queries : Tensor, (Q, D), floating point
        Query vectors, of any length.
    bank : Tensor, (M, D), floating point, or PackedBank
        Bank vectors, of any length, on the same device.
    k : int in 1..M, default 1
        Number of neighbours. Meant for up to 16; more is correct and slow.
    temperature : float > 0, optional
        Return the soft minimum `-T log mean_j exp(-d_j / T)` of the k distances instead of the
        distances: smooth where the nearest neighbour changes. It lies between the smallest and
        the mean of the k distances and goes to the smallest as T goes to 0.

    Returns
    -------
    distances : Tensor, (Q, k), or (Q, 1) with `temperature`, float32
        `1 - cos`, ascending, in [0, 2]. Differentiable with respect to `queries` and `bank`
        through the chosen neighbours, which are constants of the backward pass.
    indices : Tensor, (Q, k), int64
        Bank rows.

    Raises
    ------
    InputError
        If a shape, dtype, device, `k` or `temperature` does not fit, or `bank` is not finite.

    Notes
    -----
    Exact: distances are within 2e-6 of those of a float64 search, and a chosen row is at most
    1e-6 farther than the nearest. A coarse pass in one- or two-byte numbers keeps the maximum of
    every group of bank rows, never the score matrix; the groups that its error bound cannot rule
    out are scored in float32. On the CPU the widest of AMX, AVX-512 (with VNNI), AVX2 and portable
    code that the processor has is taken; the environment variable `ROBUSTAD_COSINE_NN` (`amx`,
    `avx512vnni`, `avx512`, `avx2`, `avx2_int16`, `portable`) forces one. On CUDA the kernels are
    Triton's.

    Under the transforms of `torch.func` and forward-mode differentiation the torch twin runs.

    A vector of zeros has distance 1 to everything. A query with a NaN or infinity gets NaN
    distances and arbitrary rows. A bank with many near-duplicates of a query's nearest vector is
    searched correctly but slower, because all of them have to be compared in float32.

    Examples
    --------
    >>> import torch
    >>> bank = torch.eye(3)
    >>> distances, indices = cosine_nn(torch.tensor([[2.0, 2.0, 0.0]]), bank, k=2)
    >>> distances, indices
    (tensor([[0.2929, 0.2929]]), tensor([[0, 1]]))
    """
    packed = bank if isinstance(bank, PackedBank) else pack_bank(bank)
    _check(queries, packed.unit, k, temperature)
    distances: Tensor
    indices: Tensor
    # A float64 vector may be too long or too short for float32.
    narrow = unit_vectors(queries) if queries.dtype == torch.float64 else queries.float()
    if is_transformed():
        distances, indices = cosine_nn_torch(narrow, packed.unit, k)
    else:
        distances, indices = _cosine_nn.search(narrow, packed.unit, packed.coarse, packed.side, k)
    if temperature is not None:
        smooth = torch.logsumexp(distances / -temperature, dim=1, keepdim=True) - math.log(k)
        distances = -temperature * smooth
    return distances, indices


def _check(queries: Tensor, bank: Tensor, k: int, temperature: float | None) -> None:
    _check_rows("queries", queries)
    _check_rows("bank", bank)
    if bank.dtype != torch.float32:
        raise InputError(f"bank: expected torch.float32 in a packed bank, got {bank.dtype}")
    if queries.shape[1] != bank.shape[1]:
        raise InputError(
            f"queries and bank: expected the same D, got {queries.shape[1]} and {bank.shape[1]}"
        )
    if queries.device != bank.device:
        raise InputError(
            f"queries and bank: expected one device, got {queries.device} and {bank.device}"
        )
    whole = isinstance(k, Integral | torch.SymInt)
    if not whole or not 1 <= k <= bank.shape[0]:
        raise InputError(f"k: expected 1..{bank.shape[0]} (the bank's rows), got {k}")
    if temperature is not None and not 0 < temperature < math.inf:
        raise InputError(f"temperature: expected a positive number, got {temperature}")


def _check_rows(name: str, value: Tensor) -> None:
    if value.ndim != 2 or not value.is_floating_point() or 0 in value.shape:
        raise InputError(
            f"{name}: expected a floating-point tensor (rows, D), neither of them 0, got "
            f"{tuple(value.shape)} of {value.dtype}"
        )
