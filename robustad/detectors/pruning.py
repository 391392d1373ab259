"""How a memory bank's vectors lie to each other, and dropping its outliers."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from robustad.errors import InputError
from robustad.ops import cosine_nn, pack_bank

# What makes a vector an outlier: see `outlyingness`.
Outlyingness: TypeAlias = Literal["distance", "density"]
# As in scikit-learn: duplicates have an infinite density otherwise.
SOFTENING = 1e-10
# Bank vectors that `spacing` looks at, and its least value: a bank of duplicates has none.
SPACED, FLOOR = 4096, 1e-6


def inliers(
    vectors: Tensor, *, drop: float, by: Outlyingness = "distance", neighbours: int = 8
) -> Tensor:
    """Rows of a bank that are left when its outliers are dropped.

    Parameters
    ----------
    vectors : Tensor, (M, D), floating point
        The bank.
    drop : float in [0, 1)
        Share of the rows to drop, rounded to a whole number of rows; one is always left.
    by : {"distance", "density"}, default "distance"
        See `outlyingness`.
    neighbours : int >= 1, default 8
        As `outlyingness`.

    Returns
    -------
    Tensor, (m,), int64
        Sorted rows. Of equally outlying ones those that come first stay.

    Raises
    ------
    InputError
        If an option is out of range or the bank is not finite.

    Notes
    -----
    A vector that is far from all others accepts whatever lies near it: patches of a defect that
    slipped in among the normal images, and patches that an attack has pushed there. That normal
    patches which are merely rare are dropped as well is the price.

    Examples
    --------
    >>> bank = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.98, 0.15], [-1.0, 0.2]])
    >>> inliers(bank, drop=0.25, neighbours=2)
    tensor([0, 1, 2])
    """
    if not 0.0 <= drop < 1.0:
        raise InputError(f"drop: expected a share in [0, 1), got {drop}")
    count = vectors.shape[0] if vectors.ndim == 2 else 0
    kept = max(1, count - round(drop * count))
    value = outlyingness(vectors, by=by, neighbours=neighbours)
    return value.argsort(stable=True)[:kept].sort().values


@torch.no_grad()
def outlyingness(vectors: Tensor, *, by: Outlyingness = "distance", neighbours: int = 8) -> Tensor:
    """How far each vector of a bank lies from the others, by cosine distance.

    Parameters
    ----------
    vectors : Tensor, (M, D), floating point
        The bank, M >= 2.
    by : {"distance", "density"}, default "distance"
        Mean distance to the nearest other vectors, or the local outlier factor: how much sparser
        the bank is around a vector than around its neighbours, about 1 for an inlier. The former
        drops the rarest patches, the latter those that are rare for where they are.
    neighbours : int >= 1, default 8
        Other vectors that one is compared with; all others where there are fewer.

    Returns
    -------
    Tensor, (M,), float64
        Larger is farther out.

    Raises
    ------
    InputError
        If there are fewer than two vectors, they are not finite, or an option is out of range.

    Notes
    -----
    Breunig et al., "LOF", SIGMOD 2000; on memory banks: Jiang et al., "SoftPatch", NeurIPS 2022.
    """
    if neighbours < 1:
        raise InputError(f"neighbours: expected >= 1, got {neighbours}")
    if by not in ("distance", "density"):
        raise InputError(f"by: expected 'distance' or 'density', got {by!r}")
    if vectors.ndim != 2 or vectors.shape[0] < 2:
        raise InputError(f"vectors: expected at least two rows (M, D), got {tuple(vectors.shape)}")
    k = min(neighbours, vectors.shape[0] - 1)
    distances, rows = cosine_nn(vectors, pack_bank(vectors), k + 1)
    # Not always the nearest of its own neighbours: there may be duplicates.
    own = rows == torch.arange(len(rows), device=rows.device)[:, None]
    own[:, -1] |= ~own.any(dim=1)
    others = distances[~own].reshape(-1, k).double()
    if by == "distance":
        return others.mean(dim=1)
    near = rows[~own].reshape(-1, k)
    reach = torch.maximum(others, others[:, -1][near])
    density = 1.0 / (reach.mean(dim=1) + SOFTENING)
    return density[near].mean(dim=1) / density


def spacing(bank: Tensor) -> float:
    """Mean cosine distance of bank vectors (M, D) to the nearest other one; 1 for a lone vector."""
    if bank.shape[0] < 2:
        return 1.0
    some = bank[:: -(-bank.shape[0] // SPACED)]
    distances, _ = cosine_nn(some, bank, 2)
    return max(FLOOR, float(distances[:, 1].mean()))
