"""Every calibrator on the data sets given: before and after, over repeated splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robustad import __version__
from robustad._files import write_text
from robustad.calibration import FITTED, Platt
from robustad.calibration.measures import TITLES
from robustad.data import Dataset
from robustad.detectors import AnomalyDINO
from robustad.errors import DataError, InputError
from robustad.evaluation import Evaluation, evaluate
from robustad.reproduce import store
from robustad.reproduce.calibration_splits import (
    RAW,
    measure_names,
    pooled,
    split_figures,
    summary,
)
from robustad.reproduce.fewshot import FewShotSweep, Split, Study
from robustad.reproduce.sweep import each_run
from robustad.reproduce.tables import Shots, Table
from robustad.workers import Workers


@dataclass(frozen=True, kw_only=True)
class CalibrationStudy(Study):
    """Everything that determines the figures, apart from the images.

    Attributes
    ----------
    methods : tuple of str
        Calibrators to compare; the raw score is beside them.
    splits : int
        How often the test set is split; `calibration` is the share fitted on.
    dataset, shots, seeds, attacks, eps, backbone, weights, image_size, preprocessing, mask,
    full_coreset, calibration
        See `robustad.reproduce.Study`.
    """

    shots: tuple[Shots, ...] = (1, 4, 16, "full")
    seeds: int = 1
    attacks: tuple[str, ...] = ("pgd10", "adaptive")
    methods: tuple[str, ...] = tuple(FITTED)
    splits: int = 20


@dataclass
class CalibrationOutcome:
    """What a study gave.

    Attributes
    ----------
    figures : dict
        By category and shots: `images` (normal, anomalous), `runs`, and `methods` as of
        `robustad.reproduce.calibration_splits.summary`.
    skipped : list of str
        Runs that the data set is too small for.
    """

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def tables(self, attacks: Sequence[str]) -> list[Table]:
        """One table a category and measure: methods over shots."""
        return [
            _table(category, by_shots, measure)
            for category, by_shots in self.figures.items()
            for measure in measure_names(attacks)
        ]


def run_calibration(
    study: CalibrationStudy,
    roots: Sequence[Path | None],
    out: Path,
    *,
    only: Sequence[str] = (),
    device: str = "cpu",
    workers: Workers | int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> CalibrationOutcome:
    """Score and attack every category once per number of shots, then calibrate over splits.

    Parameters
    ----------
    study : CalibrationStudy
        What to run.
    roots : sequence of Path or None
        Folders of the data set; None for generated data.
    out : Path
        Each evaluation is one file below it, written whole, and not repeated while detector,
        attacks, images and version stay the same. Calibrating is quick and always done anew.
    only, device, workers, progress, say
        See `run_fewshot`.

    Returns
    -------
    CalibrationOutcome
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

    Notes
    -----
    Attacks look at the detector with Platt's curve fitted to all test images, which is more than
    any of the splits knows: `adaptive` keeps the entropy under that curve low. The flag of each
    split and method is judged on the scores of those attacked images.
    """
    for method in study.methods:
        if method not in FITTED:
            raise InputError(f"methods: expected some of {', '.join(FITTED)}, got {method!r}")
    if study.splits < 1:
        raise InputError(f"splits: expected >= 1, got {study.splits}")
    outcome = CalibrationOutcome()

    sweep = CalibrationSweep(
        study=study,
        chosen=store.chosen_categories(study.dataset, roots, only),
        out=out,
        device=device,
    )
    found: dict[str, dict[Shots, list[Evaluation]]] = {}
    made = each_run(sweep, workers=workers, skipped=outcome.skipped, progress=progress, say=say)
    for run, done in made:
        category, k, evaluation = run.path.parent.name, run.choice[0], done.evaluation
        found.setdefault(category, {}).setdefault(k, []).append(evaluation)
    for category, by_shots in found.items():
        outcome.figures[category] = {str(k): _figures(study, some) for k, some in by_shots.items()}
    if not outcome.figures:
        raise DataError("too few images for every run: " + "; ".join(outcome.skipped))
    _write(outcome, study, out)
    return outcome


def _figures(study: CalibrationStudy, runs: Sequence[Evaluation]) -> dict[str, Any]:
    found = pooled(
        split_figures(
            evaluation,
            study.methods,
            splits=study.splits,
            fraction=study.calibration,
            score_range=AnomalyDINO.score_range,
        )
        for evaluation in runs
    )
    first = runs[0]
    return {
        "runs": len(runs),
        "images": [first.labels.count(0), first.labels.count(1)],
        "auroc": {
            name: [one.conditions[name].metrics.auroc for one in runs] for name in first.shown
        },
        "methods": summary(found, len(runs) * study.splits),
    }


@dataclass(kw_only=True)
class CalibrationSweep(FewShotSweep):
    """A calibration study's runs: those of a few-shot study, judged on all test images.

    Attributes
    ----------
    study : CalibrationStudy
        Which runs there are.
    chosen, out, device
        See `robustad.reproduce.fewshot.FewShotSweep`.
    """

    study: CalibrationStudy

    def split(self, data: Dataset, seed: int) -> Split:
        """No image apart: they are split later, from the scores."""
        return (), data.test

    def judged(
        self, detector: AnomalyDINO, references: Dataset, parts: Split, progress: bool
    ) -> Evaluation:
        """Score and attack all test images, with Platt's curve of them all."""
        _, samples = parts
        scores = detector.predict([sample.image for sample in samples]).score
        detector.calibrator = Platt().fit(scores, [sample.label for sample in samples])
        return evaluate(
            detector,
            samples,
            attacks=self.study.attacks,
            eps=self.study.eps,
            pixel=False,
            dataset=references.name,
            category=references.category,
            progress=progress,
        )

    def fingerprint(self, identity: str, choice: Any) -> str:
        """What identifies a run on images of this hash, apart from shots and seed."""
        # What is calibrated how, and on which splits, changes nothing about the scores.
        free = ("shots", "seeds", "calibration", "methods", "splits")
        options = {k: v for k, v in asdict(self.study).items() if k not in free}
        options["weights"] = store.weights_identity(self.study.weights)
        return store.fingerprint("calibration", options, identity, __version__)


def _table(category: str, by_shots: dict[str, Any], measure: str) -> Table:
    title = TITLES.get(measure, f"AUROC of entropy as a flag, {measure.removeprefix('flag_')}")
    methods = list(next(iter(by_shots.values()))["methods"])
    rows = [
        [method, *(_cell(one["methods"][method].get(measure)) for one in by_shots.values())]
        for method in methods
    ]
    columns = ["", *("full" if k == "full" else f"{k}-shot" for k in by_shots)]
    return Table(f"{category}: {title}", columns, rows)


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _write(outcome: CalibrationOutcome, study: CalibrationStudy, out: Path) -> None:
    made = outcome.tables(study.attacks)
    notes = [
        f"Backbone {study.backbone}, {study.image_size} px, preprocessing {study.preprocessing}. "
        f"Means over {study.splits} splits of the test images, {study.calibration:.0%} of each "
        "label to fit on and the others to measure on; in brackets the 0.025 and 0.975 quantiles "
        "over the splits, which overlap.",
        f"Attacks at {study.eps * 255:.4g}/255, once an image, against the detector with Platt's "
        "curve of all test images.",
        *(
            f"{category}, {k}: {method} could not be fitted to {one['failed']} of "
            f"{one['failed'] + one['splits']} splits."
            for category, by_shots in outcome.figures.items()
            for k, figures in by_shots.items()
            for method, one in figures["methods"].items()
            if method != RAW and one["failed"]
        ),
        *(f"Skipped: {line}" for line in outcome.skipped),
    ]
    text = "\n".join(table.markdown() for table in made) + "\n" + "\n".join(notes) + "\n"
    write_text(out / "tables.md", text)
    document = {
        "study": asdict(study),
        "figures": outcome.figures,
        "tables": [asdict(table) for table in made],
        "notes": notes,
    }
    write_text(out / "tables.json", json.dumps(document, indent=1) + "\n")
