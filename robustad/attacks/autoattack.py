"""AutoAttack for anomaly detectors: gradients, minimal norm and a black box together."""

from functools import partial

from torch import Tensor

from robustad.attacks.apgd import apgd, shrinking
from robustad.attacks.fab import fab
from robustad.attacks.pgd import pgd
from robustad.attacks.problem import Problem
from robustad.attacks.square import square

# In l1: shares of the steps, and the radii in eps that they search.
WIDE_FIRST = ((0.3, 3.0), (0.3, 2.0), (0.4, 1.0))


def autoattack(problem: Problem, *, steps: int = 100, queries: int = 5000) -> Tensor:
    """Worst of APGD on the cross-entropy, PGD on `flip`, APGD on the score, FAB and Square.

    Parameters
    ----------
    problem : Problem
        With masks. Its own objective is not looked at. Without a threshold FAB, which looks for
        it, is left out, and the flag `no_threshold` is raised.
    steps : int >= 1, default 100
        Of each of the first four.
    queries : int >= 1, default 5000
        Of Square.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: what moved the image score farthest, whether a verdict was turned or not.

    Raises
    ------
    InputError
        If there are no masks, or an option is out of range.

    Notes
    -----
    Croce and Hein, ICML 2020, adapted to one score and two classes: PatchGuard's supplement H puts
    PGD in the place of APGD on the difference of logits ratio, which two classes do not have, and
    the linear margin of the score takes the place of the targeted APGD. All attacks see all images,
    where the original stops at a turned verdict: AUROC looks at how far scores were moved. In l1
    APGD begins in wider balls, as in "Mind the Box" (Croce and Hein, ICML 2021).
    """
    problem.require_mask("autoattack")
    ascend = partial(shrinking, stages=WIDE_FIRST) if problem.norm == "l1" else apgd
    ascend(problem.aimed("bce"), steps=steps)
    pgd(problem.aimed("flip"), steps=steps)
    ascend(problem.aimed("image"), steps=steps)
    if problem.threshold is None:
        problem.meter.flags.add("no_threshold")
    else:
        fab(problem, iterations=steps)
    square(problem.aimed("image"), queries=queries)
    return problem.worst()
