"""How the learning rate and the averaged weights move."""

from __future__ import annotations

import math

import torch
from torch import nn

from robustad.training.config import OptimiserConfig


def learning_rate(config: OptimiserConfig, epoch: float) -> float:
    """Learning rate after `epoch` epochs, a fraction counting the steps of the current one.

    Notes
    -----
    A linear warm-up, then a cosine from `lr` to `lr * final_lr` over all epochs (PatchGuard,
    supplement G).

    Examples
    --------
    >>> config = OptimiserConfig(lr=1.0, final_lr=0.0, epochs=10, warmup=1)
    >>> [round(learning_rate(config, epoch), 3) for epoch in (0, 0.5, 5, 10)]
    [0.0, 0.497, 0.5, 0.0]
    """
    floor = config.lr * config.final_lr
    turn = math.pi * min(epoch / config.epochs, 1.0)
    rate = floor + (config.lr - floor) * 0.5 * (1 + math.cos(turn))
    return rate * min(1.0, epoch / config.warmup) if config.warmup else rate


@torch.no_grad()
def average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards those of the network; buffers are copied.

    Parameters
    ----------
    averaged, network : nn.Module
        Of one kind.
    decay : float in [0, 1)
        Share of the average that stays; less in the first steps, `(1 + step) / (10 + step)`.
    step : int >= 0
        Steps done before.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for old, new in zip(averaged.parameters(), network.parameters(), strict=True):
        old.lerp_(new.detach(), share)
    for kept, now in zip(averaged.buffers(), network.buffers(), strict=True):
        kept.copy_(now)
