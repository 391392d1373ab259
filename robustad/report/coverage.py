"""What goes wrong among the images that nobody looks at: risk over coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from robustad.evaluation import Condition, Evaluation
from robustad.metrics import risk_coverage
from robustad.report.figures import inner_axes, line_style
from robustad.report.svg import COLOURS, draw
from robustad.report.wording import condition_name, number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (5.6, 3.9)  # inches
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)

FloatArray = npt.NDArray[np.float64]


def curve_of(evaluation: Evaluation, condition: Condition) -> tuple[FloatArray, FloatArray] | None:
    """Coverage and risk of one condition; None without probabilities.

    Errors are those of the policy's threshold, or of 0.5 where the result does not have it; the
    surest images are those of the lowest entropy.
    """
    report, p = evaluation.calibration, condition.probability
    if report is None or p is None:
        return None
    probability, labels = np.asarray(p), np.asarray(evaluation.labels)
    threshold = 0.5 if report.threshold is None else report.threshold
    wrong = (probability >= threshold) != (labels == 1)
    curve = risk_coverage(np.maximum(probability, 1.0 - probability), wrong)
    return curve.coverage, curve.risk


def risk_figure(evaluation: Evaluation, key: str) -> str | None:
    """Risk over coverage of all conditions, with the place of the flag; None without them."""
    shown = {name: curve_of(evaluation, one) for name, one in evaluation.shown.items()}
    curves = {name: curve for name, curve in shown.items() if curve is not None}
    if not curves:
        return None
    flags = {name: _flagged(evaluation, name) for name in curves}

    def paint(figure: Figure) -> None:
        axes = inner_axes(figure, left=0.62, right=0.12, bottom=0.5, top=0.12)
        for place, (name, (coverage, risk)) in enumerate(curves.items()):
            colour, dashes, width = line_style(evaluation, name)
            order = 2.5 - 0.01 * place  # the worst case below what it coincides with
            [line] = axes.plot(coverage, risk, color=COLOURS[colour], linewidth=width, zorder=order)
            if dashes:
                line.set_dashes(dashes)
            flag = flags[name]
            if flag is not None:
                axes.plot(*flag, "o", color=COLOURS[colour], markersize=6, clip_on=False, zorder=4)
        top_risk = max(float(risk.max()) for _, risk in curves.values())
        axes.set(xlim=(0, 1), ylim=(0, max(0.05, min(1.0, 1.05 * top_risk))))
        axes.set_xticks(TICKS, ("0", "0.25", "0.5", "0.75", "1"))
        axes.set_xlabel("coverage: share of the images that no person looks at")
        axes.set_ylabel("error rate among them")
        axes.grid(True)

    told = "; ".join(
        f"{condition_name(name)} {percent(float(risk[-1]))} at full coverage"
        for name, (_, risk) in curves.items()
    )
    return draw(f"{key}-risk", SIZE, paint, alt=f"Error rate over coverage: {told}.")


def risk_rows(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """Name, error rate of all images and of those not deferred, and area, a condition."""
    rows = []
    for name, one in evaluation.shown.items():
        curve = curve_of(evaluation, one)
        if curve is None:
            continue
        flag = _flagged(evaluation, name)
        left = percent(None if flag is None else flag[1])
        area = number(float(curve[1].mean()))
        rows.append((condition_name(name), percent(float(curve[1][-1])), left, area))
    return rows


def _flagged(evaluation: Evaluation, name: str) -> tuple[float, float] | None:
    """Coverage and error rate where the entropy flag stands; None without one."""
    report, one = evaluation.calibration, evaluation.conditions[name]
    if report is None or report.entropy_threshold is None or not one.entropy or not one.probability:
        return None
    kept = np.asarray(one.entropy) <= report.entropy_threshold
    if not kept.any():
        return None
    threshold = 0.5 if report.threshold is None else report.threshold
    wrong = (np.asarray(one.probability) >= threshold) != (np.asarray(evaluation.labels) == 1)
    return float(kept.mean()), float(wrong[kept].mean())
