"""Projected gradient ascent in the l-infinity, l2 or l1 ball, and its single step, FGSM."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from robustad.attacks.problem import Problem
from robustad.attacks.rows import overwrite
from robustad.errors import InputError

Keep: TypeAlias = Literal["best", "last"]


def fgsm(problem: Problem) -> Tensor:
    """One step of `eps` along the gradient, in l-infinity along its sign.

    Parameters
    ----------
    problem : Problem
        What to attack.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball, whether the step helped or not.

    Notes
    -----
    Goodfellow et al., ICLR 2015.
    """
    _, gradient = problem.gradient(problem.x)
    return problem.project(problem.x + problem.eps * problem.direction(gradient, problem.x))


def pgd(
    problem: Problem,
    *,
    steps: int,
    step_size: float | None = None,
    start: Tensor | None = None,
    random: bool = False,
    restarts: int = 1,
    keep: Keep = "best",
) -> Tensor:
    """Repeated gradient steps of one length, projected back to the ball.

    Parameters
    ----------
    problem : Problem
        What to attack.
    steps : int >= 1
        Number of gradient steps.
    step_size : float > 0, optional
        Default 2.5 eps / steps; in the ball's norm.
    start : Tensor, (B, 3, H, W), optional
        First iterate of the first run, projected to the ball; default the clean images, as
        published.
    random : bool, default False
        Start the first run, too, from a random point of the ball.
    restarts : int >= 1, default 1
        Runs; all but the first start from random points, each image's from its own seed. Of the
        runs each image keeps the one of highest objective, so that more never do worse.
    keep : {"best", "last"}, default "best"
        Of a run keep each image's iterate of highest objective, or the last one. The first
        iterate counts, so that from a clean start no image's objective falls.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball.

    Raises
    ------
    InputError
        If `steps`, `step_size` or `restarts` is out of range, or `keep` is unknown.

    Notes
    -----
    Madry et al., ICLR 2018; the l1 step is SLIDE's (Tramer and Boneh, NeurIPS 2019). With
    `keep="best"` a run costs one forward pass more.
    """
    size = check_schedule(problem, steps, step_size)
    check_runs(restarts, keep)
    best = Best(problem)
    for run in range(restarts):
        current = first_iterate(problem, run, start=start, random=random)
        for step in range(steps):
            progress = step / steps
            values, gradient = problem.gradient(current, progress=progress)
            if keep == "best":
                best.update(current, values)
            current = problem.step(current, gradient, size)
        if keep == "best" or restarts > 1:
            best.update(current, problem.values(current, progress=1.0))
    return best.images if keep == "best" or restarts > 1 else current


def check_schedule(problem: Problem, steps: int, step_size: float | None) -> float:
    """Step size of a schedule of equal steps, 2.5 eps / steps by default; both checked."""
    if steps < 1:
        raise InputError(f"steps: expected >= 1, got {steps}")
    size = 2.5 * problem.eps / steps if step_size is None else step_size
    if not size > 0:
        raise InputError(f"step_size: expected > 0, got {size}")
    return size


def check_runs(restarts: int, keep: str) -> None:
    """Refuse fewer than one run, and an iterate to keep that there is none of."""
    if restarts < 1:
        raise InputError(f"restarts: expected >= 1, got {restarts}")
    if keep not in ("best", "last"):
        raise InputError(f"keep: expected 'best' or 'last', got {keep!r}")


def first_iterate(problem: Problem, run: int, *, start: Tensor | None, random: bool) -> Tensor:
    """Where a run starts: all but the first, and the first on request, at a random point."""
    if run > 0 or random:
        return problem.start(run)
    return problem.x if start is None else problem.project(start.clone())


class Best:
    """Each image's iterate of highest objective; of equal ones the first.

    Attributes
    ----------
    images : Tensor, (B, 3, H, W)
        The clean images before the first update.
    values : Tensor, (B,)
        Their objective, -inf before.
    """

    def __init__(self, problem: Problem) -> None:
        self.images = problem.x
        self.values = torch.full((len(problem),), -torch.inf, device=problem.x.device)
        self._own = False

    def update(self, images: Tensor, values: Tensor) -> Tensor:
        """Take in an iterate, which must not be written into again; which images improved."""
        better = values > self.values
        improved = better.tolist()
        if all(improved):  # no copy where everything improved
            self.images, self.values, self._own = images, values, False
        elif any(improved):
            if not self._own:
                self.images, self._own = self.images.clone(), True
            overwrite(better, (self.images, images))
            self.values = torch.where(better, values, self.values)
        return better
