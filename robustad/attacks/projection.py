"""The ball an attack stays in: projection, distance, random points and unit steps."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Norm: TypeAlias = Literal["linf", "l2", "l1"]
# Share of the entries that a plain step of the l1 ball moves: SLIDE's default.
SPARSITY = 0.01
# How near the edge of [0, 1] rounding may leave an entry that was put there.
EDGE = 1e-6


def project(x: Tensor, centre: Tensor, eps: float, norm: Norm = "linf") -> Tensor:
    """Bring images within a distance of others, and into [0, 1].

    Parameters
    ----------
    x : Tensor, (B, 3, H, W)
        Anywhere.
    centre : Tensor, (B, 3, H, W), in [0, 1]
        Centres of the balls.
    eps : float > 0
        Their radius.
    norm : {"linf", "l2", "l1"}, default "linf"
        l2 and l1 take an image for one vector.

    Returns
    -------
    Tensor, (B, 3, H, W)
        In l-infinity and l1 the nearest point of the ball within [0, 1]. In l2 the nearest point
        of the ball, then clipped: as `centre` is in [0, 1], clipping only brings it nearer.

    Notes
    -----
    l1: Croce and Hein, "Mind the Box", ICML 2021, proposition 2.1.
    """
    if norm == "linf":
        return torch.clamp(torch.minimum(torch.maximum(x, centre - eps), centre + eps), 0.0, 1.0)
    delta = x - centre
    if norm == "l1":
        return _project_l1(delta, centre, eps)
    length = torch.linalg.vector_norm(delta.flatten(1), dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    shrunk = delta * (eps / length).clamp(max=1.0)[:, None, None, None]
    return torch.clamp(centre + shrunk, 0.0, 1.0)


def _project_l1(delta: Tensor, centre: Tensor, eps: float) -> Tensor:
    """Nearest point: each entry shrunk by one threshold per image, then held by the box.

    What is left, `sum clip(|delta| - t, 0, room)`, falls with the threshold t in straight pieces
    that meet at |delta| and |delta| - room; the piece that holds eps gives t in closed form.
    """
    size = delta.flatten(1).abs()
    room = torch.where(delta > 0, 1 - centre, centre).flatten(1)
    held = torch.minimum(size, room)
    outside = (held.sum(dim=1) > eps).nonzero().flatten()
    if len(outside):
        wide, limit = size[outside].double(), room[outside].double()
        # from the right: the slope grows by one where an entry comes in, falls where it is full
        knots = torch.cat([wide, wide - limit], dim=1)
        bends = torch.ones_like(knots)
        bends[:, wide.shape[1] :] = -1
        knots, order = knots.sort(dim=1, descending=True)
        slope = bends.gather(1, order).cumsum(dim=1)
        gaps = knots[:, :-1] - knots[:, 1:]
        left = torch.zeros_like(knots)
        left[:, 1:] = (slope[:, :-1] * gaps).cumsum(dim=1)
        last = (left <= eps).sum(dim=1, keepdim=True) - 1
        missing = eps - left.gather(1, last)
        threshold = knots.gather(1, last) - missing / slope.gather(1, last).clamp_min(1)
        shrunk = (wide - threshold.clamp_min(0)).clamp_min(0)
        held[outside] = torch.minimum(shrunk, limit).to(held.dtype)
    return torch.clamp(centre + delta.sign() * held.reshape(delta.shape), 0.0, 1.0)


def random_start(x: Tensor, eps: float, *, seeds: Sequence[int], norm: Norm = "linf") -> Tensor:
    """Uniform point of each image's ball, drawn from that image's own seed, brought into [0, 1].

    Seeds an image, not a batch: another batch size does not change the draws.
    """
    noise = torch.empty_like(x, device="cpu")
    for row, seed in zip(noise, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        if norm == "linf":
            row.uniform_(-eps, eps, generator=generator)
        elif norm == "l2":  # uniform in direction, and the radius so that every volume is as likely
            row.normal_(generator=generator)
            share = torch.rand((), generator=generator, dtype=torch.float64) ** (1 / row.numel())
            row *= eps * float(share) / float(torch.linalg.vector_norm(row))
        else:  # exponentials over their sum with one more fill the simplex evenly
            row.exponential_(generator=generator)
            one_more = torch.empty((), dtype=x.dtype).exponential_(generator=generator)
            signs = torch.randint(0, 2, row.shape, generator=generator) * 2 - 1
            row *= eps / (row.sum() + one_more) * signs
    return project(x + noise.to(x.device), x, eps, norm)


def distance(x: Tensor, centre: Tensor, norm: Norm = "linf") -> Tensor:
    """Distance (B,) of images (B, 3, H, W) to others in a norm."""
    delta = (x - centre).flatten(1)
    if norm == "linf":  # many times as fast as the norm of infinite order
        return delta.abs_().amax(dim=1)
    # In l1 many entries of like size add up: in float32 the sum drifts by more than `slack`.
    order = 1 if norm == "l1" else 2
    length: Tensor = torch.linalg.vector_norm(delta, ord=order, dim=1, dtype=torch.float64)
    return length.to(delta.dtype)


def slack(eps: float, norm: Norm) -> float:
    """What rounding in float32 may add to the distance of a point of the ball."""
    return 1e-6 if norm == "linf" else 1e-5 * (1 + eps)


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """The unit step (B, 3, H, W) that gains most to first order; zero where the gradient is.

    In l1 that step would move a single entry. As in SLIDE (Tramer and Boneh, NeurIPS 2019) the
    largest hundredth of the entries move alike.
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l1":
        return sparse_direction(gradient, torch.full_like(gradient[:, 0, 0, 0], SPARSITY))
    # By the largest entry first: squares of small gradients would underflow.
    tiny = torch.finfo(gradient.dtype).tiny
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(tiny)
    scaled = gradient / largest
    length = torch.linalg.vector_norm(scaled.flatten(1), dim=1).clamp_min(tiny)
    unit: Tensor = scaled / length[:, None, None, None]
    return unit


def held(gradient: Tensor, current: Tensor) -> Tensor:
    """Which entries the box keeps from following the gradient; (B, 3, H, W), bool."""
    return torch.where(gradient > 0, current >= 1 - EDGE, current <= EDGE)


def sparse_direction(gradient: Tensor, share: Tensor, held: Tensor | None = None) -> Tensor:
    """Signs of each image's largest gradient entries, as a step of l1 length 1.

    Parameters
    ----------
    gradient : Tensor, (B, 3, H, W)
        Its signs are taken.
    share : Tensor, (B,), in [0, 1]
        Of the entries to move; at least one.
    held : Tensor, (B, 3, H, W), bool, optional
        Entries that the box keeps from moving: they are pushed on where they are large enough,
        but do not count among the share.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Zero where the gradient is.
    """
    size = gradient.flatten(1).abs()
    counted = size if held is None else size.masked_fill(held.flatten(1), -1.0)
    count = (share * size.shape[1]).long().clamp(1, size.shape[1])
    ordered = counted.topk(int(count.max()), dim=1).values
    limit = ordered.gather(1, (count - 1)[:, None]).clamp_min(0)
    moved = (size >= limit).to(gradient.dtype) * gradient.flatten(1).sign()
    length = (counted >= limit).to(gradient.dtype) * moved.abs()
    unit: Tensor = moved / length.sum(dim=1, keepdim=True).clamp_min(1)
    return unit.reshape(gradient.shape)
