"""How the presets call their optimisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from robustad.attacks.a3 import a3
from robustad.attacks.adaptive import adaptive
from robustad.attacks.apgd import apgd
from robustad.attacks.autoattack import autoattack
from robustad.attacks.caa import caa
from robustad.attacks.momentum import mifgsm
from robustad.attacks.options import Options
from robustad.attacks.pgd import fgsm, pgd
from robustad.attacks.probe import on_probe
from robustad.attacks.problem import Problem
from robustad.attacks.sea import sea
from robustad.attacks.segpgd import segpgd

# From a problem, the options and the preset's steps or queries to adversarial images.
Counted: TypeAlias = Callable[[Problem, Options, int], Tensor]


def run_pgd(problem: Problem, options: Options, steps: int) -> Tensor:
    """PGD on the problem's objective."""
    return pgd(
        problem,
        steps=options.steps or steps,
        step_size=options.step_size,
        random=options.random,
        restarts=options.restarts,
        keep=options.iterate,
    )


def run_apgd(problem: Problem, options: Options, steps: int) -> Tensor:
    """APGD on the problem's objective."""
    return apgd(
        problem,
        steps=options.steps or steps,
        step_size=options.step_size,
        random=options.random,
        restarts=options.restarts,
        keep=options.iterate,
    )


def run_momentum(
    problem: Problem, options: Options, steps: int, *, diversity: float = 0.0
) -> Tensor:
    """MI-FGSM, or DI-FGSM, on the problem's objective."""
    return mifgsm(
        problem,
        steps=options.steps or steps,
        step_size=options.step_size,
        diversity=diversity,
        random=options.random,
        restarts=options.restarts,
        keep=options.iterate,
    )


def run_diverse(problem: Problem, options: Options, steps: int) -> Tensor:
    """DI-FGSM with its published probability."""
    return run_momentum(problem, options, steps, diversity=0.5)


def run_fgsm(problem: Problem, options: Options) -> Tensor:
    """FGSM, or PGD where a number of steps is given."""
    return fgsm(problem) if options.steps is None else run_pgd(problem, options, options.steps)


def run_probe(problem: Problem, options: Options) -> Tensor:
    """FGSM on a linear probe."""
    return run_fgsm(on_probe(problem, options), options)


def run_segpgd(problem: Problem, options: Options) -> Tensor:
    """SegPGD."""
    return segpgd(
        problem,
        steps=options.steps or 100,
        step_size=options.step_size,
        random=options.random,
        restarts=options.restarts,
        keep=options.iterate,
    )


def run_sea(problem: Problem, options: Options) -> Tensor:
    """SEA."""
    return sea(problem, steps=options.steps or 300)


def run_caa(problem: Problem, options: Options) -> Tensor:
    """CAA."""
    return caa(problem)


def run_a3(problem: Problem, options: Options) -> Tensor:
    """A3; restarts are its rounds."""
    rounds = 13 if options.restarts == 1 else options.restarts
    return a3(problem, rounds=rounds, steps=options.steps or 50)


def run_autoattack(problem: Problem, options: Options) -> Tensor:
    """AutoAttack."""
    return autoattack(problem, steps=options.steps or 100, queries=options.queries or 5000)


def run_adaptive(problem: Problem, options: Options) -> Tensor:
    """Our strongest."""
    return adaptive(problem, calibrator=options.calibrator, typical=options.typical)


# Words before "steps" in a summary, and the runner.
ITERATED: dict[str, tuple[str, Counted]] = {
    "pgd": ("", run_pgd),
    "apgd": ("self-tuned (APGD) ", run_apgd),
    "mifgsm": ("momentum (MI-FGSM) ", run_momentum),
    "difgsm": ("momentum (DI-FGSM, diverse inputs) ", run_diverse),
}
