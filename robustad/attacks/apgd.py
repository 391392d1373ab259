"""Auto-PGD: step sizes that follow the attack's progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustad.attacks.pgd import Best, Keep, check_runs, first_iterate
from robustad.attacks.problem import Problem
from robustad.attacks.projection import EDGE, held, sparse_direction
from robustad.attacks.rows import overwrite
from robustad.errors import InputError

MOMENTUM, IMPROVING = 0.75, 0.75
# l1: how fast the share of moved entries and the step shrink, and the smallest step.
SPARSER, SMALLEST = 1.5, 0.1
# Stages of a shrinking ball: share of the steps, and radius in eps.
STAGES = ((0.3, 2.0), (0.3, 1.5), (0.4, 1.0))


def apgd(
    problem: Problem,
    *,
    steps: int = 100,
    step_size: float | None = None,
    start: Tensor | None = None,
    random: bool = False,
    restarts: int = 1,
    keep: Keep = "best",
) -> Tensor:
    """Momentum steps whose length halves, image by image, where they no longer help.

    Parameters
    ----------
    problem : Problem
        What to attack.
    steps : int >= 1, default 100
        Number of gradient steps.
    step_size : float > 0, optional
        The first one; default 2 eps, in l1 eps.
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
    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020, algorithm 1; in l1 "Mind the Box", ICML 2021, algorithm 1.
    Two things differ in l1, both so that few entries can take all of the budget: entries that the
    box holds do not count among those that a step moves, and where the best image no longer
    improves, ever fewer move, down to one, and then again as many as the best image has changed.

    Runs start at the clean images unless `random` says otherwise. A problem's judge, where it has
    one, stands in for the objective's values throughout.
    """
    if steps < 1:
        raise InputError(f"steps: expected >= 1, got {steps}")
    first = (1.0 if problem.norm == "l1" else 2.0) * problem.eps
    size = first if step_size is None else step_size
    if not size > 0:
        raise InputError(f"step_size: expected > 0, got {size}")
    check_runs(restarts, keep)
    ascend = _sparse_ascent if problem.norm == "l1" else _ascent
    best, last = Best(problem), problem.x
    for run in range(restarts):
        current = first_iterate(problem, run, start=start, random=random)
        found, last = ascend(problem, current, steps, size)
        best.update(found.images, found.values)
    return best.images if keep == "best" or restarts > 1 else last


def shrinking(
    problem: Problem,
    *,
    steps: int,
    start: Tensor | None = None,
    stages: Sequence[tuple[float, float]] = STAGES,
) -> Tensor:
    """APGD in balls that shrink to the one that counts, each started where the last one ended.

    Parameters
    ----------
    problem : Problem
        What to attack; images outside its ball are not recorded.
    steps : int >= number of stages
        Altogether.
    start : Tensor, (B, 3, H, W), optional
        First iterate; default the clean images.
    stages : sequence of (share of the steps, radius in eps)
        The last radius is 1.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball.

    Raises
    ------
    InputError
        If there are fewer steps than stages.

    Notes
    -----
    SEA (Croce et al., ECCV 2024), and for l1 "Mind the Box". In l-infinity a radius above 1 is 1.
    """
    if steps < len(stages):
        raise InputError(f"steps: expected >= {len(stages)}, one a stage, got {steps}")
    counts = [max(1, int(share * steps)) for share, _ in stages]
    counts[-1] = max(1, steps - sum(counts[:-1]))
    for count, (_, times) in zip(counts, stages, strict=True):
        eps = problem.eps * times
        stage = problem.within(min(eps, 1.0) if problem.norm == "linf" else eps)
        start = apgd(stage, steps=count, start=start)
    return problem.x if start is None else start


def checkpoints(steps: int) -> list[int]:
    """Steps after which step sizes are looked at: 0.22 T, then gaps that shrink to 0.06 T."""
    gap, least, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    places, place = [], gap
    while place <= steps:
        places.append(place)
        gap = max(gap - shrink, least)
        place += gap
    return places


@dataclass
class _Top:
    """The best iterate so far, with its gradient to start again from."""

    images: Tensor
    values: Tensor
    gradient: Tensor
    own: bool = False

    def update(self, images: Tensor, values: Tensor, gradient: Tensor) -> None:
        better = values > self.values
        improved = better.tolist()
        if all(improved):
            self.images, self.values, self.gradient, self.own = images, values, gradient, False
        elif any(improved):
            if not self.own:
                self.images, self.gradient = self.images.clone(), self.gradient.clone()
                self.own = True
            overwrite(better, (self.images, images), (self.gradient, gradient))
            self.values = torch.where(better, values, self.values)

    def restart(
        self, rows: Tensor, images: Tensor, values: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Some images (B,), bool, back at the best iterate."""
        if not bool(rows.any()):
            return images, values, gradient
        entries = rows[:, None, None, None]
        return (
            torch.where(entries, self.images, images),
            torch.where(rows, self.values, values),
            torch.where(entries, self.gradient, gradient),
        )


def _ascent(problem: Problem, current: Tensor, steps: int, first: float) -> tuple[_Top, Tensor]:
    """One run in l-infinity or l2: its best iterate and its last one."""
    values, gradient = problem.gradient(current)
    top = _Top(current, values, gradient)
    size = torch.full_like(values, first)
    rising = torch.zeros_like(values)
    stuck = torch.ones_like(values, dtype=torch.bool)  # halved at the last look: not a stall
    checked, since, places = values, 0, set(checkpoints(steps))
    previous = current
    for step in range(1, steps + 1):
        ahead = problem.step(current, gradient, size)
        if step > 1:  # current + .75 (ahead - current) + .25 (current - previous)
            ahead.mul_(MOMENTUM).add_(current, alpha=2 - 2 * MOMENTUM)
            ahead = problem.project(ahead.sub_(previous, alpha=1 - MOMENTUM))
        previous, current, before = current, ahead, values
        if step == steps:
            values = problem.values(current, progress=1.0)
        else:
            values, gradient = problem.gradient(current, progress=step / steps)
        top.update(current, values, gradient)
        rising += values > before
        if step in places and step < steps:
            few = rising < IMPROVING * (step - since)
            stalled = ~stuck & (top.values <= checked)
            halve = few | stalled
            size = torch.where(halve, size / 2, size)
            stuck, checked, since = halve, top.values.clone(), step
            rising.zero_()
            current, values, gradient = top.restart(halve, current, values, gradient)
    return top, current


def _sparse_ascent(
    problem: Problem, current: Tensor, steps: int, first: float
) -> tuple[_Top, Tensor]:
    """One run in l1: few entries move at a step, ever fewer as the perturbation turns sparse."""
    values, gradient = problem.gradient(current)
    top = _Top(current, values, gradient)
    entries = problem.x[0].numel()
    size = torch.full_like(values, first)
    changed = _changed(problem, current)
    share = torch.where(changed > 0, changed / entries / SPARSER, torch.full_like(size, 0.2))
    changed = torch.where(changed > 0, changed, torch.full_like(size, entries))
    look, checked = max(int(0.04 * steps), 1), values
    for step in range(1, steps + 1):
        move = sparse_direction(gradient, share, held(gradient, current)).mul_(
            size[:, None, None, None]
        )
        current = problem.project(move.add_(current))
        if step == steps:
            values = problem.values(current, progress=1.0)
        else:
            values, gradient = problem.gradient(current, progress=step / steps)
        top.update(current, values, gradient)
        if step % look == 0 and step < steps:
            now = _changed(problem, top.images)
            sparser = now < 0.95 * changed
            size = torch.where(sparser, first, (size / SPARSER).clamp_min(SMALLEST * first))
            # as sparse as the best image, or sparser where that no longer improves it
            fewer = (top.values <= checked) & (share * entries > 1)
            share = torch.where(fewer, share, now / entries) / SPARSER
            changed, checked = now, top.values.clone()
            current, values, gradient = top.restart(sparser | fewer, current, values, gradient)
    return top, current


def _changed(problem: Problem, images: Tensor) -> Tensor:
    """How many entries of each image (B,) are moved and not held by the box."""
    moved = (images != problem.x) & (images > EDGE) & (images < 1 - EDGE)
    return moved.flatten(1).sum(dim=1).to(images.dtype)
