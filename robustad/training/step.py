"""One training step: normal images, pseudo-anomalies, their attacked copies, one update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from robustad.networks import PatchNetwork
from robustad.pseudo import PseudoAnomalies
from robustad.training.config import Precision, TrainingConfig
from robustad.training.inner import adversarial, autocast
from robustad.training.loss import patch_loss, patch_targets, term_weights
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
    normal : int
        n.
    """

    x: Tensor
    target: Tensor
    normal: int


class Step:
    """All that a step needs besides its images.

    Parameters
    ----------
    network : PatchNetwork
        Attacked as it is.
    trained : nn.Module
        The same network, perhaps wrapped for several processes or compiled.
    optimiser : Optimizer
        Of its parameters.
    pseudo : PseudoAnomalies
        Makes the anomalous half.
    config : TrainingConfig
        Of the run.
    top_k : int or float
        Patches (or their share) in the image score.
    """

    def __init__(
        self,
        network: PatchNetwork,
        trained: nn.Module,
        optimiser: Optimizer,
        pseudo: PseudoAnomalies,
        config: TrainingConfig,
        *,
        top_k: int | float,
        device: torch.device,
    ) -> None:
        self.network, self.trained, self.optimiser = network, trained, optimiser
        self.pseudo, self.config, self.top_k, self.device = pseudo, config, top_k, device
        self.layers = layer_weights(config.regulariser, network)
        self.attack_dtype = resolve(config.attack_precision, device)
        self.dtype = resolve(config.precision, device)

    def attacked(
        self,
        normal: Tensor,
        foreground: Tensor,
        *,
        pseudo_seeds: Sequence[int],
        start_seeds: Sequence[int],
        start: Tensor | None = None,
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
        """
        made = self.pseudo(normal, foreground, seeds=list(pseudo_seeds))
        anomalous = patch_targets(made.mask, self.network.grid, self.config.loss.label_fraction)
        x = torch.cat([normal, made.images])
        target = torch.cat([torch.zeros_like(anomalous), anomalous])
        if not self.config.attack.steps:
            return Batch(x, target, normal.shape[0])
        adv = adversarial(
            self.network,
            x,
            target,
            self.config.attack,
            top_k=self.top_k,
            seeds=start_seeds,
            start=None if start is None else x + start,
            dtype=self.attack_dtype,
        )
        return Batch(torch.cat([x, adv]), torch.cat([target, target]), normal.shape[0])

    def update(self, batch: Batch) -> dict[str, float]:
        """Change the weights once; return the losses.

        A loss that is not finite leaves the weights as they are.
        """
        config = self.config
        images = batch.x.shape[0]
        weights = term_weights(
            config.loss, batch.normal, attacked=images > 2 * batch.normal, device=self.device
        )
        self.trained.train()
        self.optimiser.zero_grad(set_to_none=True)
        chunk = config.optimiser.chunk or images
        total = torch.zeros(2, device=self.device)
        for first in range(0, images, chunk):
            part = slice(first, first + chunk)
            last = first + chunk >= images
            shared = isinstance(self.trained, DistributedDataParallel) and not last
            with self.trained.no_sync() if shared else nullcontext():  # type: ignore[operator]
                with autocast(self.device, self.dtype):
                    logits, maps = self.trained(batch.x[part], attention=tuple(self.layers))
                entropy = patch_loss(logits.float(), batch.target[part], config.loss.reduction)
                loss = (weights[part] * entropy).sum()
                penalty = torch.zeros((), device=self.device)
                if self.layers:
                    each = regulariser(maps, [*self.layers.values()], config.regulariser)
                    # the mean over all images of the step, whatever its chunks
                    penalty = each.sum() / images
                torch.autograd.backward(loss + penalty)
            total += torch.stack([loss.detach(), penalty.detach()])
        loss, penalty = total.tolist()
        figures = {"loss": loss, "regulariser": penalty}
        if not math.isfinite(loss + penalty):
            return figures
        if config.optimiser.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.optimiser.clip)
            figures["gradient_norm"] = float(norm)
        self.optimiser.step()
        return figures


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
