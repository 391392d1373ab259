"""The study's Tables 1-3 from our evaluations, with the published figures beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from robustad.evaluation import Evaluation, Measures, Metrics
from robustad.metrics import trivial_f1
from robustad.reproduce.published import SHOTS, TABLE_1, TABLE_2, TABLE_3

Shots: TypeAlias = int | Literal["full"]
PROBE = "fgsm_probe"
NAMES = {
    "auroc": "AUROC",
    "ap": "AP",
    "f1_max": "F1-max",
    "gmean_max": "G-mean",
    "fpr": "FPR at the clean-fixed threshold",
    "fnr": "FNR at the clean-fixed threshold",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "ece_positive": "ECE (positive)",
    "ece_top_label": "ECE (top label)",
    "nll": "NLL",
    "brier": "Brier",
}


@dataclass(frozen=True)
class Table:
    """A table ready to be shown.

    Attributes
    ----------
    title : str
        What it shows, and its unit.
    columns : list of str
        The first names the rows.
    rows : list of list of str
        Cells; `-` where there is nothing to say.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Render as GitHub-flavoured Markdown."""
        aligned = ["---"] + ["---:"] * (len(self.columns) - 1)
        lines = [self.columns, aligned, *self.rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"**{self.title}**\n\n{body}\n"


def tables(results: Mapping[Shots, Sequence[Evaluation]], dataset: str) -> list[Table]:
    """Make Tables 1, 2 and 3.

    Parameters
    ----------
    results : mapping of shots to evaluations
        All categories and seeds of each number of shots.
    dataset : str
        `mvtec` or `visa` add the published rows.

    Returns
    -------
    list of Table
        Means over categories, each the mean over its seeds.
    """
    return [make(results, dataset) for make in (_detection, _calibration, _entropy)]


def figures(results: Mapping[Shots, Sequence[Evaluation]]) -> dict[str, Any]:
    """Give the tables' means as numbers, unrounded and unscaled, ready for JSON.

    Returns
    -------
    dict
        By shots: `runs`, `conditions` (metrics and `entropy_mean` by condition) and `calibration`
        (measures before and after). None where a figure does not apply.
    """
    made: dict[str, Any] = {}
    for shots, found in results.items():
        conditions: dict[str, dict[str, float | None]] = {}
        for condition in found[0].conditions:
            names = Metrics.model_fields
            conditions[condition] = {
                name: _number(mean(found, lambda e, c=condition, m=name: _metric(e, c, m)))  # type: ignore[misc]
                for name in names
            }
            conditions[condition]["entropy_mean"] = _number(
                mean(found, lambda e, c=condition: e.conditions[c].entropy_mean)  # type: ignore[misc]
            )
        calibration = {
            when: {
                name: _number(mean(found, lambda e, w=when, m=name: _measure(e, w, m)))  # type: ignore[misc]
                for name in Measures.model_fields
            }
            for when in ("before", "after")
        }
        made[str(shots)] = {
            "runs": len(found),
            "conditions": conditions,
            "calibration": calibration,
        }
    return made


def mean(evaluations: Iterable[Evaluation], value: Callable[[Evaluation], float | None]) -> float:
    """Mean over categories of the mean over seeds; NaN where there is nothing."""
    by_category: dict[tuple[str, str], list[float]] = {}
    for evaluation in evaluations:
        found = value(evaluation)
        if found is not None:
            by_category.setdefault((evaluation.dataset, evaluation.category), []).append(found)
    means = [float(np.mean(values)) for values in by_category.values()]
    return float(np.mean(means)) if means else float("nan")


def _detection(results: Mapping[Shots, Sequence[Evaluation]], dataset: str) -> Table:
    first = next(iter(next(iter(results.values()))))
    conditions = list(first.conditions)
    rows = []
    for metric in ("auroc", "ap", "f1_max", "gmean_max", "fpr", "fnr", "pixel_auroc", "aupro"):
        for condition in conditions:
            cells = [
                cell(mean(found, lambda e, c=condition, m=metric: _metric(e, c, m)), 100)  # type: ignore[misc]
                for found in results.values()
            ]
            if any(cell != "-" for cell in cells):
                rows.append([f"{NAMES[metric]}, {condition}", *cells])
        published = TABLE_1.get(dataset, {}).get(metric, {})
        for name, values in published.items():
            rows.append([f"{NAMES[metric]}, published {name}", *_published(results, values, 2)])
        if metric == "f1_max":
            floor = [
                cell(mean(found, lambda e: trivial_f1(float(np.mean(e.labels)))), 100)
                for found in results.values()
            ]
            rows.append(["F1 of calling everything anomalous", *floor])
    title = f"Table 1. Detection, clean and under attack at {eps_name(first.eps)}, per cent"
    return Table(title, ["", *_headers(results)], rows)


def _calibration(results: Mapping[Shots, Sequence[Evaluation]], dataset: str) -> Table:
    rows = []
    for metric in ("ece_positive", "ece_top_label", "nll", "brier"):
        for when, label in (("before", "uncalibrated"), ("after", "Platt")):
            cells = [
                cell(mean(found, lambda e, w=when, m=metric: _measure(e, w, m)), 10, 3)  # type: ignore[misc]
                for found in results.values()
            ]
            rows.append([f"{NAMES[metric]}, {label}", *cells])
            published = TABLE_2.get(dataset, {}).get(metric, {}).get(when)
            if published:
                rows.append(
                    [f"{NAMES[metric]}, published {label}", *_published(results, published, 3)]
                )
    return Table("Table 2. Calibration, times ten", ["", *_headers(results)], rows)


def _entropy(results: Mapping[Shots, Sequence[Evaluation]], dataset: str) -> Table:
    first = next(iter(next(iter(results.values()))))
    rows = []
    names = {"raw_entropy_mean": ("before", "uncalibrated"), "entropy_mean": ("after", "Platt")}
    for attribute, (when, label) in names.items():
        values: dict[str, list[float]] = {}
        for condition in first.conditions:
            values[condition] = [
                mean(found, lambda e, c=condition, a=attribute: getattr(e.conditions[c], a))  # type: ignore[misc]
                for found in results.values()
            ]
            rows.append([f"{label}, {condition}", *(cell(v, 1, 3) for v in values[condition])])
            if condition != "clean":
                delta = np.subtract(values[condition], values["clean"])
                rows.append([f"{label}, {condition} - clean", *(cell(v, 1, 3) for v in delta)])
        for condition, columns in TABLE_3.get(dataset, {}).items():
            published = _published(results, columns[when], 3)
            rows.append([f"{label}, published {condition}", *published])
    for condition in first.attacks:
        cells = [
            cell(mean(found, lambda e, c=condition: e.conditions[c].flag_auroc), 1, 3)  # type: ignore[misc]
            for found in results.values()
        ]
        rows.append([f"AUROC of entropy as a flag, {condition}", *cells])
    title = "Table 3. Mean predictive entropy in nats, clean and under attack"
    return Table(title, ["", *_headers(results)], rows)


def _metric(evaluation: Evaluation, condition: str, metric: str) -> float | None:
    value: float | None = getattr(evaluation.conditions[condition].metrics, metric)
    return value


def _measure(evaluation: Evaluation, when: str, metric: str) -> float | None:
    if evaluation.calibration is None:
        return None
    value: float = getattr(getattr(evaluation.calibration, when), metric)
    return value


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def cell(value: float, scale: float, digits: int = 2) -> str:
    """Scale and round a figure; a dash for NaN."""
    return "-" if np.isnan(value) else f"{value * scale:.{digits}f}"


def _published(
    results: Mapping[Shots, Sequence[Evaluation]], values: tuple[float, ...], digits: int
) -> list[str]:
    known = dict(zip(SHOTS, values, strict=True))
    return [f"{known[k]:.{digits}f}" if isinstance(k, int) and k in known else "-" for k in results]


def _headers(results: Mapping[Shots, Sequence[Evaluation]]) -> list[str]:
    return ["full" if shots == "full" else f"{shots}-shot" for shots in results]


def eps_name(eps: float) -> str:
    """Radius in steps of an 8-bit image where it is a whole number of them."""
    numerator = eps * 255
    return f"{numerator:.0f}/255" if abs(numerator - round(numerator)) < 1e-6 else f"{eps:g}"
