"""How far the mean of the k largest patch scores can move when the patch scores do."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from robustad.errors import InputError
from robustad.ops import topk_mean
from robustad.ops.reference.topk_mean import resolve_k

# Of the search for the extreme weighted mean, which ends after a few steps.
STEPS = 64


class Bounds(NamedTuple):
    """An interval for each image, or each patch.

    Attributes
    ----------
    lower, upper : Tensor
        Its ends, of one shape.
    """

    lower: Tensor
    upper: Tensor


def topk_bounds(
    lower: Tensor, upper: Tensor, k: int | float, *, weights: Tensor | None = None
) -> Bounds:
    """Range of the mean of the k largest patch scores, each anywhere within its own interval.

    Parameters
    ----------
    lower, upper : Tensor, (B, N), floating point
        Intervals of the patch scores.
    k : int or float
        As `robustad.ops.topk_mean`.
    weights : Tensor, (B, N) or (N,), optional
        As `robustad.ops.topk_mean`: who is selected depends on the scores alone, and the selected
        are averaged by weight.

    Returns
    -------
    Bounds
        (B,). Without weights, or with weights of 0 and 1, the mean rises with every score, so that
        its values at the ends are attained. Weighted by anything else it may fall when a score
        rises (a heavy patch drops out of the k largest); then the bounds hold but need not be
        attained: they are the extreme weighted means over all sets of k patches that contain every
        patch that must be among the largest and none that cannot be.

    Raises
    ------
    InputError
        If shapes do not fit, a bound is NaN, or a lower bound lies above its upper one.

    Examples
    --------
    >>> lower, upper = torch.tensor([[0.1, 0.2, 0.0]]), torch.tensor([[0.3, 0.2, 0.9]])
    >>> found = topk_bounds(lower, upper, 2)
    >>> [round(float(bound), 2) for bound in found]
    [0.15, 0.6]
    """
    if lower.ndim != 2 or lower.shape != upper.shape or not lower.is_floating_point():
        raise InputError(
            "lower and upper: expected two floating-point tensors (B, N), got "
            f"{tuple(lower.shape)} and {tuple(upper.shape)}"
        )
    if not bool((lower <= upper).all()):  # also NaN
        raise InputError("lower and upper: expected bounds with lower <= upper and no NaN")
    if weights is None:
        return Bounds(topk_mean(lower, k), topk_mean(upper, k))
    weight = torch.as_tensor(weights, device=lower.device).expand_as(lower).to(lower.dtype)
    ends = topk_mean(lower, k, weights=weight), topk_mean(upper, k, weights=weight)
    if bool(((weight <= 0) | (weight == 1)).all()):
        return Bounds(*ends)
    found = [_weighted(*row, k) for row in zip(lower, upper, weight, strict=True)]
    return Bounds(torch.stack([low for low, _ in found]), torch.stack([high for _, high in found]))


def topk_lipschitz(k: int | float, patches: int, norm: Literal["linf", "l2", "l1"]) -> float:
    """Give the smallest L with |S' - S| <= L |s' - s| for the mean S of the k largest of s.

    Parameters
    ----------
    k : int or float
        As `robustad.ops.topk_mean`.
    patches : int >= 1
        How many scores there are.
    norm : {"linf", "l2", "l1"}
        In which the change of the patch scores is measured.

    Returns
    -------
    float
        1, 1 / sqrt(k) or 1 / k: S is the largest of the means over k patches, and each of these
        has the gradient 1 / k at k places.

    Raises
    ------
    InputError
        If `k` is out of range or the norm unknown.

    Examples
    --------
    >>> topk_lipschitz(4, 100, "l2"), topk_lipschitz(0.01, 400, "linf")
    (0.5, 1.0)
    """
    count = resolve_k(k, patches)
    exponents = {"linf": 0.0, "l2": -0.5, "l1": -1.0}
    if norm not in exponents:
        raise InputError(f"norm: expected 'linf', 'l2' or 'l1', got {norm!r}")
    return float(count ** exponents[norm])


def _weighted(
    lower: Tensor, upper: Tensor, weight: Tensor, k: int | float
) -> tuple[Tensor, Tensor]:
    """Bounds of one image whose patches have unequal weights."""
    valid = weight > 0
    low, high, mass = lower[valid].double(), upper[valid].double(), weight[valid].double()
    if not len(mass):
        nan = torch.full((), torch.nan, dtype=lower.dtype)
        return nan, nan
    count = resolve_k(k, len(mass)) if isinstance(k, float) else min(k, len(mass))
    limit = low.topk(count).values[-1]  # at least this is the smallest score that is selected
    possible = high >= limit
    # Fewer than k others can be as large: selected whatever happens.
    certain = (high[None, :] >= low[:, None]).sum(dim=1) <= count
    least = _extreme(low.clamp_min(limit), mass, possible, certain, count, sign=-1.0)
    most = _extreme(high, mass, possible, certain, count, sign=1.0)
    return least.to(lower.dtype), most.to(lower.dtype)


def _extreme(
    value: Tensor, mass: Tensor, possible: Tensor, certain: Tensor, count: int, *, sign: float
) -> Tensor:
    """Largest (or smallest, for sign -1) weighted mean of `count` values (Dinkelbach, 1967)."""
    mean = (mass * value).sum() / mass.sum()
    for _ in range(STEPS):
        gain = sign * mass * (value - mean)
        gain = gain.masked_fill(~possible, -torch.inf).masked_fill(certain, torch.inf)
        chosen = gain.topk(count).indices
        better = (mass[chosen] * value[chosen]).sum() / mass[chosen].sum()
        if torch.equal(better, mean):
            break
        mean = better
    return mean
