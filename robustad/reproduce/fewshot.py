"""The few-shot robustness and uncertainty study, run on the data sets given."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from robustad import __version__
from robustad._files import write_text
from robustad.backbones import DEFAULT, Backbone, create
from robustad.data import Dataset, Sample, calibration_split, content_hash, load, shots
from robustad.detectors import AnomalyDINO
from robustad.detectors.anomaly_dino_presets import Preprocessing
from robustad.errors import DataError, InputError
from robustad.evaluation import DEFAULT_ATTACKS, Evaluation, evaluate
from robustad.reproduce import store
from robustad.reproduce.published import TABLE_1 as PUBLISHED
from robustad.reproduce.tables import Shots, Table, figures, tables

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
    """
    if study.seeds < 1:
        raise InputError(f"seeds: expected >= 1, got {study.seeds}")
    for k in study.shots:
        if k != "full" and (not isinstance(k, int) or k < 1):
            raise InputError(f"shots: expected numbers >= 1 or 'full', got {k!r}")
    outcome = Outcome({k: [] for k in study.shots})

    def split(data: Dataset, seed: int) -> Split:
        return calibration_split(data.test, fraction=study.calibration, seed=seed)

    def judged(detector: AnomalyDINO, references: Dataset, parts: Split) -> Evaluation:
        held_out, samples = parts
        return evaluate(
            detector,
            samples,
            calibration=held_out,
            attacks=study.attacks,
            eps=study.eps,
            dataset=references.name,
            category=references.category,
            progress=progress,
        )

    runs = each_run(
        study,
        store.chosen_categories(study.dataset, roots, only),
        out,
        split=split,
        judged=judged,
        fingerprint=partial(_fingerprint, study),
        skipped=outcome.skipped,
        device=device,
        progress=progress,
        say=say,
    )
    for _, k, evaluation in runs:
        outcome.results[k].append(evaluation)
    outcome.results = {k: found for k, found in outcome.results.items() if found}
    if not outcome.results:
        raise DataError("too few images for every run: " + "; ".join(outcome.skipped))
    _write_tables(outcome, study, out)
    return outcome


def each_run(
    study: Study,
    chosen: Iterable[tuple[Path | None, str]],
    out: Path,
    *,
    split: Callable[[Dataset, int], Split],
    judged: Callable[[AnomalyDINO, Dataset, Split], Evaluation],
    fingerprint: Callable[[str], str],
    skipped: list[str],
    device: str,
    progress: bool,
    say: Callable[[str], None],
) -> Iterator[tuple[str, Shots, Evaluation]]:
    """Make a study's runs, or read those that are on disk.

    Parameters
    ----------
    study : Study
        Which runs there are.
    chosen : iterable of (Path or None, str)
        Folders and categories.
    out : Path
        Each run is one file below it, written whole.
    split : callable
        Takes the test images of a category and a seed apart, into those calibrated on and others.
    judged : callable
        Evaluates a fitted detector, given its references and what `split` gave.
    fingerprint : callable
        What identifies a run made of images with this hash, apart from shots and seed.
    skipped : list of str
        Gets a line for each run that a category is too small for.
    device, progress, say
        See `run_fewshot`.

    Yields
    ------
    category : str
        Its name.
    k : int or "full"
        Number of shots.
    evaluation : Evaluation
        What the run found.
    """
    backbone: Backbone | None = None
    for root, category in chosen:
        data = load(study.dataset, root, category)
        made_of = fingerprint(content_hash(data))
        for k, seed in runs_of(study):
            name = f"{data.category} {k}-shot seed {seed}"
            path = out / data.category / f"shots-{k}_seed-{seed}.json"
            done = store.read(path, made_of)
            said = "on disk"
            if done is None:
                try:
                    references, parts = shots(data, k, seed=seed), split(data, seed)
                except DataError as error:
                    skipped.append(f"{name}: {error}")
                    say(f"skipped {name}: {error}")
                    continue
                backbone = backbone or create(study.backbone, study.weights).to(device)
                start = time.perf_counter()
                detector = detector_for(study, references, k, backbone)
                detector.fit([sample.image for sample in references.train], progress=progress)
                evaluation = judged(detector, references, parts)
                seconds = time.perf_counter() - start
                done = store.Done(fingerprint=made_of, seconds=seconds, evaluation=evaluation)
                done.save(path)
                said = f"{seconds:.0f} s"
            say(f"{name}: {said}, {store.line(done.evaluation)}")
            yield data.category, k, done.evaluation


def runs_of(study: Study) -> Iterator[tuple[Shots, int]]:
    """Numbers of shots and seeds to run; all training images leave nothing to draw."""
    for k in study.shots:
        for seed in range(1 if k == "full" else study.seeds):
            yield k, seed


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


def _fingerprint(study: Study, identity: str) -> str:
    # Shots and seeds only say which runs there are; a run's file name says which one it is.
    options = {k: v for k, v in asdict(study).items() if k not in ("shots", "seeds")}
    options["weights"] = store.weights_identity(study.weights)
    return store.fingerprint(options, identity, __version__)


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
