"""Defences for memory banks, each measured clean and under attack on the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from robustad import __version__
from robustad.attacks import attack, preset
from robustad.backbones import DEFAULT, Backbone, create
from robustad.data import Sample, calibration_split, sample_hash, shots
from robustad.detectors import AnomalyDINO, BankEnsemble, Detector
from robustad.errors import InputError
from robustad.evaluation import evaluate
from robustad.evaluation.batches import batches
from robustad.evaluation.hashes import seeds_of
from robustad.metrics import auroc
from robustad.reproduce import store
from robustad.reproduce.defence_kinds import DEFAULT_DEFENCES, Parts, defence
from robustad.reproduce.defence_tables import DefenceDone, DefenceOutcome, write_tables
from robustad.reproduce.sweep import each_run
from robustad.reproduce.sweep_categories import CategorySweep, FileRun
from robustad.reproduce.tables import Shots
from robustad.workers import Workers

BATCH = 4


@dataclass(frozen=True, kw_only=True)
class DefenceStudy:
    """Everything that determines the study's results, apart from the images.

    Attributes
    ----------
    dataset : str
        As `robustad.data.load` takes it.
    defences : tuple of str
        Names for `robustad.reproduce.defence_kinds.defence`.
    shots : int or "full"
        Number of reference images.
    seed : int
        Of the shots, the split and the attacks.
    attacks : tuple of str
        Run on every defence, through the whole of it.
    eps : tuple of float
        Their radii; tables show FPR, FNR and spread at the first.
    backbone, weights : str
        See `robustad.backbones.create`.
    robust, robust_weights : str or None
        The backbone of `robust`, for instance `robustbench/Salman2020Do_R18`.
    image_size : int
        Smaller edge in pixels.
    mask : bool
        Score only the object in the foreground.
    images : int or None
        Take only so many test images of each class; all by default.
    calibration : float
        Share of the test images to fix thresholds on; figures come from the rest.
    """

    dataset: str = "folder"
    defences: tuple[str, ...] = DEFAULT_DEFENCES
    shots: Shots = 4
    seed: int = 0
    attacks: tuple[str, ...] = ("adaptive",)
    eps: tuple[float, ...] = (1 / 255, 8 / 255)
    backbone: str = DEFAULT
    weights: str | None = None
    robust: str | None = None
    robust_weights: str | None = None
    image_size: int = 448
    mask: bool = False
    images: int | None = None
    calibration: float = 0.2


def run_defences(
    study: DefenceStudy,
    roots: Sequence[Path | None],
    out: Path,
    *,
    only: Sequence[str] = (),
    device: str = "cpu",
    workers: Workers | int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> DefenceOutcome:
    """Fit, evaluate and attack every defence that is not on disk yet.

    Parameters
    ----------
    study : DefenceStudy
        What to run.
    roots : sequence of Path or None
        Folders of the data set; None for generated data.
    out : Path
        Each finished defence is a file below it; finished batches lie in `out / store`, so that
        the same call goes on where a killed one stopped.
    only : sequence of str, optional
        Categories to take; default all.
    device : str, default "cpu"
        Where to compute.
    workers : Workers or int, optional
        Give runs out to so many worker processes of this machine, or as `robustad.workers.Workers`
        says; one that dies is replaced and its run made again. By default this process makes them.
    progress : bool, default True
        Show progress bars.
    say : callable, optional
        Called with a line about each run.

    Returns
    -------
    DefenceOutcome
        Also written to `out` as `tables.md` and `tables.json`.

    Raises
    ------
    InputError
        If an option is out of range, or a defence is unknown or does not fit the backbone.
    DataError
        If a data set is damaged or too small.
    StateError
        If workers cannot start, or could not make a run; the others are finished first.
    MissingDependencyError
        If Ray is asked for and not installed.
    """
    _check(study)
    sweep = DefenceSweep(
        study=study,
        chosen=store.chosen_categories(study.dataset, roots, only),
        out=out,
        device=device,
    )
    outcome = DefenceOutcome()
    for run, done in each_run(sweep, workers=workers, skipped=[], progress=progress, say=say):
        outcome.results.setdefault(run.path.parent.name, {})[run.choice] = done
    write_tables(
        outcome,
        out,
        study=asdict(study),
        note=f"Backbone {study.backbone}, {study.image_size} px, {study.shots} reference images; "
        f"thresholds from {study.calibration:.0%} of the test images, figures from the others.",
    )
    return outcome


def _check(study: DefenceStudy) -> None:
    for name in study.defences:
        defence(name)
    for name in study.attacks:
        preset(name)
    for what, values in (("defences", study.defences), ("attacks", study.attacks)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"{what}: expected at least one, each once, got {[*values]}")
    if study.images is not None and study.images < 2:
        raise InputError(f"images: expected at least 2 of each class, got {study.images}")
    if "robust" in study.defences and study.robust is None:
        raise InputError("robust: expected the name of a robust backbone for defence 'robust'")


@dataclass(kw_only=True)
class DefenceSweep(CategorySweep[DefenceDone]):
    """A study's runs: every category and defence; all share a store of finished batches.

    Attributes
    ----------
    study : DefenceStudy
        Which runs there are.
    chosen, out, device
        See `robustad.reproduce.sweep_categories.CategorySweep`.
    """

    study: DefenceStudy

    def choices(self) -> Iterator[tuple[str, str, str]]:
        """The defences, by name."""
        yield from ((name, name, name) for name in self.study.defences)

    def fingerprint(self, identity: str, choice: str) -> str:
        """Hash of the options that this defence depends on, and of the images."""
        options = {k: v for k, v in asdict(self.study).items() if k != "defences"}
        for key in ("weights", "robust_weights"):
            options[key] = store.weights_identity(options[key])
        if choice != "robust":
            options |= {"robust": None, "robust_weights": None}
        return store.fingerprint(options, choice, identity, __version__)

    def found(self, run: FileRun) -> DefenceDone | None:
        """What the run's file has, if it was made from the same things."""
        return _read(run.path, run.fingerprint)

    def make(self, run: FileRun, *, progress: bool) -> None:
        """Fit, evaluate and attack a defence, and write the run's file."""
        start = time.perf_counter()
        study, data = self.study, self.data(run.root, run.category)
        references = shots(data, study.shots, seed=study.seed)
        chosen = _some(data.test, study.images)
        held_out, samples = calibration_split(chosen, fraction=study.calibration, seed=study.seed)
        detector = self._defended(run.choice)
        fit: Callable[..., object] = detector.fit  # type: ignore[assignment]
        fit([sample.image for sample in references.train], progress=progress)
        evaluation = evaluate(
            detector,
            samples,
            calibration=held_out,
            attacks=study.attacks,
            eps=study.eps,
            seed=study.seed,
            batch_size=BATCH,
            store=self.out / "store",
            dataset=data.name,
            category=data.category,
            progress=progress,
        )
        spread = None
        if isinstance(detector, BankEnsemble) and detector.members > 1:
            spread = _spread(detector, samples, study)
        done = DefenceDone(
            fingerprint=run.fingerprint,
            seconds=time.perf_counter() - start,
            evaluation=evaluation,
            spread=spread,
        )
        done.save(run.path)

    def _defended(self, name: str) -> Detector:
        """A defence's detector, not yet fitted."""
        study, backbone = self.study, self.backbone

        def plain(backbone: Backbone = backbone, **options: Any) -> AnomalyDINO:
            return AnomalyDINO(backbone, image_size=study.image_size, mask=study.mask, **options)

        def robust() -> Backbone:
            assert study.robust is not None
            return create(study.robust, study.robust_weights)

        parts = Parts(plain=plain, backbone=backbone, weights=study.weights, robust=robust)
        return defence(name).build(parts).to(self.device)


def _some(samples: Sequence[Sample], count: int | None) -> list[Sample]:
    """The first so many of each class, in order."""
    left = {0: count or len(samples), 1: count or len(samples)}
    kept = []
    for sample in samples:
        if left[sample.label] > 0:
            left[sample.label] -= 1
            kept.append(sample)
    return kept


def _spread(
    detector: BankEnsemble, samples: Sequence[Sample], study: DefenceStudy
) -> dict[str, float]:
    """Whether disagreement tells anomalies, or attacked images, from others."""
    seeds = seeds_of([sample_hash(sample) for sample in samples], study.seed)
    clean, attacked, labels = [], [], []
    for batch in batches(detector, samples, BATCH):
        result = attack(
            detector,
            batch.x,
            label=batch.label,
            mask=batch.mask,
            attack=study.attacks[0],
            eps=study.eps[0],
            seeds=[seeds[i] for i in batch.index],
        )
        with torch.no_grad():
            clean.append(detector.spread(batch.x).double().cpu().numpy())
            attacked.append(detector.spread(result.x_worst).double().cpu().numpy())
        labels += batch.label.tolist()
    before, after = np.concatenate(clean), np.concatenate(attacked)
    return {
        "clean_auroc": auroc(before, labels),
        "flag_auroc": auroc(
            np.concatenate([before, after]), np.repeat([0, 1], [len(before), len(after)])
        ),
        "clean": float(before.mean()),
        "attacked": float(after.mean()),
    }


def _read(path: Path, fingerprint: str) -> DefenceDone | None:
    if not path.is_file():
        return None
    try:
        done = DefenceDone.model_validate_json(path.read_bytes())
    except ValidationError:
        return None  # of another version, or damaged: run it again
    return done if done.fingerprint == fingerprint else None
