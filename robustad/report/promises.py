"""What p-values promise and what attacks leave of it; the flags that should notice an attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from robustad.conformal import smallest_n
from robustad.evaluation import Evaluation, coverage
from robustad.evaluation.coverage import ALPHAS, Coverage
from robustad.evaluation.result import CLEAN, WORST
from robustad.report.figures import SQUARE, fractions, inner_axes, line_style, strips
from robustad.report.svg import COLOURS, draw
from robustad.report.wording import condition_name, count, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = (0.05, 0.1)  # promised rates that tables spell out
FLAGS = {"entropy": "unsure (entropy)", "too_normal": "too normal (low p-value)"}
RATES = (0.01, 0.05, 0.1, 0.2)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Promise:
    """The part of a page about p-values, ready to print.

    `rows` hold a condition each: its name, then the realised rate for each of `rates`, and whether
    it lies above what chance explains.
    """

    facts: str
    histogram: str
    coverage: str
    rates: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]


@dataclass(frozen=True)
class Flags:
    """The part of a page about the attack flags: ROC curves by flag, and a table.

    `rows` hold a condition each: its name, and for each flag the shares flagged of all, of normal
    and of anomalous images, and the AUROC over all and over the anomalous ones.
    """

    curves: list[tuple[str, str]]
    names: list[str]
    rows: list[tuple[str, list[list[str]]]]


def promise(evaluation: Evaluation, key: str) -> Promise | None:
    """Put together what p-values promise; None where no normal image was held out."""
    report = evaluation.conformal
    if report is None or any(one.p_value is None for one in evaluation.shown.values()):
        return None
    found = {name: coverage(evaluation, name) for name in evaluation.shown}
    held_out = len(report.scores["normal"])
    possible = {alpha: held_out >= smallest_n(alpha) for alpha in SHOWN}
    rows = [
        (
            condition_name(name),
            [
                (
                    percent(c.realised) if possible[c.alpha] else "no alarm possible",
                    c.realised > c.high,
                )
                for c in rates
                if c.alpha in SHOWN
            ],
        )
        for name, rates in found.items()
    ]
    return Promise(
        facts=(
            f"{count(held_out, 'held-out normal image')}: p-values of {1 / (held_out + 1):.3g} and "
            f"more; {report.guarantee}."
        ),
        histogram=_histogram(evaluation, key),
        coverage=_coverage_figure(evaluation, found, key),
        rates=[f"promised {percent(alpha)}" for alpha in SHOWN],
        rows=rows,
    )


def flags(evaluation: Evaluation, key: str) -> Flags | None:
    """Put together how the flags do; None without a flag or without an attack."""
    names = [name for name in FLAGS if name in evaluation.clean.attack_flags]
    attacked = {name: one for name, one in evaluation.shown.items() if name not in (CLEAN, WORST)}
    if not names or not attacked:
        return None
    rows = []
    for condition, one in {CLEAN: evaluation.clean, **attacked}.items():
        cells = []
        for name in names:
            flag = one.attack_flags[name]
            shares = [percent(v) for v in (flag.rate, flag.rate_normal, flag.rate_anomalous)]
            cells.append([*shares, number(flag.auroc), number(flag.auroc_anomalous)])
        rows.append((condition_name(condition), cells))
    return Flags(
        curves=[(FLAGS[name], _flag_roc(evaluation, [*attacked], name, key)) for name in names],
        names=[FLAGS[name] for name in names],
        rows=rows,
    )


def _histogram(evaluation: Evaluation, key: str) -> str:
    labels = np.asarray(evaluation.labels)

    def values(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(evaluation.conditions[name].p_value)

    def note(name: str) -> str:
        low = values(name) <= SHOWN[0]
        shares = (percent(float(low[labels == label].mean())) for label in (0, 1))
        return "at most {:.0%}: normal {}, anomalous {}".format(SHOWN[0], *shares)

    return strips(
        evaluation,
        f"{key}-p-values",
        values,
        limit=SHOWN[0],
        limit_name="5%",
        note=note,
        axis="p-value",
        span=(0.0, 1.0),
    )


def _coverage_figure(evaluation: Evaluation, found: dict[str, list[Coverage]], key: str) -> str:
    clean = found[CLEAN]

    def paint(figure: Figure) -> None:
        axes = inner_axes(figure, left=0.62, right=0.12, bottom=0.5, top=0.12)
        # Square roots: small rates matter, and attacked ones go up to 1.
        for scale in (axes.set_xscale, axes.set_yscale):
            scale("function", functions=(np.sqrt, np.square))
        axes.fill_between(
            ALPHAS,
            [c.low for c in clean],
            [c.high for c in clean],
            color=COLOURS["muted"],
            alpha=0.25,
            linewidth=0,
        )
        axes.plot([0, ALPHAS[-1]], [0, ALPHAS[-1]], color=COLOURS["muted"], linewidth=0.8)
        for name, rates in found.items():
            colour, dashes, width = line_style(evaluation, name)
            [line] = axes.plot(
                ALPHAS,
                [c.realised for c in rates],
                color=COLOURS[colour],
                linewidth=width,
                marker="o",
                markersize=3.5,
                clip_on=False,
                zorder=2.5 if name == WORST else 3.0,
            )
            if dashes:
                line.set_dashes(dashes)
        axes.set(xlim=(0, 1.05 * ALPHAS[-1]), ylim=(0, 1.02))
        axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        axes.set_yticks(SHARES, [f"{share:g}" for share in SHARES])
        axes.minorticks_off()
        axes.set_xlabel("promised false alarm rate")
        axes.set_ylabel("share of normal images called anomalous")
        axes.grid(True)

    told = "; ".join(
        f"{condition_name(name)}: "
        + ", ".join(f"{percent(c.realised)} for {percent(c.alpha)}" for c in rates)
        for name, rates in found.items()
    )
    return draw(f"{key}-coverage", SQUARE, paint, alt=f"Realised for promised rates. {told}.")


def _flag_roc(evaluation: Evaluation, attacked: list[str], flag: str, key: str) -> str:
    def paint(figure: Figure) -> None:
        axes: Axes = inner_axes(figure, left=0.62, right=0.08, bottom=0.5, top=0.08)
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.8, alpha=0.6)
        for name in attacked:
            curve = evaluation.conditions[name].attack_flags[flag]
            colour, dashes, width = line_style(evaluation, name)
            [line] = axes.plot(
                curve.false_alarm,
                curve.detection,
                color=COLOURS[colour],
                linewidth=width,
                clip_on=False,
                zorder=3,
            )
            if dashes:
                line.set_dashes(dashes)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_xlabel("clean images flagged")
        axes.set_ylabel("attacked images flagged")
        fractions(axes)

    areas = ", ".join(
        f"{condition_name(name)} {number(evaluation.conditions[name].attack_flags[flag].auroc)}"
        for name in attacked
    )
    return draw(
        f"{key}-flag-{flag.replace('_', '-')}",
        SQUARE,
        paint,
        alt=f"ROC curves of the flag {FLAGS[flag]}. Area under each: {areas}.",
    )
