"""The inner loop: attacks on a training batch, as cheap as they can be had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustad.attacks.projection import project, random_start
from robustad.networks import PatchNetwork
from robustad.ops import topk_mean
from robustad.training.config import AttackConfig, TrainingObjective
from robustad.training.loss import patch_loss


def adversarial(
    network: PatchNetwork,
    x: Tensor,
    target: Tensor,
    config: AttackConfig,
    *,
    top_k: int | float,
    seeds: Sequence[int],
    start: Tensor | None = None,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Perturb a batch so that the network gets it wrong.

    Parameters
    ----------
    network : PatchNetwork
        Comes back in the mode it was in.
    x : Tensor, (B, 3, S, S), float32 in [0, 1]
        Normal images and pseudo-anomalies together.
    target : Tensor, (B, N), bool
        Anomalous patches.
    config : AttackConfig
        See there.
    top_k : int or float
        Patches (or their share) in the image score, for the objective `image`.
    seeds : sequence of int
        One an image: its random start, and for `mixed` its objective (even: `flip`).
    start : Tensor, (B, 3, S, S), optional
        Where earlier attacks on these images ended, for `start: warm`; NaN for images that were
        never attacked, which start at random.
    strength : float in (0, 1], default 1
        Share of eps and step size.
    dtype : torch.dtype, default float32
        Autocast to this type while attacking.

    Returns
    -------
    Tensor, (B, 3, S, S), float32
        In [0, 1] and within eps of `x`.

    Notes
    -----
    Madry et al., ICLR 2018. Only the images' gradient is computed: parameters take no part in the
    backward pass. NaN gradients leave an image where it is; the loss then shows it.
    """
    eps, steps = strength * config.eps, config.steps
    size = 2.5 * eps / steps if config.step_size is None else strength * config.step_size
    if config.start == "zero":
        current = x
    else:
        current = random_start(x, eps, seeds=list(seeds))
        if config.start == "warm" and start is not None:
            current = torch.where(start.isnan(), current, project(start, x, eps))
    even = torch.tensor([seed % 2 == 0 for seed in seeds], device=x.device)
    best, best_value = current, torch.full((x.shape[0],), -torch.inf, device=x.device)
    keep = config.keep == "best"
    with _attackable(network, config.mode):
        for _ in range(steps):
            leaf = current.detach().requires_grad_(True)
            with torch.enable_grad(), autocast(x.device, dtype):
                logits, _ = network(leaf)
                value = objective(config.objective, logits.float(), target, top_k, even)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            if keep:
                best, best_value = _better(current, value.detach(), best, best_value)
            step = torch.nan_to_num(gradient.sign(), nan=0.0)
            current = project(current + size * step, x, eps)
        if keep:
            with torch.no_grad(), autocast(x.device, dtype):
                logits, _ = network(current)
                value = objective(config.objective, logits.float(), target, top_k, even)
            current, _ = _better(current, value, best, best_value)
    return current.detach()


def objective(
    name: TrainingObjective, logits: Tensor, target: Tensor, top_k: int | float, even: Tensor
) -> Tensor:
    """What the inner loop maximises, one value an image (B,); see `AttackConfig`."""
    if name == "bce":
        return patch_loss(logits, target, "balanced")
    if name == "flip":
        return _flip(logits, target)
    up = torch.where(target.any(dim=1), -1.0, 1.0)
    image = up * topk_mean(logits, top_k)
    if name == "image":
        return image
    return torch.where(even, _flip(logits, target), image)


def _flip(logits: Tensor, target: Tensor) -> Tensor:
    inside = target.to(logits.dtype)
    outside = 1 - inside
    raised = (logits * outside).sum(dim=1) / outside.sum(dim=1).clamp_min(1)
    lowered = (logits * inside).sum(dim=1) / inside.sum(dim=1).clamp_min(1)
    return raised - lowered


def _better(
    current: Tensor, value: Tensor, best: Tensor, best_value: Tensor
) -> tuple[Tensor, Tensor]:
    better = value > best_value
    return (
        torch.where(better[:, None, None, None], current, best),
        torch.where(better, value, best_value),
    )


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to `dtype`; nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@contextmanager
def _attackable(network: nn.Module, mode: str) -> Iterator[None]:
    """Freeze the parameters and set the mode for a while."""
    modes = [(part, part.training) for part in network.modules()]
    trained = [p for p in network.parameters() if p.requires_grad]
    network.train(mode == "train")
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part, training in modes:
            part.training = training
