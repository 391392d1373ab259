"""Momentum and diverse inputs: steps that stay useful on another model."""

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.attacks.pgd import Best, Keep, check_runs, first_iterate
from robustad.attacks.problem import Problem
from robustad.errors import InputError

# Streams of random numbers apart from those of random starts.
DIVERSITY = 50_000


def mifgsm(
    problem: Problem,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    diversity: float = 0.0,
    smallest: float = 0.9,
    start: Tensor | None = None,
    random: bool = False,
    restarts: int = 1,
    keep: Keep = "best",
) -> Tensor:
    """Steps along a decaying sum of gradients, each scaled to l1 length 1 (MI-FGSM).

    Parameters
    ----------
    problem : Problem
        What to attack.
    steps : int >= 1, default 10
        Number of steps.
    step_size : float > 0, optional
        Default eps / steps.
    decay : float >= 0, default 1
        Of what the sum keeps at each step.
    diversity : float in [0, 1], default 0
        Probability with which an image is shrunk and padded before its gradient is taken
        (DI-FGSM); 0 for never.
    smallest : float in (0, 1], default 0.9
        Smallest share of the edge that it is shrunk to.
    start, random, restarts, keep
        See `pgd`.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    Dong et al., CVPR 2018, algorithm 1; Xie et al., "Improving Transferability of Adversarial
    Examples with Input Diversity", CVPR 2019, who enlarge images first: detectors that take
    images of one size only are the reason for shrinking here.
    """
    if steps < 1:
        raise InputError(f"steps: expected >= 1, got {steps}")
    size = problem.eps / steps if step_size is None else step_size
    if not size > 0:
        raise InputError(f"step_size: expected > 0, got {size}")
    if not 0 <= decay < float("inf"):
        raise InputError(f"decay: expected a finite number >= 0, got {decay}")
    if not 0 <= diversity <= 1:
        raise InputError(f"diversity: expected a probability, got {diversity}")
    if not 0 < smallest <= 1:
        raise InputError(f"smallest: expected a share of the edge in (0, 1], got {smallest}")
    check_runs(restarts, keep)
    best = Best(problem)
    for run in range(restarts):
        current = first_iterate(problem, run, start=start, random=random)
        gathered = torch.zeros_like(current)
        draws = [problem.generator(place, DIVERSITY + run) for place in range(len(problem))]
        for step in range(steps):
            if diversity > 0:
                _, gradient = problem.differentiate(
                    lambda leaf: problem.objective(
                        problem.scores(_diverse(leaf, draws, diversity, smallest))  # noqa: B023
                    ),
                    current,
                )
                if keep == "best":
                    best.update(current, problem.values(current))
            else:
                values, gradient = problem.gradient(current, progress=step / steps)
                if keep == "best":
                    best.update(current, values)
            length = gradient.abs().flatten(1).sum(dim=1)  # four times as fast as the norm
            length = length.clamp_min(torch.finfo(gradient.dtype).tiny)
            gathered.mul_(decay).addcdiv_(gradient, length[:, None, None, None])
            current = problem.step(current, gathered, size)
        if keep == "best" or restarts > 1:
            best.update(current, problem.values(current, progress=1.0))
    return best.images if keep == "best" or restarts > 1 else current


def _diverse(
    images: Tensor, draws: list[torch.Generator], probability: float, smallest: float
) -> Tensor:
    """Shrink some images (B, 3, H, W) and pad them with zeros to the size they had."""
    height, width = images.shape[2:]
    made = []
    for image, generator in zip(images, draws, strict=True):
        # always as many numbers, so that the draws of later steps do not depend on earlier ones
        use, share, down, right = torch.rand(4, generator=generator).tolist()
        share = smallest + (1 - smallest) * share
        rows, columns = max(1, round(height * share)), max(1, round(width * share))
        if use >= probability or (rows, columns) == (height, width):
            made.append(image)
            continue
        small = F.interpolate(image[None], (rows, columns), mode="bilinear", align_corners=False)[0]
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        made.append(F.pad(small, (left, width - columns - left, top, height - rows - top)))
    return torch.stack(made)
