"""SPSA: gradients from differences of scores along random signs."""

from __future__ import annotations

import torch
from torch import Tensor

from robustad.attacks.pgd import Best
from robustad.attacks.problem import Problem
from robustad.errors import InputError

PURPOSE = 10_200
# Of Adam, as usual.
FIRST, SECOND = 0.9, 0.999


@torch.no_grad()
def spsa(
    problem: Problem,
    *,
    queries: int = 10_000,
    samples: int = 128,
    delta: float = 0.01,
    step_size: float = 0.01,
    steps: int | None = None,
    query_batch: int = 64,
) -> Tensor:
    """Climb along a gradient that is estimated from scores, with Adam.

    Parameters
    ----------
    problem : Problem
        Of any norm; its objective needs no gradient.
    queries : int, default 10000
        Forward passes per image that are not exceeded; an iteration takes `2 samples + 1`.
    samples : int >= 1, default 128
        Random signs an iteration, each with a forward pass on either side.
    delta : float in (0, 0.5), default 0.01
        How far to either side.
    step_size : float > 0, default 0.01
        Of Adam.
    steps : int >= 1, optional
        Iterations, by default as many as `queries` allows.
    query_batch : int >= 1, default 64
        Images in one call of the detector; both sides of one sign of each image at least.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: the iterate of highest objective, the clean images among them.

    Raises
    ------
    InputError
        If an option is out of range or `queries` allow no iteration.

    Notes
    -----
    Uesato et al., "Adversarial Risk and the Dangers of Evaluating Against Weak Attacks", ICML
    2018, algorithm 1. Their probes may leave [0, 1], which a real system does not accept: here the
    point that is probed around is moved up to `delta` away from the ends of the range. Probes may
    leave the ball, iterates never do.
    """
    if samples < 1:
        raise InputError(f"samples: expected >= 1, got {samples}")
    if query_batch < 1:
        raise InputError(f"query_batch: expected >= 1, got {query_batch}")
    for name, value, limit in (("delta", delta, 0.5), ("step_size", step_size, float("inf"))):
        if not 0 < value < limit:
            raise InputError(f"{name}: expected > 0 and < {limit:g}, got {value}")
    possible = (queries - 1) // (2 * samples + 1)
    if steps is None:
        steps = possible
    if not 1 <= steps <= possible:
        raise InputError(
            f"queries: {queries} allow {max(possible, 0)} iterations of {2 * samples + 1} after "
            f"the first query, expected at least {max(steps, 1)}"
        )
    at_once = max(query_batch // (2 * len(problem)), 1)
    generators = [problem.generator(place, PURPOSE) for place in range(len(problem))]
    best = Best(problem)
    current = problem.x.clone()
    best.update(current, problem.values(current))
    mean, square = torch.zeros_like(current), torch.zeros_like(current)
    for step in range(1, steps + 1):
        progress = (step - 1) / steps
        centre = current.clamp(delta, 1 - delta)
        slope = torch.zeros_like(current)
        for begun in range(0, samples, at_once):
            count = min(at_once, samples - begun)
            signs = torch.stack([_signs(generators, current) for _ in range(count)])
            sides = torch.cat([centre + delta * signs, centre - delta * signs]).clamp_(0, 1)
            everybody = torch.arange(len(problem)).repeat(2 * count)
            asked = problem.select(everybody).values(sides.flatten(0, 1), progress=progress)
            above, below = asked.reshape(2, count, len(problem))
            weight = ((above - below).to(slope) / (2 * delta * samples))[:, :, None, None, None]
            slope += (weight * signs).sum(dim=0)
        mean = FIRST * mean + (1 - FIRST) * slope
        square = SECOND * square + (1 - SECOND) * slope.square()
        spread = (square / (1 - SECOND**step)).sqrt()
        # No constant beside the spread: scores, and so their gradients, may be of any scale.
        ratio = mean / (1 - FIRST**step) / spread.clamp_min(torch.finfo(spread.dtype).tiny)
        current = problem.project(current + step_size * ratio)
        best.update(current, problem.values(current, progress=step / steps))
    return best.images


def _signs(generators: list[torch.Generator], like: Tensor) -> Tensor:
    rows = [torch.randint(0, 2, like.shape[1:], generator=one) for one in generators]
    return torch.stack(rows).to(like).mul_(2).sub_(1)
