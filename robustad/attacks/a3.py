"""A3: many short runs from starts that random directions of the output choose."""

import math

import torch
from torch import Tensor

from robustad.attacks.objectives import Scores
from robustad.attacks.pgd import Best
from robustad.attacks.problem import Problem
from robustad.errors import InputError

PURPOSE = 20_000
# Rounds whose directions are drawn freely, and the share of a good direction's signs kept later.
FREE, KEPT = 4, 0.75


def a3(
    problem: Problem,
    *,
    rounds: int = 13,
    steps: int = 50,
    start_steps: int = 7,
) -> Tensor:
    """Walk along a random direction of the patch scores, then up the objective; again and again.

    Parameters
    ----------
    problem : Problem
        What to attack.
    rounds : int >= 1, default 13
        Runs; each image keeps the best, so that more never do worse.
    steps : int >= 1, default 50
        Of each run on the objective; step sizes fall from eps to eps / 10 along a cosine.
    start_steps : int >= 0, default 7
        Of each run on the random direction, each of eps.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball.

    Raises
    ------
    InputError
        If a count is out of range.

    Notes
    -----
    Liu et al., "Practical Evaluation of Adversarial Robustness via Adaptive Auto Attack", CVPR
    2022. A round starts at a random point, maximises `w . z` of the patch logits z with w uniform
    in [-1, 1] (adaptive direction initialisation), then the objective. From the fifth round on,
    three quarters of the entries of w keep their sign in the direction that has served the image
    best, which is where the paper uses what successful directions have in common. The paper's
    statistics-based discarding of hard images is left out: AUROC needs every image.
    """
    for name, value, least in (("rounds", rounds, 1), ("steps", steps, 1)):
        if value < least:
            raise InputError(f"{name}: expected >= {least}, got {value}")
    if start_steps < 0:
        raise InputError(f"start_steps: expected >= 0, got {start_steps}")
    best, served = Best(problem), torch.zeros_like(problem.clean)
    best.update(problem.x, problem.values(problem.x))
    for turn in range(rounds):
        weight = _directions(problem, turn, served)

        def along(scores: Scores, weight: Tensor = weight) -> Tensor:
            return (weight * scores.logit).sum(dim=1)

        current, guided = problem.start(turn), problem.aimed(along)
        for _ in range(start_steps):
            _, gradient = guided.gradient(current)
            current = problem.step(current, gradient, problem.eps)
        for step in range(steps):
            values, gradient = problem.gradient(current, progress=step / steps)
            served = _serving(best.update(current, values), weight, served)
            share = 0.5 * (1 + math.cos(math.pi * step / steps))
            current = problem.step(current, gradient, (0.1 + 0.9 * share) * problem.eps)
        improved = best.update(current, problem.values(current, progress=1.0))
        served = _serving(improved, weight, served)
    return best.images


def _directions(problem: Problem, turn: int, served: Tensor) -> Tensor:
    """One direction (B, N) an image, drawn from its own seed."""
    rows = []
    for place in range(len(problem)):
        generator = problem.generator(place, PURPOSE + turn)
        row = torch.rand(2, served.shape[1], generator=generator)
        free = 2 * row[0] - 1
        good = served[place].cpu()
        keep = (row[1] < KEPT) & (good != 0) & (turn >= FREE)
        rows.append(torch.where(keep, free.abs() * good.sign(), free))
    return torch.stack(rows).to(served)


def _serving(improved: Tensor, weight: Tensor, served: Tensor) -> Tensor:
    return torch.where(improved[:, None], weight, served)
