"""Named attacks that do with less than the gradient of the score, or look for the boundary."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from robustad.attacks.fab import fab
from robustad.attacks.features import features
from robustad.attacks.guide import guide
from robustad.attacks.hopskipjump import hopskipjump
from robustad.attacks.named import Access, Preset
from robustad.attacks.options import Options
from robustad.attacks.problem import Problem
from robustad.attacks.projection import Norm
from robustad.attacks.spsa import spsa
from robustad.attacks.square import square
from robustad.attacks.transfer import transfer

FORM = (
    "(square|spsa)[<queries>][_l2|_l1], hopskipjump[<queries>][_l2] or "
    "(fab|transfer|features|guide)[<steps>][_l2|_l1]"
)
_FORM = re.compile(
    r"(square|spsa|fab|transfer|features|guide|hopskipjump(?!.*_l1))([1-9]\d{0,6})?(?:_(l2|l1))?",
    re.ASCII,
)
_BALLS: dict[Norm, str] = {"linf": "", "l2": ", in the l2 ball", "l1": ", in the l1 ball"}


def blackbox_preset(name: str) -> Preset | None:
    """Look up a form of these attacks.

    Parameters
    ----------
    name : str
        `square`, `spsa` or `hopskipjump`, with the number of queries if it is not the default, or
        `fab`, `transfer`, `features` or `guide`, with the number of steps; `_l2` or (but for
        `hopskipjump`) `_l1` for that ball.

    Returns
    -------
    Preset or None
        None if it is none of these.

    Examples
    --------
    >>> found = blackbox_preset("square1000_l2")
    >>> found.norm, found.access, found.summary
    ('l2', 'score', 'random search with 1000 queries, in the l2 ball')
    """
    found = _FORM.fullmatch(name)
    if found is None:
        return None
    norm: Norm = found[3] or "linf"  # type: ignore[assignment]
    return _FAMILIES[found[1]](name, None if found[2] is None else int(found[2]), norm)


def _square(name: str, queries: int | None, norm: Norm) -> Preset:
    default = queries or 5000
    return _preset(
        name,
        norm,
        lambda problem, options: square(problem, queries=options.queries or default),
        access="score",
        objective="image",
        takes={"queries"},
        summary=f"random search with {default} queries",
    )


def _spsa(name: str, queries: int | None, norm: Norm) -> Preset:
    default = queries or 10_000
    return _preset(
        name,
        norm,
        lambda problem, options: spsa(
            problem,
            queries=options.queries or default,
            steps=options.steps,
            query_batch=options.query_batch,
            **_given(options, "step_size"),
        ),
        access="score",
        objective="image",
        takes={"queries", "steps", "step_size"},
        summary=f"gradients estimated from differences of scores, {default} queries",
    )


def _hopskipjump(name: str, queries: int | None, norm: Norm) -> Preset:
    default = queries or 10_000
    return _preset(
        name,
        norm,
        lambda problem, options: hopskipjump(
            problem,
            iterations=options.steps or 50,
            queries=options.queries or default,
            pool=options.pool,
            query_batch=options.query_batch,
        ),
        access="decision",
        needs={"threshold"},
        takes={"queries", "steps", "pool"},
        summary=f"nearest image across the threshold from decisions alone, {default} queries",
    )


def _fab(name: str, steps: int | None, norm: Norm) -> Preset:
    default = steps or 100
    return _preset(
        name,
        norm,
        lambda problem, options: fab(
            problem, iterations=options.steps or default, restarts=options.restarts
        ),
        steps=default,
        needs={"threshold"},
        takes={"steps", "restarts"},
        summary=f"nearest image across the threshold, {default} projections on the boundary",
    )


def _transfer(name: str, steps: int | None, norm: Norm) -> Preset:
    default = steps or 10

    def run(problem: Problem, options: Options) -> Tensor:
        return transfer(
            problem,
            options.surrogates,
            steps=options.steps or default,
            step_size=options.step_size,
            random=options.random,
            restarts=options.restarts,
        )

    return _preset(
        name,
        norm,
        run,
        access="transfer",
        objective="image",
        steps=default,
        needs={"surrogate"},
        takes={"steps", "step_size", "random", "restarts"},
        summary=f"{default} steps of momentum with diverse inputs on surrogates",
    )


def _features(name: str, steps: int | None, norm: Norm) -> Preset:
    default = steps or 100
    return _preset(
        name,
        norm,
        lambda problem, options: features(
            problem,
            steps=options.steps or default,
            step_size=options.step_size,
            restarts=options.restarts,
        ),
        steps=default,
        needs={"features"},
        takes={"steps", "step_size", "restarts"},
        summary=f"patch features moved away from what they were, {default} steps",
    )


def _guide(name: str, steps: int | None, norm: Norm) -> Preset:
    default = steps or 100
    return _preset(
        name,
        norm,
        lambda problem, options: guide(
            problem,
            steps=options.steps or default,
            step_size=options.step_size,
            rounds=min(5, options.steps or default),
        ),
        steps=default,
        needs={"features", "bank"},
        takes={"steps", "step_size"},
        summary=f"patch features led to or away from the bank, {default} steps",
    )


def _preset(
    name: str,
    norm: Norm,
    run: Callable[[Problem, Options], Tensor],
    *,
    access: Access = "white",
    objective: str = "several",
    steps: int = 0,
    needs: set[str] | None = None,
    takes: set[str],
    summary: str,
) -> Preset:
    return Preset(
        name=name,
        optimiser=re.match(r"[a-z]+", name)[0],  # type: ignore[index]
        objective=objective,
        steps=steps,
        norm=norm,
        access=access,
        needs=frozenset(needs or ()),
        takes=frozenset(takes),
        summary=summary + _BALLS[norm],
        run=run,
    )


def _given(options: Options, *names: str) -> dict[str, Any]:
    """Only those options that are not None."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


_FAMILIES: dict[str, Callable[[str, int | None, Norm], Preset]] = {
    "square": _square,
    "spsa": _spsa,
    "hopskipjump": _hopskipjump,
    "fab": _fab,
    "transfer": _transfer,
    "features": _features,
    "guide": _guide,
}
# Those that are listed by name.
STANDARD = tuple(make(family, None, "linf") for family, make in _FAMILIES.items())
