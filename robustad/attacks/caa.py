"""CAA: a chain of attacks, each started where the one before it ended."""

from collections.abc import Sequence

from torch import Tensor

from robustad.attacks.apgd import apgd
from robustad.attacks.pgd import Best
from robustad.attacks.problem import Problem

# Objective and steps of each stage: multi-targeted twice, then Carlini and Wagner's margin.
CHAIN = (("flip", 50), ("flip", 25), ("margin", 125))


def caa(problem: Problem, *, chain: Sequence[tuple[str, int]] = CHAIN) -> Tensor:
    """Run a chain of APGD stages, each from the previous one's result and from the clean image.

    Parameters
    ----------
    problem : Problem
        With masks; its own objective is not looked at.
    chain : sequence of (objective, steps)
        By default the policy found for l-infinity, MT-50, MT-25, CW-125, where the multi-targeted
        attack, as there is but one other class, becomes `flip`.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: what moved the image score farthest.

    Raises
    ------
    InputError
        If there are no masks.

    Notes
    -----
    Mao et al., "Composite Adversarial Attacks", AAAI 2021, table 1. A stage hands on, image by
    image, whichever of its two runs gained more on its objective. All stages search the one ball.
    """
    problem.require_mask("caa")
    previous = problem.x
    for place, (objective, steps) in enumerate(chain):
        stage, best = problem.aimed(objective), Best(problem)
        for start in (None, previous) if place else (None,):
            found = apgd(stage, steps=steps, start=start)
            best.update(found, stage.values(found))
        previous = best.images
    return problem.worst()
