"""AUROC over the radius and over the number of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustad.evaluation import Curve, Evaluation, eps_curves, steps_curves
from robustad.evaluation.result import WORST
from robustad.report.svg import COLOURS, draw
from robustad.report.wording import condition_name, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (5.6, 3.6)  # inches
MARKERS = "osDv^P*X"


def eps_figure(evaluation: Evaluation, key: str) -> str | None:
    """Curves over the radius; None with a single radius."""
    return _figure(
        eps_curves(evaluation), f"{key}-eps", "radius in steps of an 8-bit image", scale=255.0
    )


def steps_figure(evaluation: Evaluation, key: str) -> str | None:
    """Curves over the steps; None where no attack ran with several numbers of steps."""
    return _figure(steps_curves(evaluation), f"{key}-steps", "gradient steps", log=True)


def _figure(
    curves: list[Curve], key: str, axis: str, *, scale: float = 1.0, log: bool = False
) -> str | None:
    if not curves:
        return None

    def paint(figure: Figure) -> None:
        width, height = SIZE
        left, bottom, right, top = 0.62, 0.5, 0.12, 0.12
        axes = figure.add_axes(
            (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
        )
        axes.axhline(0.5, color=COLOURS["muted"], linewidth=0.8, alpha=0.6)
        for place, curve in enumerate(curves):
            worst = curve.name == WORST
            colour = COLOURS["worst" if worst else f"attack-{place % 4 + 1}"]
            x = [point.x * scale for point in curve.points]
            if worst and all(point.interval for point in curve.points):
                ends = [point.interval or (0.0, 0.0) for point in curve.points]
                axes.fill_between(
                    x, [low for low, _ in ends], [high for _, high in ends],
                    color=colour, alpha=0.15, linewidth=0,
                )  # fmt: skip
            axes.plot(
                x,
                [point.auroc for point in curve.points],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4.5,
                color=colour,
                linewidth=2.6 if worst else 1.4,
                label=condition_name(curve.name),
                clip_on=False,
            )
        if log:
            axes.set_xscale("symlog", linthresh=1.0)
        axes.set_ylim(0, 1)
        axes.set_xlabel(axis)
        axes.set_ylabel("AUROC of images")
        axes.grid(True)
        axes.legend(frameon=False, fontsize=8.5)

    told = "; ".join(
        f"{condition_name(curve.name)}: "
        + ", ".join(f"{number(point.auroc)} at {point.x * scale:g}" for point in curve.points)
        for curve in curves
    )
    return draw(key, SIZE, paint, alt=f"AUROC over {axis}. {told}.")
