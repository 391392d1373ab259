"""Shortest moves from images onto a plane without leaving [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from robustad.attacks.projection import Norm

TINY = torch.finfo(torch.float64).tiny


def to_plane(x: Tensor, gradient: Tensor, missing: Tensor, norm: Norm) -> Tensor:
    """Shortest move within [0, 1] onto a plane.

    Parameters
    ----------
    x, gradient : Tensor, (B, 3, H, W)
        Images, and the plane's normal.
    missing : Tensor, (B,), float64
        What gradient times move has to add up to; of either sign.
    norm : {"linf", "l2", "l1"}
        In which the move is shortest.

    Returns
    -------
    Tensor, (B, 3, H, W)
        The move; as far as the box goes where the plane does not meet it.

    Examples
    --------
    >>> x, slope = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[1.0, 2.0]]]])
    >>> missing = torch.tensor([0.75], dtype=torch.float64)
    >>> [to_plane(x, slope, missing, norm).flatten().tolist() for norm in ("linf", "l1")]
    [[0.25, 0.25], [0.0, 0.375]]
    """
    return Way.of(x, gradient, missing, norm).move(torch.ones_like(missing))


@dataclass(frozen=True, kw_only=True)
class Way:
    """All shortest moves along one gradient, from none to the one that meets the plane.

    Attributes
    ----------
    reach : Tensor, (B,), float64
        Amount at which the plane is met.
    sign : Tensor, (B, 3, H, W)
        Direction of each pixel.
    room : Tensor, (B, D), float64
        How far each pixel can go.
    pace : Tensor, (B, D), float64
        How far each pixel goes for each unit of the amount.
    before : Tensor, (B, D), float64, or None
        In l1: the amount that is spent before it is this pixel's turn.

    Notes
    -----
    The shortest move takes every pixel along its sign by the same amount (l-infinity) or by the
    same multiple of its gradient (l2), unless it meets the box; or in l1 one pixel after the other,
    the steepest first, each as far as the box goes. What that adds up to grows with the amount in
    straight pieces that end where a pixel meets the box: the piece is found by sorting, the amount
    in closed form.
    """

    reach: Tensor
    sign: Tensor
    room: Tensor
    pace: Tensor
    before: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, gradient: Tensor, missing: Tensor, norm: Norm) -> Self:
        """Find it; parameters as those of `to_plane`."""
        weight = gradient.flatten(1).double()
        size, flat = weight.abs(), x.flatten(1).double()
        up = weight * missing.sign()[:, None] > 0
        room = torch.where(up, 1 - flat, flat).clamp_min(0)
        sign = gradient.sign() * missing.sign().to(gradient)[:, None, None, None]
        if norm == "l1":
            room = torch.where(size > 0, room, 0.0)
            reach, before = _one_by_one(size, room, missing.abs())
            return cls(reach=reach, sign=sign, room=room, pace=torch.ones_like(room), before=before)
        pace = size if norm == "l2" else (size > 0).double()
        return cls(
            reach=_together(size, room, pace, missing.abs()), sign=sign, room=room, pace=pace
        )

    def move(self, share: Tensor) -> Tensor:
        """The move (B, 3, H, W) for shares (B,) of `reach`, which may be above 1."""
        amount = (share * self.reach)[:, None]
        if self.before is not None:
            amount = (amount - self.before).clamp_min(0)
        size = torch.minimum(amount * self.pace, self.room)
        return self.sign * size.reshape(self.sign.shape).to(self.sign)


def _together(size: Tensor, room: Tensor, pace: Tensor, wanted: Tensor) -> Tensor:
    """Amount (B,) at which all pixels, each at its pace, have gained what is wanted."""
    ends = torch.where(pace > 0, room / pace.clamp_min(TINY), torch.inf)
    ends, order = ends.sort(dim=1)
    filled, slope = (size * room).gather(1, order), (size * pace).gather(1, order)
    before = filled.cumsum(dim=1) - filled  # of the pixels that have met the box already
    left = slope.flip(1).cumsum(dim=1).flip(1)  # of this pixel and those that meet it later
    # the amount if only the pixels before this one have met the box; right where it ends later
    amount = (wanted[:, None] - before) / left.clamp_min(TINY)
    fits = (amount <= ends) & (left > 0)
    at = fits.to(torch.int8).argmax(dim=1, keepdim=True)
    chosen = amount.gather(1, at).squeeze(1).clamp_min(0)
    widest = torch.where(pace > 0, room / pace.clamp_min(TINY), 0.0).amax(dim=1)
    return torch.where(fits.any(dim=1), chosen, widest)


def _one_by_one(size: Tensor, room: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """l1 length (B,) at which the steepest pixels have gained what is wanted; each one's start."""
    steepest, order = size.sort(dim=1, descending=True, stable=True)
    ordered = room.gather(1, order)
    spent = ordered.cumsum(dim=1)
    gained = (steepest * ordered).cumsum(dim=1)
    start = spent - ordered
    at = (gained < wanted[:, None]).sum(dim=1, keepdim=True)
    last = at.clamp(max=size.shape[1] - 1)
    gain, slope = gained.gather(1, last), steepest.gather(1, last)
    over = (gain - wanted[:, None]) / slope.clamp_min(TINY)
    reach = torch.where(at < size.shape[1], spent.gather(1, last) - over, spent[:, -1:])
    before = torch.empty_like(start).scatter_(1, order, start)
    return reach.squeeze(1).clamp_min(0), before
