"""Figures over the radius and over the number of steps."""

from __future__ import annotations

from dataclasses import dataclass

from robustad.attacks import preset
from robustad.errors import InputError
from robustad.evaluation.result import WORST, Condition, Evaluation


@dataclass(frozen=True)
class Point:
    """One point of a curve.

    Attributes
    ----------
    x : float
        Radius as a fraction of the pixel range, or number of steps; 0 is the clean pass.
    auroc : float
        Of the image scores.
    interval : (float, float) or None
        Its 95% bootstrap interval.
    pixel_auroc : float or None
        Of the anomaly maps.
    """

    x: float
    auroc: float
    interval: tuple[float, float] | None
    pixel_auroc: float | None


@dataclass(frozen=True)
class Curve:
    """Points of one attack, by rising `x`; the first is the clean pass."""

    name: str
    points: tuple[Point, ...]


def eps_curves(evaluation: Evaluation) -> list[Curve]:
    """AUROC over the radius, a curve an attack, the worst case last.

    Parameters
    ----------
    evaluation : Evaluation
        With several radii, or there is no curve.

    Returns
    -------
    list of Curve
        The worst case falls by construction, as it keeps what smaller balls gave; an attack by
        itself need not.
    """
    if len(evaluation.epsilons) < 2:
        return []
    radii = sorted(evaluation.epsilons)
    at = {eps: evaluation.at(eps) for eps in radii} if evaluation.attacks else {}
    names = [*evaluation.attacks, WORST] if WORST in evaluation.conditions else []
    return [
        Curve(
            name,
            (
                _point(0.0, evaluation.clean),
                *(_point(eps, at[eps][name]) for eps in radii if name in at[eps]),
            ),
        )
        for name in names
    ]


def steps_curves(evaluation: Evaluation) -> list[Curve]:
    """AUROC over the number of steps, at the first radius.

    Returns
    -------
    list of Curve
        One for each optimiser, norm and objective that ran with several numbers of steps above
        one, named like `pgd_flip`; FGSM counts as PGD of one step.
    """
    families: dict[tuple[str, str, str], dict[int, Condition]] = {}
    for name in evaluation.attacks:
        try:
            found = preset(name)
        except InputError:
            continue
        if found.steps > 0 and found.objective not in ("probe", "several"):
            optimiser = "pgd" if found.optimiser == "fgsm" else found.optimiser
            kind = (optimiser, found.norm, found.objective)
            families.setdefault(kind, {})[found.steps] = evaluation.conditions[name]
    return [
        Curve(
            _family(*kind),
            (
                _point(0.0, evaluation.clean),
                *(_point(steps, found[steps]) for steps in sorted(found)),
            ),
        )
        for kind, found in families.items()
        if len(found.keys() - {1}) > 1
    ]


def _family(optimiser: str, norm: str, objective: str) -> str:
    return "_".join(
        [
            optimiser,
            *([] if norm == "linf" else [norm]),
            *([] if objective == "image" else [objective]),
        ]
    )


def _point(x: float, condition: Condition) -> Point:
    metrics = condition.metrics
    return Point(float(x), metrics.auroc, metrics.auroc_interval, metrics.pixel_auroc)
