"""PatchGuard's tables, run on the data sets given: trained, evaluated, and kept on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from robustad import __version__
from robustad.data import Dataset, content_hash, load
from robustad.detectors import load as load_detector
from robustad.errors import DataError, InputError, TrainingError
from robustad.evaluation import Evaluation, evaluate
from robustad.foreground import source_hash
from robustad.reproduce import store
from robustad.reproduce.patchguard_plan import Check, PatchGuardStudy, Row, Run, plan
from robustad.reproduce.sweep import Skip, Sweep, each_run
from robustad.training import train
from robustad.workers import Workers

DETECTOR = "detector.safetensors"


@dataclass
class PatchGuardOutcome:
    """What a study gave.

    Attributes
    ----------
    results : dict of (table, row) to list of Evaluation
        One evaluation a category that is done.
    runs : list of (Run, Path or None, bool)
        All of them, the folder of each (None where nothing was begun) and whether it is done.
    skipped : list of str
        Runs that could not be made, and why.
    """

    results: dict[Row, list[Evaluation]] = field(default_factory=dict)
    runs: list[tuple[Run, Path | None, bool]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def run_patchguard(
    study: PatchGuardStudy,
    roots: Sequence[Path | None],
    out: Path,
    *,
    only: Sequence[str] = (),
    shard: tuple[int, int] = (1, 1),
    device: str = "cpu",
    workers: Workers | int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> PatchGuardOutcome:
    """Train and evaluate what is not on disk yet.

    Parameters
    ----------
    study : PatchGuardStudy
        What to run.
    roots : sequence of Path or None
        Folders of the data set; None for generated data.
    out : Path
        Models and results lie in `out / dataset / category / key`, the key being a hash of the
        configuration, the images and the version: a run that was stopped goes on from its last
        epoch, a finished one is not repeated, whichever tables ask for it.
    only : sequence of str, optional
        Categories to take; default all.
    shard : (int, int), default (1, 1)
        `(i, n)` with 1 <= i <= n: only runs i, i + n, i + 2 n, ... of the plan.
    device : str, default "cpu"
        Where to compute.
    workers : Workers or int, optional
        Give runs out to so many worker processes of this machine, or as `robustad.workers.Workers`
        says; one that dies is replaced and its run goes on. By default this process makes them.
    progress : bool, default True
        Show progress bars.
    say : callable, optional
        Called with a line about each run.

    Returns
    -------
    PatchGuardOutcome
        With everything that is on disk, of other shards too. Also written to `out / dataset` as
        `tables.md` and `tables.json`.

    Raises
    ------
    InputError
        If an option is out of range or unknown.
    DataError
        If a data set is damaged, or every run asked for failed.
    StateError
        If workers cannot start, or could not make a run; the others are finished first.
    MissingDependencyError
        If Ray is asked for and not installed.
    """
    from robustad.reproduce.patchguard_tables import write_tables

    place, count = shard
    if not 1 <= place <= count:
        raise InputError(f"shard: expected i/n with 1 <= i <= n, got {place}/{count}")
    runs = plan(study, roots, only=only)
    shelf = _Shelf(study, out)
    skipped: list[str] = []
    mine = runs[place - 1 :: count]
    sweep = PatchGuardSweep(study=study, mine=mine, total=len(runs), out=out, device=device)
    each_run(sweep, workers=workers, skipped=skipped, progress=progress, say=say)
    if mine and len(skipped) == len(mine):
        raise DataError("every run failed: " + "; ".join(skipped))
    outcome = _collected(runs, shelf)
    outcome.skipped = skipped
    write_tables(outcome, study, out / study.dataset)
    return outcome


def list_patchguard(
    study: PatchGuardStudy,
    roots: Sequence[Path | None],
    out: Path,
    *,
    only: Sequence[str] = (),
) -> list[tuple[Run, Path | None, bool]]:
    """Every run of a study with its folder (None where nothing was begun) and whether it is done.

    See `run_patchguard` for the parameters. Images are read, for their hash, only of categories
    of which something lies in `out`.
    """
    return _collected(plan(study, roots, only=only), _Shelf(study, out)).runs


class _Shelf:
    """Where each run of a study lies on disk."""

    def __init__(self, study: PatchGuardStudy, out: Path) -> None:
        self.study, self.out = study, out / study.dataset
        self._loaded: dict[tuple[Path | None, str], tuple[Dataset, str]] = {}
        self._keys: dict[int, str] = {}

    def data(self, run: Run) -> tuple[Dataset, str]:
        """Images of a run and their hash; read once."""
        place = (run.root, run.category)
        if place not in self._loaded:
            data = load(self.study.dataset, *place)
            self._loaded[place] = (data, content_hash(data))
        return self._loaded[place]

    def key(self, run: Run) -> str:
        """Hash of all that the trained model is made from."""
        if run.index not in self._keys:
            config = run.config.fingerprint()
            config["weights"] = store.weights_identity(run.config.weights)
            data, images = self.data(run)
            # Files count by what is in them, not by where they lie.
            source = source_hash(data, run.config.foreground)
            if source is not None:
                config["foreground"] |= {"weights": source, "folder": None}
            self._keys[run.index] = store.fingerprint(config, images, __version__)
        return self._keys[run.index]

    def folder(self, run: Run) -> Path:
        """Where a run's model and evaluations lie."""
        return self.out / run.category / self.key(run)[:12]

    def begun(self, run: Run) -> bool:
        """Whether there can be anything of a run, told without reading its images."""
        return (self.out / run.category).is_dir()

    def place(self, run: Run, check: Check) -> tuple[Path, str]:
        """File of an evaluation, and the fingerprint it has if it is this one."""
        made_from = store.fingerprint(self.key(run), check.eps, check.attacks)
        return self.folder(run) / f"evaluation-{made_from[:8]}.json", made_from

    def evaluation(self, run: Run, check: Check) -> Evaluation | None:
        """What an evaluation found, if it is on disk."""
        done = store.read(*self.place(run, check))
        return None if done is None else done.evaluation


@dataclass(kw_only=True)
class PatchGuardSweep(Sweep[Run, store.Done]):
    """A study's runs: models to train and evaluate.

    Attributes
    ----------
    study : PatchGuardStudy
        What the tables need.
    mine : list of Run
        Those to make.
    total : int
        Of how many in the study.
    out : Path
        Models and results lie below it.
    device : str
        Where to compute.
    """

    study: PatchGuardStudy
    mine: Sequence[Run]
    total: int
    out: Path

    @cached_property
    def shelf(self) -> _Shelf:
        """Where the runs lie."""
        return _Shelf(self.study, self.out)

    def title(self, run: Run) -> str:
        """How a run is told of: with its place in the study."""
        return f"{run.index}/{self.total} {run.name}"

    def runs(self) -> Iterator[Run]:
        """Those to make."""
        yield from self.mine

    def found(self, run: Run) -> store.Done | None:
        """Its first evaluation, if all are on disk."""
        try:
            done = [store.read(*self.shelf.place(run, check)) for check in run.checks]
        except DataError:
            return None  # the images cannot be read, as `make` will say
        return None if None in done else done[0]

    def make(self, run: Run, *, progress: bool) -> None:
        """Train, unless that is done, and do the evaluations that are missing."""
        try:
            self._make(run, progress)
        except (DataError, TrainingError) as error:  # says something of this run alone
            raise Skip(str(error)) from error

    def _make(self, run: Run, progress: bool) -> None:
        data, _ = self.shelf.data(run)
        folder = self.shelf.folder(run)
        if (folder / DETECTOR).is_file():  # written last, when training is done
            detector = load_detector(folder / DETECTOR).to(self.device)
        else:
            detector = train(data, run.config, out=folder, device=self.device, progress=progress)
        for check in run.checks:
            path, made_from = self.shelf.place(run, check)
            if store.read(path, made_from) is not None:
                continue
            began = time.perf_counter()
            found = evaluate(
                detector,
                data.test,
                attacks=check.attacks,
                eps=check.eps,
                batch_size=self.study.batch_size,
                dataset=self.study.dataset,
                category=run.category,
                progress=progress,
            )
            seconds = time.perf_counter() - began
            store.Done(fingerprint=made_from, seconds=seconds, evaluation=found).save(path)


def _collected(runs: Sequence[Run], shelf: _Shelf) -> PatchGuardOutcome:
    outcome = PatchGuardOutcome()
    for run in runs:
        folder, done = None, False
        if shelf.begun(run):
            found = [(check, shelf.evaluation(run, check)) for check in run.checks]
            done = all(evaluation is not None for _, evaluation in found)
            folder = shelf.folder(run) if shelf.folder(run).is_dir() else None
            for check, evaluation in found:
                for row in check.rows if evaluation is not None else ():
                    outcome.results.setdefault(row, []).append(evaluation)  # type: ignore[arg-type]
        outcome.runs.append((run, folder, done))
    return outcome
