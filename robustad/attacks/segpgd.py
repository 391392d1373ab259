"""SegPGD: steps that first turn the patches still right."""

from torch import Tensor

from robustad.attacks.objectives import bce
from robustad.attacks.pgd import Keep, pgd
from robustad.attacks.problem import Problem


def segpgd(
    problem: Problem,
    *,
    steps: int = 100,
    step_size: float | None = None,
    random: bool = False,
    restarts: int = 1,
    keep: Keep = "best",
) -> Tensor:
    """PGD on a cross-entropy that weighs patches still right by 1 - lam, wrong ones by lam.

    Parameters
    ----------
    problem : Problem
        With masks; its own objective is not looked at.
    steps : int >= 1, default 100
        T; lam rises from 0 to (T - 1) / 2T.
    step_size, random, restarts
        See `pgd`.
    keep : {"best", "last"}, default "best"
        The best is that of highest plain cross-entropy: the weighted one is not comparable
        between steps.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball.

    Raises
    ------
    InputError
        If there are no masks, or an option is out of range.

    Notes
    -----
    Gu et al., ECCV 2022, algorithm 1.
    """
    problem.require_mask("segpgd")
    return pgd(
        problem.aimed("segpgd", judge=bce),
        steps=steps,
        step_size=step_size,
        random=random,
        restarts=restarts,
        keep=keep,
    )
