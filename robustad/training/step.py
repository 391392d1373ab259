"""One training step: normal images, pseudo-anomalies, their attacked copies, one update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from robustad.networks import PatchNetwork
from robustad.pseudo import PseudoAnomalies
from robustad.training.config import Precision, TrainingConfig
from robustad.training.distributed import Processes
from robustad.training.inner import adversarial, autocast
from robustad.training.loss import (
    image_loss,
    patch_contrast,
    patch_loss,
    patch_targets,
    term_weights,
)
from robustad.training.portions import images_at_once, portions
from robustad.training.regulariser import layer_weights, regulariser


@dataclass(frozen=True)
class Batch:
    """Clean and attacked images of one step.

    Attributes
    ----------
    x : Tensor, (4n, 3, S, S) or (2n, 3, S, S)
        Normal, pseudo-anomalous, and the attacked copies of both.
    target : Tensor, (4n, N) or (2n, N), bool
        Anomalous patches.
    known : Tensor, (4n, N) or (2n, N), bool
        Patches that count in the loss.
    normal : int
        n.
    """

    x: Tensor
    target: Tensor
    known: Tensor
    normal: int


class Step:
    """All that a step needs besides its images.

    Parameters
    ----------
    network : PatchNetwork
        Attacked as it is, and trained; wrapped here if it is to be compiled or shared.
    optimiser : Optimizer
        Of its parameters.
    pseudo : PseudoAnomalies
        Makes the anomalous half.
    config : TrainingConfig
        Of the run.
    top_k : int or float
        Patches (or their share) in the image score.
    processes : Processes
        This process among those of the run.
    """

    def __init__(
        self,
        network: PatchNetwork,
        optimiser: Optimizer,
        pseudo: PseudoAnomalies,
        config: TrainingConfig,
        *,
        top_k: int | float,
        processes: Processes,
    ) -> None:
        self.network, self.optimiser = network, optimiser
        self.pseudo, self.config, self.top_k = pseudo, config, top_k
        self.processes, device = processes, processes.device
        self.device = device
        # What is called in place of the network: ten of eleven passes are the attacks'.
        self.attackee: Any = torch.compile(network) if config.compile else network
        self.trained = cast("nn.Module", self.attackee)
        if processes.count > 1:
            self.trained = DistributedDataParallel(self.attackee)
        self.layers = layer_weights(config.regulariser, network)
        self.attack_dtype = resolve(config.attack_precision, device)
        self.dtype = resolve(config.precision, device)
        self.at_once = config.optimiser.chunk or images_at_once(network, device)

    def attacked(
        self,
        normal: Tensor,
        foreground: Tensor,
        *,
        pseudo_seeds: Sequence[int],
        start_seeds: Sequence[int],
        start: Tensor | None = None,
        strength: float = 1.0,
    ) -> Batch:
        """Make the anomalous half and the attacked copies of a batch of normal images.

        Parameters
        ----------
        normal : Tensor, (n, 3, S, S)
            Normal images.
        foreground : Tensor, (n, S, S), bool
            Where pseudo-anomalies may be.
        pseudo_seeds : sequence of int
            n seeds of pseudo-anomalies.
        start_seeds : sequence of int
            2n seeds of random starts.
        start : Tensor, (2n, 3, S, S), optional
            Perturbations that earlier attacks ended with.
        strength : float in [0, 1], default 1
            Share of eps; 0 for no attack.
        """
        made = self.pseudo(normal, foreground, seeds=list(pseudo_seeds))
        anomalous = patch_targets(made.mask, self.network.grid, self.config.loss.label_fraction)
        x = torch.cat([normal, made.images])
        target = torch.cat([torch.zeros_like(anomalous), anomalous])
        known = torch.ones_like(target)
        if self.config.loss.least_contrast > 0:
            contrast = patch_contrast(made.images, normal, self.network.grid)
            known[normal.shape[0] :] = (contrast >= self.config.loss.least_contrast) | (
                contrast == 0
            )
        if not strength or not self.config.attack.steps:
            return Batch(x, target, known, normal.shape[0])
        adv = [
            adversarial(
                self.attackee,
                x[part],
                target[part],
                self.config.attack,
                top_k=self.top_k,
                seeds=start_seeds[part],
                start=None if start is None else x[part] + start[part],
                strength=strength,
                dtype=self.attack_dtype,
            )
            for part in portions(x.shape[0], self.at_once)
        ]
        return Batch(
            torch.cat([x, *adv]),
            torch.cat([target, target]),
            torch.cat([known, known]),
            normal.shape[0],
        )

    def update(self, batch: Batch) -> dict[str, float]:
        """Change the weights once; return the losses and the norm of their gradient.

        If one of them is not finite, the weights stay as they are, in every process.
        """
        config = self.config
        images = batch.x.shape[0]
        weights = term_weights(
            config.loss, batch.normal, attacked=images > 2 * batch.normal, device=self.device
        )
        self.trained.train()
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros(2, device=self.device)
        for part in portions(images, self.at_once):
            last = part.stop == images
            shared = isinstance(self.trained, DistributedDataParallel) and not last
            with self.trained.no_sync() if shared else nullcontext():  # type: ignore[operator]
                with autocast(self.device, self.dtype):
                    logits, maps = self.trained(batch.x[part], attention=tuple(self.layers))
                loss = (weights[part] * self._entropy(logits.float(), batch, part)).sum()
                penalty = torch.zeros((), device=self.device)
                if self.layers:
                    each = regulariser(maps, [*self.layers.values()], config.regulariser)
                    # the mean over all images of the step, whatever its chunks
                    penalty = each.sum() / images
                torch.autograd.backward(loss + penalty)
            total += torch.stack([loss.detach(), penalty.detach()])
        loss, penalty = self.processes.mean(total).tolist()
        # Gradients are those of all processes by now.
        trained = [p for p in self.network.parameters() if p.grad is not None]
        if config.optimiser.clip is None:
            norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        else:
            norm = nn.utils.clip_grad_norm_(trained, config.optimiser.clip)
        figures = {"loss": loss, "regulariser": penalty, "gradient_norm": float(norm)}
        if all(math.isfinite(figure) for figure in figures.values()):
            self.optimiser.step()
        return figures

    def _entropy(self, logits: Tensor, batch: Batch, part: slice) -> Tensor:
        """Loss (b,) of each image of a part of the batch."""
        config, target = self.config.loss, batch.target[part]
        entropy = patch_loss(logits, target, config.reduction, batch.known[part])
        if config.image:
            entropy = entropy + config.image * image_loss(logits, target, self.top_k)
        return entropy


def resolve(precision: Precision, device: torch.device) -> torch.dtype:
    """Choose the number format; `auto` takes bfloat16 where matrix units compute in it."""
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        fit = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # AVX-512's bf16 products and AMX's tiles are faster than float32, emulation is slower
        fit = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
    return torch.bfloat16 if fit else torch.float32
