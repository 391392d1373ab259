"""SEA: the strongest of several segmentation attacks, image by image."""

from collections.abc import Sequence

from torch import Tensor

from robustad.attacks.apgd import shrinking
from robustad.attacks.pgd import Best
from robustad.attacks.problem import Problem

LOSSES = ("masked_ce_balanced", "masked_ce", "js")


def sea(problem: Problem, *, steps: int = 300, losses: Sequence[str] = LOSSES) -> Tensor:
    """APGD in a shrinking ball on each of several losses; of each image the worst.

    Parameters
    ----------
    problem : Problem
        With masks; its own objective is not looked at.
    steps : int >= 3, default 300
        Of each loss: 0.3 of them at 2 eps, 0.3 at 1.5 eps, 0.4 at eps.
    losses : sequence of str
        Keys of `OBJECTIVES`.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: of the clean image and what each loss found, that of the smallest mean
        pairwise margin between anomalous and normal patches, the pixel metrics' own measure.

    Raises
    ------
    InputError
        If there are no masks, or fewer steps than stages.

    Notes
    -----
    Croce et al., "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation
    Models", ECCV 2024, whose worst case is by accuracy or IoU of a fixed prediction; a detector
    of anomalies has no threshold there. Starts at the clean images.
    """
    problem.require_mask("sea")
    best = Best(problem)
    best.update(problem.x, problem.hurts(problem.clean)[0])
    for loss in losses:
        found = shrinking(problem.aimed(loss), steps=steps)
        best.update(found, problem.aimed("flip").values(found))
    return best.images
