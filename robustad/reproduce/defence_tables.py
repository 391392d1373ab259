"""What a study of defences gives: finished runs, tables, numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robustad._files import write_text
from robustad.evaluation.plan import named
from robustad.evaluation.result import CLEAN, WORST, eps_name
from robustad.reproduce import store
from robustad.reproduce.defence_kinds import defence
from robustad.reproduce.tables import Table, cell


class DefenceDone(store.Done):
    """One finished defence on disk.

    Attributes
    ----------
    spread : dict of str to float, or None
        Of ensembles, how far members disagree: `clean_auroc` (of the spread as an anomaly score),
        `flag_auroc` (how well it tells images under the first attack at the first radius from
        clean ones), and its means `clean` and `attacked`.
    """

    spread: dict[str, float] | None = None


@dataclass
class DefenceOutcome:
    """What a study gave.

    Attributes
    ----------
    results : dict of str to (dict of str to DefenceDone)
        By category and defence.
    """

    results: dict[str, dict[str, DefenceDone]] = field(default_factory=dict)

    def tables(self) -> list[Table]:
        """One table a category: a row a defence."""
        return [_table(category, found) for category, found in self.results.items()]


def figures(outcome: DefenceOutcome) -> dict[str, Any]:
    """Give the tables' figures as numbers, ready for JSON, by category and defence."""
    made: dict[str, Any] = {}
    for category, found in outcome.results.items():
        made[category] = {}
        for name, done in found.items():
            conditions = {
                key: one.metrics.model_dump(exclude={"auroc_interval"})
                | {"interval": one.metrics.auroc_interval}
                for key, one in done.evaluation.conditions.items()
            }
            made[category][name] = {
                "summary": defence(name).summary,
                "images": len(done.evaluation.labels),
                "anomalous": sum(done.evaluation.labels),
                "seconds": done.seconds,
                "conditions": conditions,
                "spread": done.spread,
                "fired": [check.name for check in done.evaluation.fired],
            }
    return made


def _table(category: str, found: dict[str, DefenceDone]) -> Table:
    first = next(iter(found.values())).evaluation
    names = [CLEAN, *(named(WORST, eps, first.epsilons) for eps in first.epsilons)]
    shown = ["clean", *(f"at {eps_name(eps)}" for eps in first.epsilons)]
    columns = [
        "",
        *(f"AUROC {one}" for one in shown),
        "FPR clean",
        f"FPR {shown[1]}",
        "FNR clean",
        f"FNR {shown[1]}",
        "spread as flag",
    ]
    rows = []
    for name, done in found.items():
        metrics = [done.evaluation.conditions[one].metrics for one in names]
        values = [
            *(one.auroc for one in metrics),
            *(getattr(metrics[place], rate) for rate in ("fpr", "fnr") for place in (0, 1)),
            None if done.spread is None else done.spread["flag_auroc"],
        ]
        cells = [cell(float("nan") if v is None else v, 1, 3) for v in values]
        rows.append([f"{name}: {defence(name).summary}", *cells])
    return Table(f"{category}: worst case over {', '.join(first.attacks)}", columns, rows)


def write_tables(outcome: DefenceOutcome, out: Path, *, study: dict[str, Any], note: str) -> None:
    """Write `tables.md` and `tables.json`.

    Parameters
    ----------
    outcome : DefenceOutcome
        What was found.
    out : Path
        The folder.
    study : dict
        The study's options, for the JSON document.
    note : str
        What the figures were made with, in words.
    """
    made = outcome.tables()
    notes = [
        note,
        "Every attack goes through the whole defence. `spread as flag`: AUROC of the members' "
        "disagreement at telling attacked from clean images.",
    ]
    text = "\n".join(table.markdown() for table in made) + "\n" + "\n".join(notes) + "\n"
    write_text(out / "tables.md", text)
    document = {
        "study": study,
        "figures": figures(outcome),
        "tables": [asdict(table) for table in made],
        "notes": notes,
    }
    write_text(out / "tables.json", json.dumps(document, indent=1) + "\n")
