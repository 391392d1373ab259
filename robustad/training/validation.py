"""Robust validation: held-out normal images and pseudo-anomalies under the aligned attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad.metrics import auroc
from robustad.networks import PatchNetwork
from robustad.ops import topk_mean
from robustad.pseudo import PseudoAnomalies
from robustad.training.config import AttackConfig, TrainingConfig, TrainingObjective
from robustad.training.images import Images
from robustad.training.inner import adversarial
from robustad.training.loss import patch_loss, patch_targets
from robustad.training.regulariser import spread, watched_layers
from robustad.training.seeds import VALIDATION_PSEUDO, VALIDATION_START, seeds

FloatArray = npt.NDArray[np.floating[Any]]
ALIGNED: tuple[TrainingObjective, ...] = ("image", "flip")


@dataclass(frozen=True)
class Found:
    """What a validation found.

    Attributes
    ----------
    clean_auroc, robust_auroc : float in [0, 1]
        Of image scores; the robust one of each image's worst score over clean, PGD on `image` and
        PGD on `flip`.
    robust_loss : float
        Mean class-balanced patch loss of the attacked images, worse of both attacks.
    figures : dict of str to float
        All of these and the spread of attention, as logged.
    """

    clean_auroc: float
    robust_auroc: float
    robust_loss: float
    figures: dict[str, float]

    def better_than(self, other: Found | None) -> bool:
        """Whether these weights are to be kept: higher robust AUROC, at a tie lower loss."""
        if other is None:
            return True
        return (self.robust_auroc, -self.robust_loss) > (other.robust_auroc, -other.robust_loss)


class Validation:
    """A fixed set of held-out normal images and pseudo-anomalies.

    Parameters
    ----------
    images : Images
        Held out.
    pseudo : PseudoAnomalies
        Makes the anomalous half; the draws are the same at every validation.
    config : TrainingConfig
        Of the run.
    grid : (int, int)
        Rows and columns of patches.
    device : torch.device
        Where to compute.
    """

    def __init__(
        self,
        images: Images,
        pseudo: PseudoAnomalies,
        config: TrainingConfig,
        grid: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.images, self.pseudo, self.config = images, pseudo, config
        self.grid, self.device = grid, device
        rows = range(len(images))
        # Draw 0 is the normal image itself, as many pseudo-anomalies as asked for follow.
        self.items = [(row, draw) for draw in range(config.validation.draws + 1) for row in rows]

    def run(self, network: PatchNetwork, top_k: int | float, dtype: torch.dtype) -> Found:
        """Attack and score everything; the network comes back in the mode it was in.

        Parameters
        ----------
        network : PatchNetwork
            What is judged.
        top_k : int or float
            Patches (or their share) in the image score.
        dtype : torch.dtype
            Attacks are computed in it, scores in float32.
        """
        parts = [
            self._batch(network, self.items[start : start + 16], top_k, dtype)
            for start in range(0, len(self.items), 16)
        ]
        label = np.array([draw > 0 for _, draw in self.items])
        clean, image, flip = (
            np.concatenate([scores[which] for scores, _ in parts]) for which in range(3)
        )
        both = np.stack([clean, image, flip])
        worst = np.where(label, both.min(axis=0), both.max(axis=0))
        losses = np.concatenate([p[1] for p in parts], axis=1).mean(axis=1)
        clean_auroc, robust_auroc = auroc(clean, label), auroc(worst, label)
        figures = {
            "val_clean_auroc": clean_auroc,
            "val_robust_auroc": robust_auroc,
            "val_robust_loss": float(losses.max()),
            **self._attention(network),
        }
        return Found(clean_auroc, robust_auroc, float(losses.max()), figures)

    def _batch(
        self,
        network: PatchNetwork,
        items: list[tuple[int, int]],
        top_k: int | float,
        dtype: torch.dtype,
    ) -> tuple[list[FloatArray], FloatArray]:
        x, foreground = self.images.take([row for row, _ in items], self.device)
        target = torch.zeros(len(items), self.grid[0] * self.grid[1], dtype=torch.bool)
        target = target.to(self.device)
        drawn = [place for place, (_, draw) in enumerate(items) if draw > 0]
        if drawn:
            keys = [
                seeds(self.config.seed, VALIDATION_PSEUDO, *items[place], count=1)[0]
                for place in drawn
            ]
            made = self.pseudo(x[drawn], foreground[drawn], seeds=keys)
            x[drawn] = made.images
            target[drawn] = patch_targets(made.mask, self.grid, self.config.loss.label_fraction)
        starts = [seeds(self.config.seed, VALIDATION_START, *item, count=1)[0] for item in items]
        scores, losses = [self._scores(network, x, top_k)], []
        for name in ALIGNED:
            attack = AttackConfig(
                eps=self.config.attack.eps, steps=self.config.validation.steps, objective=name
            )
            attacked = adversarial(
                network, x, target, attack, top_k=top_k, seeds=starts, dtype=dtype
            )
            scores.append(self._scores(network, attacked, top_k))
            losses.append(self._loss(network, attacked, target))
        return scores, np.stack(losses)

    @torch.no_grad()
    def _scores(self, network: PatchNetwork, x: Tensor, top_k: int | float) -> FloatArray:
        return topk_mean(_logits(network, x), top_k).cpu().numpy()

    @torch.no_grad()
    def _loss(self, network: PatchNetwork, x: Tensor, target: Tensor) -> FloatArray:
        return patch_loss(_logits(network, x), target, "balanced").cpu().numpy()

    @torch.no_grad()
    def _attention(self, network: PatchNetwork) -> dict[str, float]:
        """How attention spreads on the first normal images."""
        layers = watched_layers(self.config.regulariser, network)
        if not layers:
            return {}
        x, _ = self.images.take(list(range(min(8, len(self.images)))), self.device)
        was = network.training
        network.eval()
        _, maps = network(x, attention=layers)
        network.train(was)
        figures = {}
        for layer, found in spread(maps).items():
            name = layer.replace(" ", "_")
            figures[f"degree/{name}"] = found.degree
            figures[f"effective_degree/{name}"] = found.effective_degree
            figures[f"entropy/{name}"] = found.entropy
        return figures


def _logits(network: PatchNetwork, x: Tensor) -> Tensor:
    """Logits (B, N) in evaluation mode and float32; the network comes back in its mode."""
    was = network.training
    network.eval()
    logits: Tensor = network(x)[0]
    network.train(was)
    return logits.float()
