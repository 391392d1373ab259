"""Projected gradient ascent in the l-infinity ball, FGSM being its single step."""

import torch
from torch import Tensor

from robustad.attacks.gradient import ImageLoss, value_and_gradient
from robustad.errors import InputError


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
) -> Tensor:
    """Repeated signed gradient steps, projected back to the ball.

    Parameters
    ----------
    loss : callable
        Loss per image (B,) of images (B, 3, H, W); maximised.
    x : Tensor, (B, 3, H, W), float32 in [0, 1]
        Clean images.
    eps : float in (0, 1]
        Radius as a fraction of the pixel range.
    steps : int >= 1
        Number of gradient steps.
    step_size : float, optional
        Default 2.5 eps / steps.
    start : Tensor, optional
        First iterate, projected to the ball; default the clean images, as published.
    keep_best : bool, default True
        Return each image's iterate of highest loss rather than the last one. The first iterate
        counts, so that from a clean start no image's loss falls.

    Returns
    -------
    Tensor, (B, 3, H, W)
        In [0, 1] and within `eps` of `x`.

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
    current = x if start is None else project(start, x, eps)
    best, best_loss = current, torch.full((x.shape[0],), -torch.inf, device=x.device)
    for _ in range(steps):
        values, gradient = value_and_gradient(loss, current)
        best, best_loss = _better(current, values, best, best_loss)
        current = project(current + size * gradient.sign(), x, eps)
    if not keep_best:
        return current
    with torch.no_grad():
        values = loss(current)
    return _better(current, values, best, best_loss)[0]


def project(x: Tensor, centre: Tensor, eps: float) -> Tensor:
    """Nearest point to `x` within `eps` of `centre` (l-infinity) and within [0, 1]."""
    return torch.clamp(torch.minimum(torch.maximum(x, centre - eps), centre + eps), 0.0, 1.0)


def random_start(x: Tensor, eps: float, *, seeds: list[int]) -> Tensor:
    """Uniform point of each image's ball, drawn from that image's own seed.

    Seeds an image, not a batch: another batch size does not change the draws.
    """
    noise = torch.empty_like(x, device="cpu")
    for row, seed in zip(noise, seeds, strict=True):
        row.uniform_(-eps, eps, generator=torch.Generator().manual_seed(seed))
    return project(x + noise.to(x.device), x, eps)


def _better(
    current: Tensor, values: Tensor, best: Tensor, best_loss: Tensor
) -> tuple[Tensor, Tensor]:
    better = values > best_loss
    return (
        torch.where(better[:, None, None, None], current, best),
        torch.where(better, values, best_loss),
    )
