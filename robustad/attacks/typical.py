"""Stepping back from a success that looks too good: a score as normal images have it."""

import torch
from torch import Tensor

from robustad.attacks.problem import Problem

STEPS = 12  # of a bisection along the line: 1/4096 of the perturbation


@torch.no_grad()
def typical_instead(problem: Problem, found: Tensor, typical: float) -> Tensor:
    """Move anomalous images whose score fell below a typical one back up to it.

    Parameters
    ----------
    problem : Problem
        One batch.
    found : Tensor, (B, 3, H, W)
        Images inside the ball.
    typical : float
        Score that normal images have, for instance the median of held-out ones.

    Returns
    -------
    Tensor, (B, 3, H, W)
        `found`, but for anomalous images that score below `typical`: these lie on the line from
        the clean image, where the score falls to `typical` or just below it. Where the clean
        image is below already, it is what is returned: nothing is to be gained.

    Notes
    -----
    Scores are continuous, so that every score between the clean and the attacked one is met on
    the line, and balls are convex: a flag that looks for scores which are too low to be true is
    evaded at the price of a few queries and no gradient.
    """
    anomalous = (problem.label == 1).nonzero().flatten()
    if not len(anomalous):
        return found
    part = problem.select(anomalous)
    reached = part.scores(found[anomalous]).image
    start = part.detector.aggregate(part.clean)
    made = found.clone()
    done = anomalous[start < typical]
    made[done] = problem.x[done]
    rows = anomalous[(reached < typical) & (start >= typical)]
    if not len(rows):
        return made
    part = problem.select(rows)
    step = found[rows] - part.x
    near, far = torch.zeros(len(rows)).to(found), torch.ones(len(rows)).to(found)
    for _ in range(STEPS):
        middle = (near + far) / 2
        below = part.scores(_along(part, step, middle)).image < typical
        near, far = torch.where(below, near, middle), torch.where(below, middle, far)
    made[rows] = _along(part, step, far)
    return made


def _along(part: Problem, step: Tensor, share: Tensor) -> Tensor:
    """Points of the lines, inside the ball also after rounding."""
    return part.project(part.x + share[:, None, None, None] * step).clamp(0.0, 1.0)
