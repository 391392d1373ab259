"""The plots of one evaluation, each as one inline SVG."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from robustad.calibration import RawScore
from robustad.evaluation import Evaluation
from robustad.evaluation.result import CLEAN, WORST
from robustad.metrics import reliability_curve
from robustad.report.svg import COLOURS, draw
from robustad.report.wording import condition_name, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]
BINS = 32
SQUARE, WIDE = (4.4, 4.28), 5.6  # inches
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
TICK_NAMES = ("0", "0.25", "0.5", "0.75", "1")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5.0, 1.6), (5.0, 1.4, 1.2, 1.4), (1.4, 1.2))


def line_style(evaluation: Evaluation, name: str) -> tuple[str, tuple[float, ...], float]:
    """Colour name, dashes and width (points) of a condition's line, the same in plot and legend."""
    if name == CLEAN:
        return "ink", (), 1.8
    if name == WORST:
        return "worst", (), 3.2
    index = evaluation.attacks.index(name)
    return f"attack-{index % 4 + 1}", _DASHES[(index + 1 + index // 4) % 4], 1.5


def roc(evaluation: Evaluation, key: str) -> str:
    """ROC curves of all conditions; the legend is left to the page."""
    from sklearn.metrics import roc_curve

    labels = np.asarray(evaluation.labels)

    def paint(figure: Figure) -> None:
        axes = inner_axes(figure, left=0.62, right=0.08, bottom=0.5, top=0.08)
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.8, alpha=0.6)
        for name in evaluation.shown:
            fpr, tpr, _ = roc_curve(labels, evaluation.scores(name))
            colour, dashes, width = line_style(evaluation, name)
            # The worst case lies below the attack that it often coincides with.
            order = 2.5 if name == WORST else 3.0
            [line] = axes.plot(
                fpr, tpr, color=COLOURS[colour], linewidth=width, clip_on=False, zorder=order
            )
            if dashes:
                line.set_dashes(dashes)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_xlabel("false positive rate: normal images called anomalous")
        axes.set_ylabel("true positive rate: anomalous images found")
        fractions(axes)

    found = ", ".join(
        f"{condition_name(name)} {number(condition.metrics.auroc)}"
        for name, condition in evaluation.shown.items()
    )
    return draw(f"{key}-roc", SQUARE, paint, alt=f"ROC curves. Area under each: {found}.")


def score_strips(evaluation: Evaluation, key: str) -> str:
    """Histograms of the image scores, one strip a condition, with the decision threshold."""
    report = evaluation.calibration
    return strips(
        evaluation,
        f"{key}-scores",
        evaluation.scores,
        limit=None if report is None else report.score_threshold,
        limit_name="threshold",
        note=lambda name: _errors(evaluation, name),
        axis="image score",
    )


def entropy_strips(evaluation: Evaluation, key: str) -> str | None:
    """Histograms of the predictive entropy with the flag; None without a calibrator."""
    report = evaluation.calibration
    if report is None or any(c.entropy is None for c in evaluation.shown.values()):
        return None

    def note(name: str) -> str:
        rate = evaluation.conditions[name].flag_rate
        return "" if rate is None else f"deferred {percent(rate)}"

    return strips(
        evaluation,
        f"{key}-entropy",
        lambda name: np.asarray(evaluation.conditions[name].entropy),
        limit=report.entropy_threshold,
        limit_name="flag",
        note=note,
        axis="predictive entropy in nats (0.693 = coin toss)",
        span=(0.0, float(np.log(2.0))),
    )


def reliability(evaluation: Evaluation, key: str) -> tuple[str, str] | None:
    """Reliability diagrams of the raw score and of the probability; None without a calibrator."""
    probability = evaluation.clean.probability
    if evaluation.calibration is None or probability is None:
        return None
    raw = RawScore().predict_proba(evaluation.scores())
    return (
        _reliability(raw, evaluation, f"{key}-before", "score taken as a probability"),
        _reliability(np.asarray(probability), evaluation, f"{key}-after", "calibrated probability"),
    )


def _errors(evaluation: Evaluation, name: str) -> str:
    metrics = evaluation.conditions[name].metrics
    if metrics.fpr is None or metrics.fnr is None:
        return f"AUROC {number(metrics.auroc)}"
    return f"false alarms {percent(metrics.fpr)}, missed {percent(metrics.fnr)}"


def strips(
    evaluation: Evaluation,
    key: str,
    values: Callable[[str], FloatArray],
    *,
    limit: float | None,
    limit_name: str,
    note: Callable[[str], str],
    axis: str,
    span: tuple[float, float] | None = None,
) -> str:
    """Histograms of one value an image, a strip a condition; a note at the end of each."""
    names = list(evaluation.shown)
    anomalous = np.asarray(evaluation.labels) == 1
    edges = _edges(np.concatenate([values(name) for name in names]), limit, span)
    counts = {}
    for name in names:
        inside = values(name).clip(edges[0], edges[-1])  # an entropy may pass ln 2 by rounding
        counts[name] = [np.histogram(inside[rows], edges)[0] for rows in (~anomalous, anomalous)]
    top = max(int(part.max()) for parts in counts.values() for part in parts)
    pitch, half = 3.0 * top, 1.15 * top
    line = limit if limit is not None and edges[0] <= limit <= edges[-1] else None
    height = 0.62 + 0.98 * len(names)

    def paint(figure: Figure) -> None:
        # All strips in one pair of axes, each on its own level: far quicker than one pair each.
        axes = inner_axes(figure, left=0.36, right=0.05, bottom=0.42, top=0.2)
        for row, name in enumerate(names):
            level = -pitch * row
            # Back to back, so that the classes can be told apart without colour.
            for part, sign, colour in zip(
                counts[name], (1, -1), ("normal", "anomalous"), strict=True
            ):
                axes.stairs(
                    level + sign * part, edges, baseline=level, fill=True, color=COLOURS[colour]
                )
            if line is not None:
                axes.plot(
                    [line, line],
                    [level - half, level + half],
                    color=COLOURS["ink"],
                    linewidth=1.0,
                    dashes=(3, 2),
                )
            above = level + 1.25 * top
            axes.text(edges[0], above, condition_name(name), fontsize=8.5)
            axes.text(
                edges[-1], above, note(name), fontsize=8.5, ha="right", color=COLOURS["muted"]
            )
        levels = [-pitch * row for row in range(len(names))]
        axes.hlines(levels, edges[0], edges[-1], color=COLOURS["muted"], linewidth=0.7)
        margin = 0.01 * (edges[-1] - edges[0])
        axes.set(
            xlim=(edges[0] - margin, edges[-1] + margin), ylim=(levels[-1] - half, half + 0.3 * top)
        )
        ticks = [(level + sign * top, top * abs(sign)) for level in levels for sign in (-1, 0, 1)]
        axes.set_yticks([at for at, _ in ticks], [str(size) for _, size in ticks])
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.tick_params(axis="both", length=0)
        axes.set_xlabel(axis)
        if line is not None:
            right = line > (edges[0] + edges[-1]) / 2
            axes.annotate(
                limit_name,
                (line, half),
                (-4 if right else 4, -2),
                textcoords="offset points",
                ha="right" if right else "left",
                va="top",
                fontsize=8.5,
                bbox={"facecolor": COLOURS["panel"], "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
            )

    told = "; ".join(f"{condition_name(name)}: {note(name)}" for name in names if note(name))
    alt = f"Histograms of the {axis}, normal images up, anomalous down. {told}".strip()
    return draw(key, (WIDE, height), paint, alt=alt)


def _edges(values: FloatArray, limit: float | None, span: tuple[float, float] | None) -> FloatArray:
    """Edges of the bins all strips share, with room for the limit unless it lies far away."""
    if span is None:
        low, high = float(values.min()), float(values.max())
        if limit is not None and 2 * low - high <= limit <= 2 * high - low:
            low, high = min(low, limit), max(high, limit)
        span = (low, high)
    return np.histogram_bin_edges(values, bins=BINS, range=span)


def _reliability(probability: FloatArray, evaluation: Evaluation, key: str, axis: str) -> str:
    curve = reliability_curve(probability, evaluation.labels)
    filled = curve.count > 0

    def paint(figure: Figure) -> None:
        upper = inner_axes(figure, left=0.62, right=0.08, bottom=1.25, top=0.08)
        lower = inner_axes(figure, left=0.62, right=0.08, bottom=0.45, top=3.2)
        upper.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.8, alpha=0.6)
        # The gap to the diagonal is what the calibration error averages.
        upper.vlines(
            curve.mean_predicted[filled],
            curve.mean_predicted[filled],
            curve.fraction_positive[filled],
            color=COLOURS["accent"],
            linewidth=4.0,
            alpha=0.35,
        )
        # Few images make an unsure dot: Wilson's interval of the share.
        upper.vlines(
            curve.mean_predicted[filled],
            curve.low[filled],
            curve.high[filled],
            color=COLOURS["muted"],
            linewidth=1.1,
        )
        upper.plot(
            curve.mean_predicted[filled],
            curve.fraction_positive[filled],
            "o",
            color=COLOURS["accent"],
            markersize=5.5,
            clip_on=False,
            zorder=3,
        )
        upper.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        upper.set_ylabel("share anomalous")
        fractions(upper)
        upper.tick_params(labelbottom=False)
        lower.bar(curve.bin_centre, curve.count, 0.088, color=COLOURS["muted"], alpha=0.55)
        for centre, size in zip(curve.bin_centre[filled], curve.count[filled], strict=True):
            lower.annotate(
                str(int(size)),
                (centre, size),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8.0,
            )
        lower.set_xlim(0, 1)
        lower.set_xticks(TICKS, TICK_NAMES)
        lower.set_ylim(0, 1.5 * curve.count.max())
        lower.set_yticks([])
        lower.spines["left"].set_visible(False)
        lower.set_ylabel("images", labelpad=23)
        lower.set_xlabel(axis)

    points = ", ".join(
        f"{p:.2f} to {q:.2f} ({n})"
        for p, q, n in zip(
            curve.mean_predicted[filled],
            curve.fraction_positive[filled],
            curve.count[filled],
            strict=True,
        )
    )
    alt = f"Reliability of the {axis}: predicted to observed share, images in brackets: {points}."
    return draw(key, SQUARE, paint, alt=alt)


def inner_axes(figure: Figure, *, left: float, right: float, bottom: float, top: float) -> Axes:
    """Axes with these margins in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (
            left / width,
            bottom / height,
            1.0 - (left + right) / width,
            1.0 - (bottom + top) / height,
        )
    )


def fractions(axes: Axes) -> None:
    """Ticks and grid of two axes from 0 to 1."""
    axes.set_xticks(TICKS, TICK_NAMES)
    axes.set_yticks(TICKS, TICK_NAMES)
    axes.grid(True)
