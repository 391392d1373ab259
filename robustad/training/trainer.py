"""The training loop: epochs, validations, checkpoints, and how a killed run goes on."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import AdamW

from robustad.detectors import PatchGuard
from robustad.errors import TrainingError
from robustad.networks import set_fused_attention
from robustad.progress import status
from robustad.pseudo import PseudoAnomalies
from robustad.training import checkpoint
from robustad.training.augment import augmented
from robustad.training.checkpoint import Progress
from robustad.training.config import TrainingConfig
from robustad.training.distributed import Processes
from robustad.training.images import Images, split
from robustad.training.log import Log
from robustad.training.schedule import average, learning_rate
from robustad.training.seeds import AUGMENT, DROPOUT, ORDER, PSEUDO, START, seeds
from robustad.training.step import Step
from robustad.training.validation import Found, Validation
from robustad.training.warm import WarmStarts

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
    progress : Progress
        Of a run that begins: what it is made from, so that a checkpoint of another one is refused.
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
        progress: Progress,
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
        self.step = Step(
            self.network,
            self.optimiser,
            pseudo,
            config,
            top_k=detector.top_fraction,
            processes=processes,
        )
        # torch's fused attention on CPUs goes backward in bfloat16 at half the speed of the one
        # that is written out; in float32 they are level.
        slow = self.device.type == "cpu" and self.step.attack_dtype == torch.bfloat16
        set_fused_attention(self.network, not slow)
        self.validation = Validation(held_out, pseudo, config, self.network.grid, self.device)
        self.averaged = copy.deepcopy(self.network) if config.optimiser.ema is not None else None
        self.warm: WarmStarts | None = None
        if config.attack.start == "warm":
            self.warm = WarmStarts(len(self.images), images.pixels.shape[1:])
        self.progress = progress
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
        log_file = Log(self.out, history) if first else nullcontext()
        with status("train", total, enabled=progress and first) as show, log_file as log:
            while self.progress.epoch < epochs and not self._stopped():
                row = self._epoch(self.progress.epoch, per_epoch, show)
                self.progress.epoch += 1
                found = self._validate()
                if found and first:
                    say(_line(row | found))
                row |= found
                history.append(row)
                if log is not None:
                    # The log first: a kill between the two leaves a row that is written again.
                    with checkpoint.writing(self.out):
                        log.add(row)
                    self._save()
                self.processes.wait()
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
            rate = learning_rate(self.config.optimiser, epoch + number / per_epoch)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            strength = self.config.attack.strength(epoch + number / per_epoch)
            figures = self._one(epoch, batch, strength)
            if not np.isfinite([*figures.values()]).all():
                raise TrainingError(
                    f"the loss or its gradient is not finite (loss {figures['loss']}, regulariser "
                    f"{figures['regulariser']}, norm of the gradient {figures['gradient_norm']}) "
                    f"in epoch {epoch + 1}, step {number + 1}; {self._state(epoch)}. A smaller "
                    "optimiser.lr, or attack_precision and precision of float32, may help"
                )
            if self.averaged is not None:
                decay = self.config.optimiser.ema or 0.0
                average(self.averaged, self.network, decay, epoch * per_epoch + number)
            sums += len(batch) * np.array([figures["loss"], figures["regulariser"]])
            done += len(batch)
            norms.append(figures["gradient_norm"])
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

    def _state(self, epoch: int) -> str:
        if epoch == 0:
            return "no epoch was done, so nothing was kept"
        return f"{self.out / CHECKPOINT} holds the state after epoch {epoch}"

    def _one(self, epoch: int, batch: list[tuple[int, int]], strength: float) -> dict[str, float]:
        """One step on some (image, draw), shared by the processes, attacked at a share of eps."""
        items = self.processes.share(batch)
        normal, foreground = self.images.take([row for row, _ in items], self.device)
        seed = self.config.seed
        normal, foreground = augmented(
            normal,
            foreground,
            self.config.augmentation,
            seeds=[seeds(seed, AUGMENT, epoch, *item, count=1)[0] for item in items],
        )
        pseudo_seeds = [seeds(seed, PSEUDO, epoch, *item, count=1)[0] for item in items]
        starts = [seeds(seed, START, epoch, *item, count=2) for item in items]
        warm = self.warm
        made = self.step.attacked(
            normal,
            foreground,
            pseudo_seeds=pseudo_seeds,
            start_seeds=[pair[0] for pair in starts] + [pair[1] for pair in starts],
            start=None if warm is None else warm.take([row for row, _ in items], self.device),
            strength=strength,
        )
        clean = 2 * len(items)
        if warm is not None and made.x.shape[0] > clean:
            rows = [row for row, _ in batch]
            warm.keep(rows, made.x[clean:] - made.x[:clean], self.processes)
        return self.step.update(made)

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
        # In every process, as there is nothing else to do; what the first one finds is what counts.
        found = self.processes.agreed(
            self.validation.run(self.kept, self.detector.top_fraction, self.step.attack_dtype)
        )
        if found.better_than(self.best):
            self.best = found
            self.progress.best_epoch, self.progress.stale = epoch, 0
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
        if self.warm is not None:
            tensors["ended"] = self.warm.ended
        with checkpoint.writing(self.out):
            checkpoint.write(self.out / CHECKPOINT, self.progress, tensors)
        if self.progress.best_epoch == self.progress.epoch:
            self._save_best()

    def _save_best(self) -> None:
        """Keep the weights; after the checkpoint, from which they can be had if this is cut off."""
        tensors = checkpoint.prefixed("network", self.kept.state_dict())
        with checkpoint.writing(self.out):
            checkpoint.write(self.out / BEST, self.progress, tensors)

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        found, tensors = checkpoint.read(path)
        checkpoint.check_same(path, found, self.progress)
        self.progress = found
        checkpoint.load(self.network, checkpoint.unprefixed("network", tensors), path)
        checkpoint.restore_optimiser(self.optimiser, self.network, tensors, path)
        if self.averaged is not None:
            checkpoint.load(self.averaged, checkpoint.unprefixed("averaged", tensors), path)
        if self.warm is not None:
            self.warm.ended = tensors["ended"]
        if found.best_epoch is not None:
            row = found.history[found.best_epoch - 1]
            self.best = Found(
                row["val_clean_auroc"], row["val_robust_auroc"], row["val_robust_loss"], {}
            )
            self._check_best(found)

    def _check_best(self, found: Progress) -> None:
        """See that the best weights are there now, not after days of training without them."""
        path = self.out / BEST
        if found.best_epoch == found.epoch:
            if self.processes.first:
                self._save_best()
            self.processes.wait()
            return
        kept = checkpoint.read_progress(path)
        if kept.data != found.data or (kept.best_epoch or 0) < (found.best_epoch or 0):
            raise checkpoint.not_the_best(path, found.best_epoch, kept.best_epoch)

    def _take_best(self) -> None:
        """Put the weights that are kept into the detector."""
        if self.progress.best_epoch is None:
            if self.averaged is not None:
                self.network.load_state_dict(self.averaged.state_dict())
        else:
            path = self.out / BEST
            found, tensors = checkpoint.read(path)
            if found.best_epoch != self.progress.best_epoch or found.data != self.progress.data:
                raise checkpoint.not_the_best(path, self.progress.best_epoch, found.best_epoch)
            checkpoint.load(self.network, checkpoint.unprefixed("network", tensors), path)
        set_fused_attention(self.network, True)
        self.network.eval()


def _line(row: dict[str, float]) -> str:
    return (
        f"epoch {row['epoch']}: loss {row['loss']:.3f}, held-out AUROC "
        f"{row['val_clean_auroc']:.3f} clean, {row['val_robust_auroc']:.3f} attacked, "
        f"{row['images_per_second']:.1f} images/s"
    )
