"""Projected gradient ascent in the l-infinity or l2 ball, FGSM being its single l-infinity step."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from robustad.attacks.gradient import ImageLoss, value_and_gradient
from robustad.errors import InputError

Norm: TypeAlias = Literal["linf", "l2"]


def fgsm(loss: ImageLoss, x: Tensor, *, eps: float) -> Tensor:
    """One step of `eps` along the gradient's sign.

    Parameters
    ----------
    loss : callable
        Loss per image (B,) of images (B, 3, H, W); maximised.
    x : Tensor, (B, 3, H, W), float32 in [0, 1]
        Clean images.
    eps : float in (0, 1]
        Radius as a fraction of the pixel range.

    Returns
    -------
    Tensor, (B, 3, H, W)
        In [0, 1] and within `eps` of `x`.

    Notes
    -----
    Goodfellow et al., ICLR 2015.
    """
    _, gradient = value_and_gradient(loss, x)
    return project(x + eps * gradient.sign(), x, eps)


def pgd(
    loss: ImageLoss,
    x: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float | None = None,
    start: Tensor | None = None,
    keep_best: bool = True,
    norm: Norm = "linf",
) -> Tensor:
    """Repeated gradient steps of one length, projected back to the ball.

    Parameters
    ----------
    loss : callable
        Loss per image (B,) of images (B, 3, H, W); maximised.
    x : Tensor, (B, 3, H, W), float32 in [0, 1]
        Clean images.
    eps : float > 0
        Radius as a fraction of the pixel range; in l2 of the whole image taken as one vector.
    steps : int >= 1
        Number of gradient steps.
    step_size : float, optional
        Default 2.5 eps / steps.
    start : Tensor, optional
        First iterate, projected to the ball; default the clean images, as published.
    keep_best : bool, default True
        Return each image's iterate of highest loss rather than the last one. The first iterate
        counts, so that from a clean start no image's loss falls.
    norm : {"linf", "l2"}, default "linf"
        Steps follow the gradient's sign, or each image's gradient scaled to length one.

    Returns
    -------
    Tensor, (B, 3, H, W)
        In [0, 1] and within `eps` of `x`, up to rounding.

    Raises
    ------
    InputError
        If `steps` or `step_size` is out of range.

    Notes
    -----
    Madry et al., ICLR 2018. With `keep_best` it costs one forward pass more.
    """
    if steps < 1:
        raise InputError(f"steps: expected >= 1, got {steps}")
    size = 2.5 * eps / steps if step_size is None else step_size
    if size <= 0:
        raise InputError(f"step_size: expected > 0, got {size}")
    current = x if start is None else project(start, x, eps, norm)
    best, best_loss = current, torch.full((x.shape[0],), -torch.inf, device=x.device)
    for _ in range(steps):
        values, gradient = value_and_gradient(loss, current)
        best, best_loss = _better(current, values, best, best_loss)
        current = project(current + size * _direction(gradient, norm), x, eps, norm)
    if not keep_best:
        return current
    with torch.no_grad():
        values = loss(current)
    return _better(current, values, best, best_loss)[0]


def project(x: Tensor, centre: Tensor, eps: float, norm: Norm = "linf") -> Tensor:
    """Bring `x` within `eps` of `centre`, itself in [0, 1], and into [0, 1].

    In l-infinity the nearest such point. In l2 the nearest point of the ball, then clipped: as
    `centre` is in [0, 1], clipping only brings it nearer.
    """
    if norm == "linf":
        return torch.clamp(torch.minimum(torch.maximum(x, centre - eps), centre + eps), 0.0, 1.0)
    delta = x - centre
    length = torch.linalg.vector_norm(delta.flatten(1), dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    shrunk = delta * (eps / length).clamp(max=1.0)[:, None, None, None]
    return torch.clamp(centre + shrunk, 0.0, 1.0)


def random_start(x: Tensor, eps: float, *, seeds: list[int], norm: Norm = "linf") -> Tensor:
    """Uniform point of each image's ball, drawn from that image's own seed.

    Seeds an image, not a batch: another batch size does not change the draws.
    """
    noise = torch.empty_like(x, device="cpu")
    for row, seed in zip(noise, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        if norm == "linf":
            row.uniform_(-eps, eps, generator=generator)
        else:  # uniform in direction, and the radius so that every volume is as likely
            row.normal_(generator=generator)
            share = torch.rand((), generator=generator, dtype=torch.float64) ** (1 / row.numel())
            row *= eps * float(share) / float(torch.linalg.vector_norm(row))
    return project(x + noise.to(x.device), x, eps, norm)


def distance(x: Tensor, centre: Tensor, norm: Norm = "linf") -> Tensor:
    """Distance (B,) of images (B, 3, H, W) to others in a norm."""
    delta = (x - centre).flatten(1)
    if norm == "linf":
        return delta.abs().amax(dim=1)
    length: Tensor = torch.linalg.vector_norm(delta, dim=1)
    return length


def _direction(gradient: Tensor, norm: Norm) -> Tensor:
    """The unit of a step; zero where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    # By the largest entry first: squares of small gradients would underflow.
    tiny = torch.finfo(gradient.dtype).tiny
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(tiny)
    scaled = gradient / largest
    length = torch.linalg.vector_norm(scaled.flatten(1), dim=1).clamp_min(tiny)
    unit: Tensor = scaled / length[:, None, None, None]
    return unit


def _better(
    current: Tensor, values: Tensor, best: Tensor, best_loss: Tensor
) -> tuple[Tensor, Tensor]:
    better = values > best_loss
    return (
        torch.where(better[:, None, None, None], current, best),
        torch.where(better, values, best_loss),
    )
