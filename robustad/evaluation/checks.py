"""What an evaluation can tell about its own worth from its figures alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from robustad.attacks import Preset, preset
from robustad.errors import InputError
from robustad.evaluation.result import (
    CLEAN,
    WORST,
    Check,
    Condition,
    Evaluation,
    eps_name,
)

CHECKS = {
    "train_mode": "is a part of the detector in training mode?",
    "randomised": "does the detector give other scores for the same image?",
    "zero_gradient": "is there no gradient from the score to the image?",
    "black_box_stronger": "does an attack without gradients go further than those with them?",
    "single_step_stronger": "does one step go further than many?",
    "larger_eps_weaker": "does an attack go less far in a larger ball?",
    "large_eps_not_chance": "is the detector better than guessing where any image is in reach?",
    "steps_matter": "does doubling the steps change the figure much?",
    "restarts_matter": "do random restarts change the figure much?",
}
STRONGER = 1.1  # an attack is stronger if it moves scores this many times as far, on average
MUCH = 0.05  # of AUROC, by doubling the steps or by restarts
LARGE_EPS = 0.25  # a ball in which a grey image can be turned into almost any other
CHANCE = 0.55  # AUROC that counts as guessing: above it the detector still tells images apart


def checks_of(evaluation: Evaluation) -> list[Check]:
    """Ask everything that the figures of an evaluation answer.

    Parameters
    ----------
    evaluation : Evaluation
        Best with attacks of several kinds, steps and radii: what it lacks cannot be asked, and
        its check then has `fired` None.

    Returns
    -------
    list of Check
        Those of `CHECKS` that depend on conditions.

    Notes
    -----
    Attacks are compared by how far they move the image scores the wrong way on average, over
    what each looked at inside the ball. The signs of gradient masking are those of Athalye et
    al., "Obfuscated gradients give a false sense of security", ICML 2018, section 3.1, and
    Carlini et al., "On evaluating adversarial robustness", 2019.
    """
    return [
        _zero_gradient(evaluation),
        _black_box(evaluation),
        _single_step(evaluation),
        _larger_eps(evaluation),
        _large_eps(evaluation),
        _steps(evaluation),
    ]


def restarts_check(one: Evaluation, many: Evaluation, restarts: int) -> Check:
    """Compare the worst case of the same attacks without and with random restarts."""
    before, after = (e.conditions[WORST].metrics.auroc for e in (one, many))
    much = before - after > MUCH
    return Check(
        name="restarts_matter",
        fired=much,
        sentence=f"{restarts} restarts take the worst-case AUROC from {before:.3f} to {after:.3f}"
        + (": run more of them." if much else "."),
        numbers={"auroc": before, "auroc_restarts": after, "restarts": restarts},
    )


def merged(*groups: Iterable[Check]) -> list[Check]:
    """One check a name, in the order of `CHECKS`: fired if any fired, asked if any was asked."""
    every = [check for group in groups for check in group]
    found = []
    for name in CHECKS:
        same = [check for check in every if check.name == name]
        asked = [check for check in same if check.fired is not None] or same
        fired = [check for check in asked if check.fired] or asked
        if fired:
            numbers = {key: value for check in fired for key, value in check.numbers.items()}
            sentence = " ".join(dict.fromkeys(check.sentence for check in fired))
            found.append(Check(name=name, fired=fired[0].fired, sentence=sentence, numbers=numbers))
    return found


def harm(evaluation: Evaluation, condition: Condition) -> float:
    """How far scores move the wrong way on average, in standard deviations of the clean scores."""
    clean = evaluation.scores(CLEAN)
    worst = np.asarray(condition.worst_score or condition.score)
    sign = 1 - 2 * np.asarray(evaluation.labels)
    return float((sign * (worst - clean)).mean() / (clean.std() or 1.0))


def _known(conditions: dict[str, Condition]) -> Iterator[tuple[str, Preset, Condition]]:
    """Attacks that are presets, with their preset."""
    for name, one in conditions.items():
        if name in (CLEAN, WORST):
            continue
        try:
            yield name, preset(name), one
        except InputError:
            continue


def _at_each(evaluation: Evaluation) -> Iterator[tuple[float, dict[str, Condition]]]:
    for eps in evaluation.epsilons:
        found = evaluation.at(eps) if evaluation.attacks else {}
        yield eps, found


def _unasked(name: str, why: str) -> Check:
    return Check(name=name, fired=None, sentence=f"Not asked: {why}.")


def _zero_gradient(evaluation: Evaluation) -> Check:
    conditions = [
        (name, one) for name, one in evaluation.conditions.items() if WORST not in name and one.eps
    ]
    white = [(n, c) for n, c in conditions if any(c.backward or ())]
    if not white:
        return _unasked("zero_gradient", "no attack took a gradient")
    dead = {name: one.flags["zero_gradient"] for name, one in white if "zero_gradient" in one.flags}
    sentence = "Every attack had a gradient on every image."
    if dead:
        sentence = (
            f"{', '.join(dead)} met images without any gradient; an attack that has none says "
            "nothing about robustness."
        )
    return Check(
        name="zero_gradient",
        fired=bool(dead),
        sentence=sentence,
        numbers={"attacks": len(dead), "images": max(dead.values(), default=0)},
    )


def _black_box(evaluation: Evaluation) -> Check:
    name = "black_box_stronger"

    def pick(found: list[tuple[str, Preset, Condition]]) -> tuple[str, str] | None:
        pairs = []
        for norm in ("linf", "l2", "l1"):  # a radius means another ball in another norm
            same = [(n, p, c) for n, p, c in found if p.norm == norm]
            blind = [n for n, p, _ in same if p.access != "white"]
            seeing = [n for n, p, _ in same if p.access == "white" and p.objective != "probe"]
            pair = _strongest_two(evaluation, same, blind, seeing)
            if pair is not None:
                moved = {n: harm(evaluation, c) for n, _, c in same}
                pairs.append((moved[pair[0]] - STRONGER * moved[pair[1]], pair))
        return max(pairs)[1] if pairs else None

    return _compare(
        evaluation,
        name,
        pick,
        "no attack without gradients, or none with them, was run",
        "{0}, which sees no gradient, moves scores by {a:.2f} standard deviations at {eps}, "
        "{1}, which does, by {b:.2f}",
        ": the gradient hides something.",
    )


def _single_step(evaluation: Evaluation) -> Check:
    def pick(found: list[tuple[str, Preset, Condition]]) -> tuple[str, str] | None:
        kinds = {(p.norm, p.objective) for _, p, _ in found if p.steps == 1}
        several = [
            n
            for n, p, _ in found
            if p.access == "white" and p.steps > 1 and (p.norm, p.objective) in kinds
        ]
        kinds &= {(p.norm, p.objective) for n, p, _ in found if n in several}
        single = [
            n
            for n, p, _ in found
            if p.access == "white" and p.steps == 1 and (p.norm, p.objective) in kinds
        ]
        return _strongest_two(evaluation, found, single, several)

    return _compare(
        evaluation,
        "single_step_stronger",
        pick,
        "no attack of one step and of several on the same objective were run",
        "{0}, a single step, moves scores by {a:.2f} standard deviations at {eps}, {1} by {b:.2f}",
        ": the gradient misleads those that follow it.",
    )


def _strongest_two(
    evaluation: Evaluation,
    found: list[tuple[str, Preset, Condition]],
    suspects: Sequence[str],
    references: Sequence[str],
) -> tuple[str, str] | None:
    if not suspects or not references:
        return None
    moved = {name: harm(evaluation, one) for name, _, one in found}
    return max(suspects, key=moved.__getitem__), max(references, key=moved.__getitem__)


def _compare(
    evaluation: Evaluation,
    name: str,
    pick: Callable[[list[tuple[str, Preset, Condition]]], tuple[str, str] | None],
    why: str,
    text: str,
    conclusion: str,
) -> Check:
    """Whether one attack is stronger than another at any radius; tells of the clearest case."""
    worst: tuple[float, Check] | None = None
    for eps, conditions in _at_each(evaluation):
        found = list(_known(conditions))
        pair = pick(found)
        if pair is None:
            continue
        a, b = (harm(evaluation, conditions[one]) for one in pair)
        fired = a > STRONGER * b + 1e-6
        sentence = text.format(*pair, a=a, b=b, eps=eps_name(eps)) + (conclusion if fired else ".")
        numbers = {"harm": a, "harm_reference": b, "eps": eps}
        check = Check(name=name, fired=fired, sentence=sentence, numbers=numbers)
        excess = a - STRONGER * b
        if worst is None or excess > worst[0]:
            worst = (excess, check)
    return _unasked(name, why) if worst is None else worst[1]


def _larger_eps(evaluation: Evaluation) -> Check:
    name = "larger_eps_weaker"
    radii = sorted(eps for eps in evaluation.epsilons if eps < LARGE_EPS)
    worst: tuple[float, Check] | None = None
    for small, large in pairwise(radii):
        inner, outer = evaluation.at(small), evaluation.at(large)
        for attack, _, one in _known({n: c for n, c in inner.items() if n in outer}):
            a, b = harm(evaluation, one), harm(evaluation, outer[attack])
            fired = a > STRONGER * b + 1e-6
            sentence = (
                f"{attack} moves scores by {a:.2f} standard deviations at {eps_name(small)} and by "
                f"{b:.2f} at {eps_name(large)}"
            ) + (": it fails to use the larger ball." if fired else ".")
            numbers = {"harm_small": a, "harm_large": b, "eps_small": small, "eps_large": large}
            check = Check(name=name, fired=fired, sentence=sentence, numbers=numbers)
            if worst is None or a - STRONGER * b > worst[0]:
                worst = (a - STRONGER * b, check)
    why = f"there are no two radii below {eps_name(LARGE_EPS)}"
    return _unasked(name, why) if worst is None else worst[1]


def _large_eps(evaluation: Evaluation) -> Check:
    name = "large_eps_not_chance"
    norms = {p.norm for _, p, _ in _known(evaluation.shown)}
    radii = [eps for eps in evaluation.epsilons if eps >= LARGE_EPS]
    if not radii or "linf" not in norms:
        return _unasked(name, f"no attack ran at {eps_name(LARGE_EPS)} or more")
    eps = max(radii)
    value = evaluation.at(eps)[WORST].metrics.auroc
    fired = value > CHANCE
    return Check(
        name=name,
        fired=fired,
        sentence=f"At {eps_name(eps)} the worst-case AUROC is {value:.3f}"
        + (", though hardly any image is out of reach: the attacks fail." if fired else "."),
        numbers={"auroc": value, "eps": eps},
    )


def _steps(evaluation: Evaluation) -> Check:
    name = "steps_matter"
    worst: tuple[float, Check] | None = None
    for eps, conditions in _at_each(evaluation):
        families: dict[tuple[str, str, str], dict[int, tuple[str, Condition]]] = {}
        for attack, found, one in _known(conditions):
            if found.access == "white" and found.steps > 1:
                kind = (found.optimiser, found.norm, found.objective)
                families.setdefault(kind, {})[found.steps] = (attack, one)
        for family in families.values():
            if len(family) < 2:
                continue
            few, many = sorted(family)[-2:]
            (short, a), (long, b) = family[few], family[many]
            drop = (a.metrics.auroc - b.metrics.auroc) / math.log2(many / few)
            fired = drop > MUCH
            sentence = (
                f"AUROC is {a.metrics.auroc:.3f} under {short} and {b.metrics.auroc:.3f} under "
                f"{long} at {eps_name(eps)}"
            ) + (": more steps still help, run more." if fired else ".")
            numbers = {"steps": many, "auroc": b.metrics.auroc, "drop_by_doubling": drop}
            check = Check(name=name, fired=fired, sentence=sentence, numbers=numbers)
            if worst is None or drop > worst[0]:
                worst = (drop, check)
    why = "no attack ran with two numbers of steps"
    return _unasked(name, why) if worst is None else worst[1]
