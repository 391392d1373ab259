"""From normal images to a trained detector, in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robustad._files import folder_locked, write_text
from robustad.data import Dataset, content_hash
from robustad.detectors import PatchGuard
from robustad.foreground import source_hash
from robustad.pseudo import PseudoAnomalies, published
from robustad.training import checkpoint
from robustad.training.checkpoint import Progress
from robustad.training.config import TrainingConfig
from robustad.training.distributed import processes
from robustad.training.images import check_foregrounds, read_images
from robustad.training.presets import changed, preset, to_yaml
from robustad.training.seeds import WEIGHTS, seeds
from robustad.training.trainer import BEST, CHECKPOINT, FINAL, Trainer


def train(
    data: Dataset,
    config: TrainingConfig | str | Path = "robust",
    *,
    out: str | Path,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    device: str = "cpu",
    restart: bool = False,
    cache: str | Path | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> PatchGuard:
    """Train PatchGuard adversarially on the normal images of a category.

    Parameters
    ----------
    data : Dataset
        Its `train` samples are used, nothing else.
    config : TrainingConfig, str or Path, default "robust"
        A configuration, or what `robustad.training.preset` takes.
    out : str or Path
        Folder for `detector.safetensors` (the result), `checkpoint.safetensors` (after every
        epoch), `best.safetensors`, `config.yaml`, `log.csv` and `tensorboard/`. A run that was
        stopped goes on where it was, to the same weights (on CPUs bit for bit).
    overrides : mapping or sequence of str, optional
        See `robustad.training.preset`.
    device : str, default "cpu"
        Where to train. Under `torchrun`, processes share the batches.
    restart : bool, default False
        Begin anew instead of going on.
    cache : str, Path or None, default None
        Folder to keep foregrounds in; see `robustad.foreground.estimate`.
    progress : bool, default False
        Show a progress bar.
    say : callable, optional
        Called with a line about each part.

    Returns
    -------
    PatchGuard
        In evaluation mode, on the device, with the weights of the best validation.

    Raises
    ------
    InputError
        If an option is out of range, or another process trains in `out`.
    DataError
        If images are missing, unreadable or fewer than two, or a foreground is empty.
    StateError
        If `out` holds a checkpoint of another run.
    TrainingError
        If the loss or its gradient stops being finite, or `out` cannot be written to.
    WeightsError
        If weights cannot be had.

    Notes
    -----
    PatchGuard (CVPR 2025), its supplement G for the `paper` preset. Where it differs from its
    published code, see docs/training.md.

    Examples
    --------
    >>> import tempfile
    >>> from robustad.data.surfaces import Surfaces
    >>> images = Surfaces(size=64, train=6, test_good=1, per_defect=1).load("cloth")
    >>> tiny = {"optimiser.epochs": 1, "network.image_size": 32, "attack.steps": 1,
    ...         "optimiser.repeats": 1, "validation.steps": 1}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     detector = train(images, "fast", out=folder, overrides=tiny)
    >>> detector.predict(images.test[0].image).score.shape
    (1,)
    """
    if not isinstance(config, TrainingConfig):
        config = preset(config, overrides)
    elif overrides:
        config = changed(config, overrides)
    out = Path(out)
    with (
        processes(device) as here,
        torch.random.fork_rng(_gpus(here.device)),
        ExitStack() as held,
    ):
        begun = _begun(data, config, out, restart=restart)
        if here.first:
            held.enter_context(_prepared(out))
        torch.manual_seed(seeds(config.seed, WEIGHTS, count=1)[0])
        detector = PatchGuard(
            config.network,
            config.weights,
            top_k=config.score.top_k,
            map_sigma=config.score.map_sigma,
            map_radius=config.score.map_radius,
        ).to(here.device)
        images = read_images(
            data,
            detector.geometry,
            config.foreground,
            device=here.device,
            cache=cache,
            progress=progress and here.first,
        )
        if config.pseudo.empty_foreground == "error":
            check_foregrounds(images)
        pseudo = PseudoAnomalies(
            config.pseudo,
            image_size=config.network.image_size,
            bounds=published(data.name, data.category),
        )
        trainer = Trainer(detector, images, pseudo, config, out, progress=begun, processes=here)
        if here.first:
            if restart:  # only now that nothing is left to go wrong before the first step
                for name in (CHECKPOINT, BEST, FINAL):
                    (out / name).unlink(missing_ok=True)
            with checkpoint.writing(out):
                write_text(out / "config.yaml", to_yaml(config))
            say(_summary(trainer))
        here.wait()
        trainer.run(progress=progress, say=say)
        detector.eval()
        if here.first:
            with checkpoint.writing(out):
                detector.save(out / FINAL)
        here.wait()
    return detector


def _begun(data: Dataset, config: TrainingConfig, out: Path, *, restart: bool) -> Progress:
    """What a run is made from; raises StateError if `out` holds a checkpoint of another one.

    Before images are prepared, which may take long, and before anything in `out` changes.
    """
    begun = Progress(
        config=config.fingerprint(),
        data=content_hash(replace(data, test=())),
        foreground=source_hash(data, config.foreground),
    )
    path = out / CHECKPOINT
    if path.is_file() and not restart:
        found = checkpoint.read_progress(path)
        # Checkpoints used to know the test images too.
        if found.data != begun.data and found.data == content_hash(data):
            begun.data = found.data
        checkpoint.check_same(path, found, begun)
    return begun


@contextmanager
def _prepared(out: Path) -> Iterator[None]:
    """Make the folder of a run, keep it to this process, and clear what a kill left."""
    with checkpoint.writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):  # it can be written to
            pass
    with folder_locked(out):
        with checkpoint.writing(out):
            for stale in out.glob(".*.part*"):  # of a run that was killed while it wrote
                stale.unlink()
        yield


def _gpus(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []


def _summary(trainer: Trainer) -> str:
    parameters = sum(p.numel() for p in trainer.network.parameters())
    return (
        f"{len(trainer.images)} images to train on, {len(trainer.validation.images)} to validate "
        f"on, {parameters / 1e6:.1f} M parameters"
    )
