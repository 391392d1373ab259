"""Our strongest attack for its cost: patches first, then the image score, with ever finer steps."""

from __future__ import annotations

from torch import Tensor

from robustad.attacks.apgd import apgd
from robustad.attacks.objectives import evading, image
from robustad.attacks.problem import Problem
from robustad.calibration import Calibrator, Platt

# Steps on the patches and on the image score: coarse, fine, and relaxed, coarse, fine.
PATCHES, IMAGE = (80, 40), (30, 60, 30)
# The same steps where there are no masks.
IMAGE_ALONE = (50, 120, 70)
# First step of a fine stage, in eps.
FINE = 0.25
# Weight of the entropy in logits of the calibrated probability: below 4.46 it could not keep a
# score from moving on, as the entropy then changes more slowly than the logit.
EVASION = 8.0


def adaptive(problem: Problem, *, calibrator: Calibrator | None = None) -> Tensor:
    """Chain APGD stages, each started from the worst image of all before it.

    Parameters
    ----------
    problem : Problem
        Its own objective is not looked at. With masks, half of the steps go to the patches.
    calibrator : Calibrator, optional
        From score to probability. With one, what is returned also keeps the predictive entropy
        low, so as not to be deferred; the image score's worst case is recorded all the same.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: what moved the image score farthest, or with a calibrator what scores
        best by `image - weight H(p)`.

    Notes
    -----
    At 240 gradient steps a quarter of PGD-1000's cost. What makes it strong where single runs get
    stuck: raising normal patches and lowering anomalous ones (`flip`) moves many patches at once,
    and the relaxed and then the true image score go on from there, so that patches which take over
    among the largest were lowered already; a second, finer run from the best image, where
    objectives have kinks that larger steps jump over; the images seen under any objective count
    for all, as the meter keeps the worst by image score and by pixel margin.
    """
    counts = IMAGE_ALONE
    if problem.mask is not None:
        counts = IMAGE
        coarse, fine = PATCHES
        patches = problem.aimed("flip")
        found = apgd(patches, steps=coarse)
        apgd(patches, steps=fine, start=found, step_size=FINE * problem.eps)
    relaxed, coarse, fine = counts
    apgd(problem.aimed("image_relaxed"), steps=relaxed, start=problem.worst())
    apgd(problem.aimed("image"), steps=coarse, start=problem.worst())
    last = problem.aimed("image")
    if calibrator is not None:
        slope = abs(calibrator.slope) if isinstance(calibrator, Platt) else 4.0
        last = problem.aimed(evading(image, calibrator, EVASION / max(slope, 1e-12)))
    found = apgd(last, steps=fine, start=problem.worst(), step_size=FINE * problem.eps)
    return problem.worst() if calibrator is None else found
