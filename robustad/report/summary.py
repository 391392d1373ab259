"""The tables of a report, ready to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from robustad.evaluation import Evaluation
from robustad.evaluation.result import CLEAN, WORST
from robustad.metrics import trivial_f1
from robustad.metrics.bootstrap import Interval, auroc_interval
from robustad.report.columns import Heading, column_groups
from robustad.report.wording import (
    condition_name,
    condition_summary,
    number,
    place,
)

Intervals = dict[str, Interval]


@dataclass(frozen=True)
class Cell:
    """Text of a cell and what stands smaller below it."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Row:
    """One row: its heading, what stands smaller below that, and the cells.

    `strong` sets it off from the others; `link` names the part of the page it sums up; `span` is
    the AUROC in the worst case and clean, to be drawn.
    """

    name: str
    summary: str
    cells: list[Cell]
    strong: bool = False
    link: str = ""
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Table:
    """Columns in groups (heading, columns) and rows; `corner` heads the rows."""

    corner: str
    groups: list[tuple[str, list[Heading]]]
    rows: list[Row]

    @property
    def columns(self) -> list[Heading]:
        """All columns, left to right."""
        return [column for _, columns in self.groups for column in columns]

    @property
    def starts(self) -> set[int]:
        """Index of the first column of each group."""
        sizes = [len(columns) for _, columns in self.groups]
        return {sum(sizes[:index]) for index in range(len(sizes))}

    @property
    def spans(self) -> bool:
        """Whether any row has a span to draw."""
        return any(row.span for row in self.rows)


@dataclass(frozen=True)
class Gauge:
    """An AUROC as a large number over a scale from 0 to 1."""

    name: str
    summary: str
    value: float
    interval: Interval
    text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", number(self.value))


def intervals_of(evaluation: Evaluation) -> Intervals:
    """Bootstrap intervals of the AUROC of every condition."""
    return {
        name: auroc_interval(evaluation.scores(name), evaluation.labels)
        for name in evaluation.shown
    }


def interval_text(interval: Interval) -> str:
    """Both ends with three decimals."""
    return f"{number(interval.low)}\N{EN DASH}{number(interval.high)}"


def gauges(evaluation: Evaluation, intervals: Intervals) -> list[Gauge]:
    """Give the AUROC of all conditions."""
    return [
        Gauge(
            condition_name(name),
            condition_summary(name),
            condition.metrics.auroc,
            intervals[name],
        )
        for name, condition in evaluation.shown.items()
    ]


def conditions_table(evaluation: Evaluation, intervals: Intervals) -> Table:
    """Clean against each attack against the worst case; columns without any figure left out."""
    floor = trivial_f1(float(np.mean(evaluation.labels)))
    conditions = evaluation.shown.values()
    kept = [
        (title, [one for one in columns if any(one.value(c) is not None for c in conditions)])
        for title, columns in column_groups(floor)
    ]
    rows = []
    for name, condition in evaluation.shown.items():
        cells = [
            Cell(
                column.text(column.value(condition)),
                interval_text(intervals[name]) if column.title == "AUROC" else "",
            )
            for _, columns in kept
            for column in columns
        ]
        rows.append(Row(condition_name(name), condition_summary(name), cells, strong=name == WORST))
    return Table("condition", [(title, [*columns]) for title, columns in kept if columns], rows)


def overview_table(evaluations: Sequence[Evaluation], intervals: Sequence[Intervals]) -> Table:
    """One row an evaluation, and the mean of each method that has several.

    AUROC clean, under each attack that any evaluation has, and in the worst case; then average
    precision, pixel AUROC and AUPRO of the clean pass.
    """
    names = list(dict.fromkeys(name for one in evaluations for name in one.shown))
    names.sort(key=lambda name: (name != CLEAN, name == WORST))  # attacks stay as they came
    headings = [condition_name(name) for name in names] + ["AP", "px AUROC", "AUPRO"]
    figures = [_figures(one, names) for one in evaluations]
    keep = [i for i in range(len(headings)) if any(row[i] is not None for row in figures)]
    rows = []
    for index, (one, ends) in enumerate(zip(evaluations, intervals, strict=True)):
        small = [interval_text(ends[name]) if name in ends else "" for name in names]
        small += [""] * (len(headings) - len(names))
        worst = one.conditions.get(WORST, one.clean).metrics.auroc
        rows.append(
            Row(
                place(one),
                f"{one.method}: {images_text(one)}",
                [Cell(number(figures[index][i]), small[i]) for i in keep],
                link=f"e{index + 1}",
                span=(worst, one.clean.metrics.auroc),
            )
        )
    for method in dict.fromkeys(one.method for one in evaluations):
        group = [row for row, one in zip(figures, evaluations, strict=True) if one.method == method]
        if len(group) > 1:
            cells = [Cell(number(_mean([row[i] for row in group]))) for i in keep]
            rows.append(Row(f"mean of {method}", f"{len(group)} evaluations", cells, strong=True))
    groups = [
        ("AUROC of images", [Heading(title=headings[i]) for i in keep if i < len(names)]),
        ("Clean images", [Heading(title=headings[i]) for i in keep if i >= len(names)]),
    ]
    return Table("evaluation", groups, rows)


def images_text(evaluation: Evaluation) -> str:
    """Say how many images of which label."""
    anomalous = sum(evaluation.labels)
    return f"{len(evaluation.labels) - anomalous} normal + {anomalous} anomalous"


def _figures(evaluation: Evaluation, names: Sequence[str]) -> list[float | None]:
    clean = evaluation.clean.metrics
    found: list[float | None] = [
        evaluation.conditions[name].metrics.auroc if name in evaluation.conditions else None
        for name in names
    ]
    return [*found, clean.ap, clean.pixel_auroc, clean.aupro]


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean where all have a value: a mean over fewer would not compare."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
