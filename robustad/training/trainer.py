"""The training loop: epochs, validations, checkpoints, and how a killed run goes on."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from robustad.detectors import PatchGuard
from robustad.errors import StateError, TrainingError
from robustad.networks import set_fused_attention
from robustad.progress import status
from robustad.pseudo import PseudoAnomalies
from robustad.training import checkpoint
from robustad.training.checkpoint import Progress
from robustad.training.config import TrainingConfig
from robustad.training.distributed import Processes
from robustad.training.images import Images, split
from robustad.training.log import Log
from robustad.training.schedule import average, learning_rate
from robustad.training.seeds import DROPOUT, ORDER, PSEUDO, START, seeds
from robustad.training.step import Step
from robustad.training.validation import Found, Validation

CHECKPOINT, BEST, FINAL = "checkpoint.safetensors", "best.safetensors", "detector.safetensors"


class Trainer:
    """One run.

    Parameters
    ----------
    detector : PatchGuard
        Its network is trained in place.
    images : Images
        All normal images; some are held out.
    pseudo : PseudoAnomalies
        Makes the anomalous half.
    config : TrainingConfig
        Of the run.
    out : Path
        Folder for checkpoint, log and detector.
    data_hash : str
        Of the images, so that a checkpoint of another run is refused.
    processes : Processes
        This process among those of the run.
    """

    def __init__(
        self,
        detector: PatchGuard,
        images: Images,
        pseudo: PseudoAnomalies,
        config: TrainingConfig,
        out: Path,
        *,
        data_hash: str,
        processes: Processes,
    ) -> None:
        self.detector, self.config, self.out = detector, config, out
        self.processes, self.device = processes, processes.device
        self.network = detector.network
        self.images, held_out = split(images, config.validation.fraction, config.seed)
        self.optimiser = AdamW(
            self.network.parameters(),
            lr=config.optimiser.lr,
            weight_decay=config.optimiser.weight_decay,
        )
        trained: nn.Module = self.network
        if processes.count > 1:
            trained = DistributedDataParallel(self.network)
        if config.compile:
            trained = torch.compile(trained)  # type: ignore[assignment]
        self.step = Step(
            self.network,
            trained,
            self.optimiser,
            pseudo,
            config,
            top_k=detector.top_fraction,
            device=self.device,
        )
        # torch's fused attention on CPUs goes backward in bfloat16 at half the speed of the one
        # that is written out; in float32 they are level.
        slow = self.device.type == "cpu" and self.step.attack_dtype == torch.bfloat16
        set_fused_attention(self.network, not slow)
        self.validation = Validation(held_out, pseudo, config, self.network.grid, self.device)
        self.averaged = copy.deepcopy(self.network) if config.optimiser.ema is not None else None
        # Perturbations that the last attacks on each image ended with, normal and pseudo-anomalous.
        self.ended: Tensor | None = None
        if config.attack.start == "warm":
            self.ended = torch.zeros(
                len(self.images), 2, *images.pixels.shape[1:], dtype=torch.float16
            )
        self.progress = Progress(config=config.fingerprint(), data=data_hash)
        self.best: Found | None = None

    def run(
        self, *, progress: bool = False, say: Callable[[str], None] = lambda line: None
    ) -> None:
        """Train to the end; what is kept in the network are the best weights.

        Parameters
        ----------
        progress : bool, default False
            Show a progress bar.
        say : callable, optional
            Called with a line about each validation.

        Raises
        ------
        TrainingError
            If the loss stops being finite.
        StateError
            If a checkpoint in `out` belongs to another run, or is damaged.
        """
        self._resume()
        epochs = self.config.optimiser.epochs
        per_epoch = len(self._batches(0))
        history = self.progress.history
        first = self.processes.first
        total = epochs * per_epoch
        with status("train", total, enabled=progress and first) as show:
            log = Log(self.out, history) if first else None
            while self.progress.epoch < epochs and not self._stopped():
                row = self._epoch(self.progress.epoch, per_epoch, show)
                self.progress.epoch += 1
                found = self._validate()
                if found and first:
                    say(_line(row | found))
                row |= found
                history.append(row)
                if first:
                    self._save()
                    if log is not None:
                        log.add(row)
                self.processes.wait()
            if log is not None:
                log.close()
        self._take_best()

    def _batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Images of each step with the draw they are on."""
        optimiser = self.config.optimiser
        (key,) = seeds(self.config.seed, ORDER, epoch, count=1)
        order = np.random.default_rng(key)
        items: list[tuple[int, int]] = []
        for draw in range(optimiser.repeats):
            items += [(int(row), draw) for row in order.permutation(len(self.images))]
        size = optimiser.batch_size
        made = [items[start : start + size] for start in range(0, len(items), size)]
        for batch in made:  # processes need equal parts: gradients are averaged over them
            short = -len(batch) % self.processes.count
            batch += (batch * short)[:short]
        return made

    def _epoch(self, epoch: int, per_epoch: int, show: Any) -> dict[str, float]:
        torch.manual_seed(seeds(self.config.seed, DROPOUT, epoch, self.processes.rank, count=1)[0])
        began, sums, done = time.perf_counter(), np.zeros(2), 0
        norms = []
        for number, batch in enumerate(self._batches(epoch)):
            share = batch[self.processes.rank :: self.processes.count]
            rate = learning_rate(self.config.optimiser, epoch + number / per_epoch)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            strength = self.config.attack.strength(epoch + number / per_epoch)
            figures = self._one(epoch, share, strength)
            if not np.isfinite([figures["loss"], figures["regulariser"]]).all():
                raise TrainingError(
                    f"the loss is not finite (loss {figures['loss']}, regulariser "
                    f"{figures['regulariser']}) in epoch {epoch + 1}, step {number + 1}; "
                    f"{self.out / CHECKPOINT} holds the state after epoch {epoch}. A smaller "
                    "optimiser.lr or attack_precision=float32 may help"
                )
            if self.averaged is not None:
                decay = self.config.optimiser.ema or 0.0
                average(self.averaged, self.network, decay, epoch * per_epoch + number)
            sums += len(batch) * np.array([figures["loss"], figures["regulariser"]])
            done += len(batch)
            norms.append(figures.get("gradient_norm", 0.0))
            speed = done / (time.perf_counter() - began)
            show(epoch * per_epoch + number + 1, self._status(epoch, sums[0] / done, speed))
        seconds = time.perf_counter() - began
        return {
            "epoch": epoch + 1,
            "loss": sums[0] / done,
            "regulariser": sums[1] / done,
            "gradient_norm": float(np.mean(norms)),
            "learning_rate": rate,
            "images_per_second": done / seconds,
            "seconds": seconds,
        }

    def _one(self, epoch: int, items: list[tuple[int, int]], strength: float) -> dict[str, float]:
        """One step on some (image, draw), attacked at a share of eps."""
        rows = [row for row, _ in items]
        normal, foreground = self.images.take(rows, self.device)
        seed = self.config.seed
        pseudo_seeds = [seeds(seed, PSEUDO, epoch, *item, count=1)[0] for item in items]
        starts = [seeds(seed, START, epoch, *item, count=2) for item in items]
        start = None
        if self.ended is not None and (epoch > 0 or self.progress.epoch > 0):
            start = self.ended[rows].transpose(0, 1).flatten(0, 1).float().to(self.device)
        batch = self.step.attacked(
            normal,
            foreground,
            pseudo_seeds=pseudo_seeds,
            start_seeds=[pair[0] for pair in starts] + [pair[1] for pair in starts],
            start=start,
            strength=strength,
        )
        if self.ended is not None and batch.x.shape[0] > 2 * len(items):
            count = 2 * len(items)
            delta = (batch.x[count:] - batch.x[:count]).cpu().half()
            self.ended[rows] = delta.reshape(2, len(items), *delta.shape[1:]).transpose(0, 1)
        return self.step.update(batch)

    def _status(self, epoch: int, loss: float, speed: float) -> str:
        robust = "-" if self.best is None else f"{self.best.robust_auroc:.3f}"
        epochs = self.config.optimiser.epochs
        return (
            f"epoch {epoch + 1}/{epochs}  loss {loss:.3f}  robust AUROC {robust}  "
            f"{speed:.1f} images/s"
        )

    @property
    def kept(self) -> Any:
        """The network that is validated and kept."""
        return self.network if self.averaged is None else self.averaged

    def _validate(self) -> dict[str, float]:
        every, epoch = self.config.validation.every, self.progress.epoch
        due = every and (epoch % every == 0 or epoch == self.config.optimiser.epochs)
        if not due:
            return {}
        # In every process: each comes to the same figures, and to the same decision to stop.
        found = self.validation.run(self.kept, self.detector.top_fraction, self.step.attack_dtype)
        if found.better_than(self.best):
            self.best = found
            self.progress.best_epoch, self.progress.stale = epoch, 0
            if self.processes.first:
                self._write(BEST, checkpoint.prefixed("network", self.kept.state_dict()))
        else:
            self.progress.stale += 1
        return found.figures

    def _stopped(self) -> bool:
        patience = self.config.validation.patience
        return patience is not None and self.progress.stale >= patience

    def _save(self) -> None:
        tensors = checkpoint.prefixed("network", self.network.state_dict())
        tensors |= checkpoint.optimiser_tensors(self.optimiser, self.network)
        if self.averaged is not None:
            tensors |= checkpoint.prefixed("averaged", self.averaged.state_dict())
        if self.ended is not None:
            tensors["ended"] = self.ended
        self._write(CHECKPOINT, tensors)

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        checkpoint.write(self.out / name, self.progress, tensors)

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        found, tensors = checkpoint.read(path)
        checkpoint.check_same(path, found, self.progress.config, self.progress.data)
        self.progress = found
        _load(self.network, checkpoint.unprefixed("network", tensors), path)
        checkpoint.restore_optimiser(self.optimiser, self.network, tensors, path)
        if self.averaged is not None:
            _load(self.averaged, checkpoint.unprefixed("averaged", tensors), path)
        if self.ended is not None:
            self.ended = tensors["ended"]
        if found.best_epoch is not None:
            row = found.history[found.best_epoch - 1]
            self.best = Found(
                row["val_clean_auroc"], row["val_robust_auroc"], row["val_robust_loss"], {}
            )

    def _take_best(self) -> None:
        """Put the weights that are kept into the detector."""
        if self.progress.best_epoch is None:
            if self.averaged is not None:
                self.network.load_state_dict(self.averaged.state_dict())
        else:
            path = self.out / BEST
            found, tensors = checkpoint.read(path)
            if found.best_epoch != self.progress.best_epoch or found.data != self.progress.data:
                raise StateError(
                    f"{path}: expected the weights after epoch {self.progress.best_epoch}, got "
                    f"those after epoch {found.best_epoch}"
                )
            _load(self.network, checkpoint.unprefixed("network", tensors), path)
        set_fused_attention(self.network, True)
        self.network.eval()


def _line(row: dict[str, float]) -> str:
    return (
        f"epoch {row['epoch']}: loss {row['loss']:.3f}, held-out AUROC "
        f"{row['val_clean_auroc']:.3f} clean, {row['val_robust_auroc']:.3f} attacked, "
        f"{row['images_per_second']:.1f} images/s"
    )


def _load(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise StateError(f"{path}: does not fit the network: {error}") from error
