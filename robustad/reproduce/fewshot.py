"""The few-shot robustness and uncertainty study, run on the data sets given."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robustad import __version__
from robustad._files import write_text
from robustad.backbones import DEFAULT, Backbone
from robustad.data import Dataset, Sample, calibration_split, shots
from robustad.detectors import AnomalyDINO
from robustad.detectors.anomaly_dino_presets import Preprocessing
from robustad.errors import DataError, InputError
from robustad.evaluation import DEFAULT_ATTACKS, Evaluation, evaluate
from robustad.reproduce import store
from robustad.reproduce.published import TABLE_1 as PUBLISHED
from robustad.reproduce.sweep import Skip, each_run
from robustad.reproduce.sweep_categories import CategorySweep, FileRun
from robustad.reproduce.tables import Shots, Table, figures, tables
from robustad.workers import Workers

# Images to calibrate on, and the others.
Split = tuple[Sequence[Sample], Sequence[Sample]]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that determines the study's results, apart from the images.

    Attributes
    ----------
    dataset : str
        As `robustad.data.load` takes it.
    shots : tuple of int or "full"
        Numbers of reference images.
    seeds : int
        Repeats 0..seeds-1; each has its own shots and its own calibration split. With all training
        images ("full") only seed 0 is run.
    attacks : tuple of str
        Run beside the clean pass.
    eps : float
        Their l-infinity radius.
    backbone, weights : str
        See `robustad.backbones.create`.
    image_size : int
        Smaller edge in pixels.
    preprocessing : str
        See `preprocessing_for`.
    mask : bool or None
        Overrides the preprocessing's masking.
    full_coreset : int or None
        Reduce full-shot banks to this many vectors.
    calibration : float
        Share of the test set that is calibrated on; figures come from the rest.
    """

    dataset: str = "mvtec"
    shots: tuple[Shots, ...] = (1, 2, 4, 8, 16)
    seeds: int = 3
    attacks: tuple[str, ...] = DEFAULT_ATTACKS
    eps: float = 8 / 255
    backbone: str = DEFAULT
    weights: str | None = None
    image_size: int = 448
    preprocessing: Preprocessing = "agnostic"
    mask: bool | None = None
    full_coreset: int | None = None
    calibration: float = 0.2


@dataclass
class Outcome:
    """What a study gave.

    Attributes
    ----------
    results : dict of shots to list of Evaluation
        One evaluation a category and seed.
    skipped : list of str
        Runs that the data set is too small for.
    """

    results: dict[Shots, list[Evaluation]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def tables(self, dataset: str) -> list[Table]:
        """Tables 1-3; see `robustad.reproduce.tables`."""
        return tables(self.results, dataset)


def run_fewshot(
    study: Study,
    roots: Sequence[Path | None],
    out: Path,
    *,
    only: Sequence[str] = (),
    device: str = "cpu",
    workers: Workers | int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run every category, number of shots and seed that is not on disk yet.

    Parameters
    ----------
    study : Study
        What to run.
    roots : sequence of Path or None
        Folders of the data set; None for generated data.
    out : Path
        Each run is one file below it, written whole. A run whose file was made from the same
        study, images and version is not repeated, so that an interrupted study goes on where it
        stopped.
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
    Outcome
        Also written to `out` as `tables.md` and `tables.json`.

    Raises
    ------
    InputError
        If an option is out of range or a category is unknown.
    DataError
        If a data set is damaged, or too small for every run asked for.
    StateError
        If workers cannot start, or could not make a run; the others are finished first.
    MissingDependencyError
        If Ray is asked for and not installed.
    """
    if study.seeds < 1:
        raise InputError(f"seeds: expected >= 1, got {study.seeds}")
    for k in study.shots:
        if k != "full" and (not isinstance(k, int) or k < 1):
            raise InputError(f"shots: expected numbers >= 1 or 'full', got {k!r}")
    outcome = Outcome({k: [] for k in study.shots})
    sweep = FewShotSweep(
        study=study,
        chosen=store.chosen_categories(study.dataset, roots, only),
        out=out,
        device=device,
    )
    made = each_run(sweep, workers=workers, skipped=outcome.skipped, progress=progress, say=say)
    for run, done in made:
        outcome.results[run.choice[0]].append(done.evaluation)
    outcome.results = {k: found for k, found in outcome.results.items() if found}
    if not outcome.results:
        raise DataError("too few images for every run: " + "; ".join(outcome.skipped))
    _write_tables(outcome, study, out)
    return outcome


@dataclass(kw_only=True)
class FewShotSweep(CategorySweep[store.Done]):
    """A few-shot study's runs: every category, number of shots and seed.

    Attributes
    ----------
    study : Study
        Which runs there are.
    chosen, out, device
        See `robustad.reproduce.sweep_categories.CategorySweep`.
    """

    study: Study

    def choices(self) -> Iterator[tuple[tuple[Shots, int], str, str]]:
        """Numbers of shots and seeds; all training images leave nothing to draw."""
        for k in self.study.shots:
            for seed in range(1 if k == "full" else self.study.seeds):
                yield (k, seed), f"{k}-shot seed {seed}", f"shots-{k}_seed-{seed}"

    def found(self, run: FileRun) -> store.Done | None:
        """What the run's file has, if it was made from the same things."""
        return store.read(run.path, run.fingerprint)

    def make(self, run: FileRun, *, progress: bool) -> None:
        """Fit, evaluate, and write the run's file."""
        data, (k, seed) = self.data(run.root, run.category), run.choice
        try:
            references, parts = shots(data, k, seed=seed), self.split(data, seed)
        except DataError as error:
            raise Skip(str(error)) from error
        start = time.perf_counter()
        detector = detector_for(self.study, references, k, self.backbone)
        detector.fit([sample.image for sample in references.train], progress=progress)
        evaluation = self.judged(detector, references, parts, progress)
        seconds = time.perf_counter() - start
        done = store.Done(fingerprint=run.fingerprint, seconds=seconds, evaluation=evaluation)
        done.save(run.path)

    def split(self, data: Dataset, seed: int) -> Split:
        """Test images to calibrate on, and the others."""
        return calibration_split(data.test, fraction=self.study.calibration, seed=seed)

    def judged(
        self, detector: AnomalyDINO, references: Dataset, parts: Split, progress: bool
    ) -> Evaluation:
        """Evaluate a fitted detector on what `split` gave."""
        held_out, samples = parts
        return evaluate(
            detector,
            samples,
            calibration=held_out,
            attacks=self.study.attacks,
            eps=self.study.eps,
            dataset=references.name,
            category=references.category,
            progress=progress,
        )

    def fingerprint(self, identity: str, choice: Any) -> str:
        """What identifies a run on images of this hash, apart from shots and seed."""
        # Shots and seeds only say which runs there are; a run's file name says which one it is.
        options = {k: v for k, v in asdict(self.study).items() if k not in ("shots", "seeds")}
        options["weights"] = store.weights_identity(self.study.weights)
        return store.fingerprint(options, identity, __version__)


def detector_for(study: Study, references: Dataset, k: Shots, backbone: Backbone) -> AnomalyDINO:
    """Build a study's detector for k shots of a category; not yet fitted."""
    options = {} if study.mask is None else {"mask": study.mask}
    return AnomalyDINO.for_category(
        references.category,
        dataset=study.dataset,
        preprocessing=study.preprocessing,
        backbone=backbone,
        image_size=study.image_size,
        coreset=study.full_coreset if k == "full" else None,
        **options,
    )


def _write_tables(outcome: Outcome, study: Study, out: Path) -> None:
    made = outcome.tables(study.dataset)
    notes = [
        f"Backbone {study.backbone}, {study.image_size} px, preprocessing {study.preprocessing}; "
        f"means over categories of means over seeds. Calibration and thresholds come from "
        f"{study.calibration:.0%} of the test images, all figures from the others; the study takes "
        "its detection figures from the whole test set.",
        *(
            ["Published rows are means over all categories of the data set."]
            if study.dataset in PUBLISHED
            else []
        ),
        *(f"Skipped: {line}" for line in outcome.skipped),
    ]
    write_text(
        out / "tables.md",
        "\n".join(table.markdown() for table in made) + "\n" + "\n".join(notes) + "\n",
    )
    document = {
        "study": asdict(study),
        "figures": figures(outcome.results),
        "tables": [asdict(table) for table in made],
        "notes": notes,
    }
    write_text(out / "tables.json", json.dumps(document, indent=1) + "\n")
