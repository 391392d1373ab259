"""Our strongest attack for its cost: patches first, then the image score, with ever finer steps."""

from __future__ import annotations

import torch
from torch import Tensor

from robustad.attacks.apgd import apgd
from robustad.attacks.objectives import (
    Objective,
    Scores,
    evading,
    image,
    image_relaxed,
    relaxed,
    smooth,
)
from robustad.attacks.problem import Problem
from robustad.attacks.typical import typical_instead
from robustad.calibration import Calibrator, Platt

# Steps on the patches: coarse, and on their order alone; and the latter's first step in eps.
PATCHES, FINE = (60, 80), 1.0
# Steps in place of the first where there are no masks.
ALONE = 140
# On the image score: steps, what raises scores, what lowers them, and the first step in eps.
IMAGE = (
    (35, image_relaxed, smooth(0.2), 2.0),
    (35, image, image, 1.0),
    (30, image, smooth(0.03), 0.5),
)
# Of the last of these, steps that also look at the entropy, where there is a calibrator.
SLY = 24
# Weight of the entropy in logits of the calibrated probability: below 4.46 it could not keep a
# score from moving on, as the entropy then changes more slowly than the logit.
EVASION = 8.0


def adaptive(
    problem: Problem, *, calibrator: Calibrator | None = None, typical: float | None = None
) -> Tensor:
    """Chain APGD stages on objectives that suit the direction in which a score is to move.

    Parameters
    ----------
    problem : Problem
        Its own objective is not looked at.
    calibrator : Calibrator, optional
        From score to probability. With one, the last 24 steps keep the predictive entropy low as
        well, so as not to be deferred, and what is returned is of these; the image score's worst
        case is recorded all the same.
    typical : float, optional
        Score that normal images have. With it, what is returned of an anomalous image scores no
        lower, so as not to look too normal; see `robustad.attacks.typical`.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: what moved the image score farthest, or with a calibrator what scores
        best by `image - weight H(p)`; anomalous images not below `typical`.

    Notes
    -----
    At 240 gradient steps less than a quarter of PGD-1000's cost. What makes it stronger than single
    runs: `flip` moves all patches, and `misorder` then those alone that are not yet in the wrong
    order, as pixel AUROC counts them. A normal image's score is raised from there, first on more of
    the largest patches than the score takes. An anomalous image's score is lowered from the clean
    image by a smooth mean of its largest patches, as the true score's gradient knows nothing of the
    patches that take over, and once more by the true score, whose gradient is the right one in
    small balls. The last stage starts at the worst image of all before it, with finer steps.
    Whatever was seen under any objective counts, as the meter keeps the worst by image score and by
    patches.
    """
    coarse, fine = PATCHES
    normal = (problem.label == 0)[:, None, None, None]

    def stage(aim: str | Objective, steps: int, start: Tensor, size: float) -> Tensor:
        return apgd(problem.aimed(aim), steps=steps, start=start, step_size=size * problem.eps)

    if problem.mask is None:
        apgd(problem.aimed(_by_label(relaxed(None), smooth(0.5))), steps=ALONE)
        start = problem.worst()
    else:
        found = apgd(problem.aimed("flip"), steps=coarse)
        stage("misorder", fine, found, FINE)
        start = torch.where(normal, problem.worst(), problem.x)
    for steps, up, down, size in IMAGE[:-1]:
        stage(_by_label(up, down), steps, start, size)
        start = torch.where(normal, problem.worst(), problem.x)
    steps, up, down, size = IMAGE[-1]
    if calibrator is None:
        stage(_by_label(up, down), steps, problem.worst(), size)
        made = problem.worst()
    else:
        stage(_by_label(up, down), steps - SLY, problem.worst(), size)
        made = stage(_sly(calibrator), SLY, problem.worst(), size)
    return made if typical is None else typical_instead(problem, made, typical)


def _by_label(raising: Objective, lowering: Objective) -> Objective:
    """One objective for normal images and another for anomalous ones."""

    def objective(scores: Scores) -> Tensor:
        return torch.where(scores.label == 0, raising(scores), lowering(scores))

    return objective


def _sly(calibrator: Calibrator) -> Objective:
    slope = abs(calibrator.slope) if isinstance(calibrator, Platt) else 4.0
    return evading(image, calibrator, EVASION / max(slope, 1e-12))
