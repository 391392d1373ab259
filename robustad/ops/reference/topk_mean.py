"""Torch reference of `ops.topk_mean`; also what runs where there is no kernel, as for float64."""

from operator import index
from typing import Any, cast

import torch
from torch import Tensor

from robustad.errors import InputError


def resolve_k(k: int | float, n: int | torch.SymInt) -> int:
    """Turn a count or fraction into a count in 1..n.

    Parameters
    ----------
    k : int or float
        A count in 1..n, or a fraction of n in (0, 1].
    n : int
        How many there are; while a graph is traced it may be a symbol, and the count becomes one.

    Raises
    ------
    InputError
        If a count is not in 1..n, a fraction not in (0, 1], or `k` neither.

    Examples
    --------
    >>> resolve_k(0.01, 1024), resolve_k(0.01, 50), resolve_k(5, 50)
    (10, 1, 5)
    """
    if isinstance(k, float):
        if not 0.0 < k <= 1.0:
            raise InputError(f"k: expected a fraction in (0, 1] or a count, got {k}")
        # int() would turn 0.29 * 100 = 28.999999999999996 into 28
        if isinstance(n, int):
            return max(1, int(k * n + 1e-9))
        return cast(int, torch.sym_max(1, torch.sym_int(k * n + 1e-9)))
    given: Any = k
    plain = type(given) is int or isinstance(given, torch.SymInt)
    count: int = given if plain else _whole(given)
    if isinstance(n, int) and not 1 <= count <= n:
        raise InputError(f"k: expected a count in 1..{n}, got {count}")
    if isinstance(count, int) and count < 1:
        raise InputError(f"k: expected a count of at least 1, got {count}")
    return count


def _whole(k: Any) -> int:
    """Take a count of another type than int, as NumPy's."""
    try:
        if not isinstance(k, bool):
            return index(k)
    except TypeError:
        pass
    raise InputError(
        f"k: expected a count (int) or a fraction (float), got {k!r} of type {type(k).__name__}"
    )


def topk_mean_torch(scores: Tensor, k: int) -> Tensor:
    """Mean of the `k` largest, in operations that all tools know; what is exported with detectors.

    Of equal scores `torch.topk` decides which get the gradient.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.topk(k, dim=1).values.to(wide).mean(dim=1).to(scores.dtype)


def select_torch(
    scores: Tensor, weights: Tensor | None, k: int, fraction: float, shared: bool
) -> tuple[Tensor, Tensor]:
    """Reference of the operator `robustad::topk_mean`.

    Parameters
    ----------
    scores : Tensor, (B, N), floating point
        Scores.
    weights : Tensor, (B, N), float32, or None
        Entries whose weight is not above 0 do not count.
    k : int in 1..N
        How many count, or all valid ones where they are fewer.
    fraction : float
        If above 0, this part of a row's valid entries counts instead, one at least.
    shared : bool
        Whether all entries equal to the smallest that counts share its place.

    Returns
    -------
    mean : Tensor, (B,), dtype of `scores`
        NaN where nothing is valid. Differentiable.
    state : Tensor, (B, 4), float64
        The smallest value that counts; the last column where a value equal to it counts; how much
        each of those counts; 1 / the sum of the weights that count, or 0 if nothing does.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    values, columns = scores.detach().to(wide), scores.shape[1]
    valid = torch.ones_like(values, dtype=torch.bool) if weights is None else weights > 0
    present = valid.sum(dim=1)
    count = torch.full_like(present, k)
    if fraction > 0:
        count = (fraction * present.double() + 1e-9).long().clamp(min=1)
    count = torch.minimum(count, present)

    falling = values.masked_fill(~valid, -torch.inf).topk(k, dim=1).values
    threshold = falling.gather(1, (count - 1).clamp(min=0)[:, None])
    above, tied = _compared(values, valid, threshold)
    wanted, ties = count - above.sum(dim=1), tied.sum(dim=1)
    last = torch.full_like(count, columns - 1)
    share = torch.ones_like(count, dtype=torch.float64)
    if shared:
        share = wanted / ties.double()
    else:
        chosen = tied & (tied.cumsum(dim=1) <= wanted[:, None])
        place = torch.arange(columns, device=scores.device).where(chosen, -1).amax(dim=1)
        last = place.where(wanted < ties, last)
    empty = present == 0
    state = torch.stack(
        [threshold[:, 0].double(), last.double(), share, torch.ones_like(share)], dim=1
    )
    part = _parts(above, tied, weights, state)
    total = part.sum(dim=1)
    product = torch.where(part > 0, part * scores.to(part.dtype), 0.0).sum(dim=1)
    mean = (product / total).to(wide).to(scores.dtype)
    state[:, 3] = torch.where(empty, 0.0, 1 / total)
    state[:, :3] = torch.where(empty[:, None], state.new_tensor([0.0, -1.0, 0.0]), state[:, :3])
    return mean, state


def spread_torch(grad: Tensor, scores: Tensor, weights: Tensor | None, state: Tensor) -> Tensor:
    """Reference of the operator `robustad::topk_mean_backward`: the gradient of the scores.

    Parameters
    ----------
    grad : Tensor, (B,)
        Gradient of the means.
    scores, weights, state
        See `select_torch`.

    Returns
    -------
    Tensor, (B, N), dtype of `scores`
        Zero where an entry does not count.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    valid = torch.ones_like(scores, dtype=torch.bool) if weights is None else weights > 0
    above, tied = _compared(scores.to(wide), valid, state[:, :1].to(wide))
    part = _parts(above, tied, weights, state)
    scale = grad.double() * state[:, 3]
    # a scale of 0 is that of infinite weights too, for which it would give NaN
    counts = (part > 0) & (state[:, 3:4] > 0)
    return torch.where(counts, part * scale[:, None], 0.0).to(wide).to(scores.dtype)


def _compared(values: Tensor, valid: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Which entries lie above a row's threshold, which equal it; NaN is the largest value."""
    nan, nan_threshold = values.isnan(), threshold.isnan()
    above = valid & ((values > threshold) | (nan & ~nan_threshold))
    return above, valid & ((values == threshold) | (nan & nan_threshold))


def _parts(above: Tensor, tied: Tensor, weights: Tensor | None, state: Tensor) -> Tensor:
    """Weights of the entries that count, in float64; 0 for the others."""
    columns: Any = torch.arange(above.shape[1], device=above.device)
    tied = tied & (columns <= state[:, 1:2])
    part = above.double() + tied.double() * state[:, 2:3]
    return part if weights is None else torch.where(part > 0, part * weights.double(), 0.0)
