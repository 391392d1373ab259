"""Feature disruption: push patch features away from what they were."""

from __future__ import annotations

from torch import Tensor

from robustad.attacks.objectives import Scores
from robustad.attacks.pgd import pgd
from robustad.attacks.problem import Problem
from robustad.attacks.proxy import FeatureView, charge, cosine, require_features, standing_in


def features(
    problem: Problem,
    *,
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
) -> Tensor:
    """Change what the network sees, without looking at scores, threshold or bank.

    Parameters
    ----------
    problem : Problem
        Whose detector has `patch_features`; the gradient is theirs, through whatever the scores
        do with them. Its objective is not looked at.
    steps : int >= 1, default 100
        Of projected gradient ascent from a random point: at the clean image the distance has no
        gradient.
    step_size : float > 0, optional
        Default 2.5 eps / steps.
    restarts : int >= 1, default 1
        Runs from other random points.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: what moved the features farthest, in mean cosine distance over the
        patches; over the anomalous ones alone where there are masks and the image has any.

    Raises
    ------
    InputError
        If the detector has no features or an option is out of range.

    Notes
    -----
    After Ganeshan, Vivek and Babu, "FDA: Feature Disruptive Attack", ICCV 2019, on the features
    that patch scores are made of. It knows no direction: it raises the score of normal images, but
    anomalous features may move anywhere, not only to normal ones. It shows whether a score only
    hides its gradient from the attacker.
    """
    view = FeatureView(require_features(problem.detector, "features"))
    mask = problem.mask

    def disruption(scores: Scores) -> Tensor:
        assert scores.clean is not None
        moved = 1 - cosine(view.rows(scores.patch), view.rows(scores.clean))
        if mask is None or mask.shape != moved.shape:
            return moved.mean(dim=1)
        weight = mask | ~mask.any(dim=1, keepdim=True)
        return (moved * weight).sum(dim=1) / weight.sum(dim=1)

    proxy = standing_in(problem, view, disruption)
    adversarial = pgd(proxy, steps=steps, step_size=step_size, random=True, restarts=restarts)
    charge(problem, proxy)
    return adversarial
