"""PatchGuard's tables from our evaluations, with the published figures beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from robustad._files import write_text
from robustad.attacks import preset as attack_preset
from robustad.evaluation import Evaluation
from robustad.evaluation.result import CLEAN, WORST
from robustad.reproduce.patchguard import PatchGuardOutcome
from robustad.reproduce.patchguard_plan import PatchGuardStudy, Row
from robustad.reproduce.patchguard_published import CATEGORIES, PUBLISHED, Pair, Printed
from robustad.reproduce.patchguard_variants import TABLES, TITLES, l2_attacks, variants
from robustad.reproduce.tables import Table, cell, eps_name, mean
from robustad.training import preset

# Detection and localisation, as the study abbreviates them.
TASKS = {"image": ("AD", "auroc"), "pixel": ("AL", "pixel_auroc")}
FIGURES = "image (AD) and pixel (AL) AUROC in per cent"
# Tables of the supplement with a row a category.
BY_CATEGORY = {
    "mvtec": "Table 13",
    "visa": "Table 14",
    "btad": "Table 15",
    "mpdd": "Table 16",
    "wfdd": "Table 17",
    "dtd_synthetic": "Table 18",
}


def patchguard_tables(
    results: Mapping[Row, Sequence[Evaluation]], study: PatchGuardStudy
) -> list[Table]:
    """Make the tables that a study asks for.

    Parameters
    ----------
    results : mapping of (table, row) to evaluations
        One evaluation a category.
    study : PatchGuardStudy
        What was run.

    Returns
    -------
    list of Table
        Per cent AUROC. One row a published row and task: the published clean and adversarial
        figures (`-` where none is printed for the data set), ours clean, under each attack and in
        the worst case per image, and over how many categories ours are means. `main` adds one
        table by category, of those done (of all published ones while none is).
    """
    base = preset(study.preset, study.overrides)
    made = []
    for table in (name for name in TABLES if name in study.tables):
        attacks = study.attacks if table != "21" else tuple(l2_attacks(study.attacks))
        names = [variant.name for variant in variants(table, base)]
        rows = []
        for name in names:
            found = results.get((table, name), ())
            printed = PUBLISHED[table].get(name, {}).get(study.dataset)
            rows += _rows(name, found, printed, attacks)
        title = f"{TITLES[table]}: {FIGURES}{_radius(table, results, names)}"
        made.append(Table(title, _columns(attacks), rows))
        if table == "main":
            made.append(_by_category(results.get((table, names[0]), ()), study))
    return made


def figures(results: Mapping[Row, Sequence[Evaluation]]) -> dict[str, Any]:
    """Give the tables' means as numbers, unrounded and as fractions of 1, ready for JSON.

    Returns
    -------
    dict
        By table and row: `categories` and `conditions` (`auroc` and `pixel_auroc`, None where
        there is none).
    """
    made: dict[str, Any] = {}
    for (table, row), found in results.items():
        conditions = {
            condition: {
                metric: _number(_mean(found, condition, metric)) for _, metric in TASKS.values()
            }
            for condition in found[0].conditions
        }
        categories = sorted(evaluation.category for evaluation in found)
        made.setdefault(table, {})[row] = {"categories": categories, "conditions": conditions}
    return made


def write_tables(outcome: PatchGuardOutcome, study: PatchGuardStudy, out: Path) -> None:
    """Write `tables.md` and `tables.json` into a folder."""
    made = patchguard_tables(outcome.results, study)
    notes = _notes(outcome, study)
    write_text(
        out / "tables.md",
        "\n".join(table.markdown() for table in made) + "\n" + "\n\n".join(notes) + "\n",
    )
    document = {
        "study": asdict(study),
        "runs": [
            {
                "index": run.index,
                "category": run.category,
                "rows": [list(row) for row in run.rows],
                "folder": None if folder is None else str(folder.relative_to(out)),
                "done": done,
            }
            for run, folder, done in outcome.runs
        ],
        "figures": figures(outcome.results),
        "tables": [asdict(table) for table in made],
        "notes": notes,
    }
    write_text(out / "tables.json", json.dumps(document, indent=1) + "\n")


def _columns(attacks: Sequence[str]) -> list[str]:
    return ["", "published", "clean", *attacks, "worst case", "of"]


def _rows(
    name: str,
    found: Sequence[Evaluation],
    printed: Printed | None,
    attacks: Sequence[str],
) -> list[list[str]]:
    rows = []
    for task, (title, metric) in TASKS.items():
        published: Pair | None = None if printed is None else getattr(printed, task)
        theirs = "-" if published is None else " / ".join(f"{value:.1f}" for value in published)
        ours = [cell(_mean(found, c, metric), 100, 1) for c in (CLEAN, *attacks, WORST)]
        rows.append([f"{name}, {title}", theirs, *ours, str(len(found))])
    return rows


def _by_category(found: Sequence[Evaluation], study: PatchGuardStudy) -> Table:
    printed = CATEGORIES.get(study.dataset, {})
    ours = {evaluation.category: evaluation for evaluation in found}
    rows = []
    for category in sorted(ours) or printed:
        one = [ours[category]] if category in ours else []
        rows += [row[:-1] for row in _rows(category, one, printed.get(category), study.attacks)]
    title = f"{BY_CATEGORY.get(study.dataset, 'Main result')} by category: {FIGURES}"
    return Table(title, _columns(study.attacks)[:-1], rows)


def _radius(table: str, results: Mapping[Row, Sequence[Evaluation]], names: Sequence[str]) -> str:
    radii = {e.eps for name in names for e in results.get((table, name), ())}
    return f", attacks at {eps_name(radii.pop())}" if len(radii) == 1 else ""


def _mean(found: Sequence[Evaluation], condition: str, metric: str) -> float:
    def value(evaluation: Evaluation) -> float | None:
        known = evaluation.conditions.get(condition)
        figure: float | None = None if known is None else getattr(known.metrics, metric)
        return figure

    return mean(found, value)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _notes(outcome: PatchGuardOutcome, study: PatchGuardStudy) -> list[str]:
    changed = f", {' '.join(study.overrides)}" if study.overrides else ""
    attacks = "; ".join(f"{name}: {attack_preset(name).summary}" for name in study.attacks)
    done = sum(done for _, _, done in outcome.runs)
    return [
        f"{study.dataset}, preset {study.preset}{changed}; {done} of {len(outcome.runs)} runs "
        "done. Published: clean / attacked, means over the whole data set. Ours are means over as "
        'many categories as column "of" says. All test images are scored; nothing is calibrated or '
        "chosen on them.",
        f"Attacks: {attacks}. The published attack is PGD-1000 on the patches (flip), which may "
        "raise the image score of anomalous images: for detection it is not the strongest. The "
        "worst case takes each image's worst score over the clean pass and all attacks; pixels "
        "have none, as their figure is not one an image.",
        *(f"Skipped: {line}" for line in outcome.skipped),
    ]
