"""Guide vectors: lead the features of a k-NN detector to chosen places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.attacks.objectives import Objective, Scores
from robustad.attacks.pgd import Best, check_schedule, pgd
from robustad.attacks.problem import Problem
from robustad.attacks.proxy import BankScorer, FeatureView, charge, require_bank, standing_in
from robustad.errors import InputError
from robustad.ops import PackedBank, cosine_nn, pack_bank

PURPOSE = 10_500
# Patches that are led, in multiples of those in the image score.
LED = 4


def guide(
    problem: Problem,
    *,
    steps: int = 100,
    step_size: float | None = None,
    rounds: int = 5,
    far: float = 0.1,
) -> Tensor:
    """Pull anomalous patches to normal vectors of the bank, and normal patches away from it.

    Parameters
    ----------
    problem : Problem
        Whose detector has `patch_features` and a `bank` (M, D) that they are compared with. Its
        objective is not looked at.
    steps : int >= 1, default 100
        Of projected gradient ascent in all.
    step_size : float > 0, optional
        Default 2.5 eps / steps.
    rounds : int in 1..steps, default 5
        How often guides are chosen anew.
    far : float in (0, 1], default 0.1
        Share of the candidates, those farthest from the bank, that may guide normal patches.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: of the rounds' results and the clean image what moved the image score
        farthest.

    Raises
    ------
    InputError
        If the detector has no features or bank, or an option is out of range.

    Notes
    -----
    After Sitawarin and Wagner, "On the Robustness of Deep K-Nearest Neighbors" (2019): fixed
    guides instead of the current neighbours, whose changes make the true score's gradient jump.
    For an anomalous image each patch (of its mask, or else of the 4 k highest scores) is led to
    the bank's vector that is nearest when a round begins. For a normal image the patches of the 4
    k highest scores are led off their nearest vector and towards guides far from the bank: what the
    network makes of the image's strange versions (noise, negative, shuffled, swapped colours, mean
    colour). Each takes the nearest of these. Counts passes for features like those for scores.
    """
    detector = require_bank(problem.detector, "guide")
    size = check_schedule(problem, steps, step_size)
    if not 1 <= rounds <= steps:
        raise InputError(f"rounds: expected 1..{steps} (steps), got {rounds}")
    if not 0 < far <= 1:
        raise InputError(f"far: expected a share in (0, 1], got {far}")
    view, bank = FeatureView(detector), pack_bank(detector.bank)
    scorer = problem.aimed("image")
    best, current = Best(problem), problem.x
    strange = _strange_features(problem, view, bank, far)
    for turn in range(rounds):
        with torch.no_grad():
            scores = scorer.scores(current)
            best.update(current, scorer.objective(scores))
            features = _features(problem, view, current)
            led = _led(problem, scores.patch)
            targets = _targets(problem, features, bank, detector, strange)
        proxy = standing_in(
            problem, view, _towards(view, led), clean=(targets * led[..., None]).flatten(1)
        )
        count = steps * (turn + 1) // rounds - steps * turn // rounds
        current = pgd(proxy, steps=count, step_size=size, start=current)
        charge(problem, proxy)
    best.update(current, scorer.values(current))
    return best.images


def _towards(view: FeatureView, led: Tensor) -> Objective:
    """Mean over the led patches of each one's unit feature times its target."""
    count = led.sum(dim=1).clamp_min(1)

    def objective(scores: Scores) -> Tensor:
        assert scores.clean is not None
        unit = F.normalize(view.rows(scores.patch), dim=2)
        # the targets lie where clean features would; those of patches not led are zero
        return (unit * view.rows(scores.clean)).sum(dim=(1, 2)) / count

    return objective


def _led(problem: Problem, patch: Tensor) -> Tensor:
    """Which patches (B, N) to lead."""
    count = patch.shape[1] if problem.top is None else min(LED * problem.top, patch.shape[1])
    highest = torch.zeros_like(patch, dtype=torch.bool)
    highest.scatter_(1, patch.topk(count, dim=1).indices, True)
    if problem.mask is None:
        return highest
    inside = problem.mask & (problem.label == 1)[:, None]
    return torch.where(inside.any(dim=1, keepdim=True), inside, highest)


def _targets(
    problem: Problem,
    features: Tensor,
    bank: PackedBank,
    detector: BankScorer,
    strange: list[Tensor],
) -> Tensor:
    """What each feature's direction (B, N, D) is led along."""
    _, nearest = cosine_nn(features.flatten(0, 1), bank)
    normal = bank.unit[nearest[:, 0]].reshape(features.shape)
    targets = normal.clone()
    for place in (problem.label == 0).nonzero().flatten().tolist():
        guides = strange[place]
        _, chosen = cosine_nn(features[place], guides)
        targets[place] = F.normalize(guides[chosen[:, 0]], dim=1) - normal[place]
    return targets


@torch.no_grad()
def _strange_features(
    problem: Problem, view: FeatureView, bank: PackedBank, far: float
) -> list[Tensor]:
    """For each image, features (K, D) far from the bank."""
    if bool((problem.label == 1).all()):
        return [torch.empty(0)] * len(problem)
    found = [_features(problem, view, images) for images in _strange(problem)]
    pool = torch.cat(found, dim=1)
    chosen = []
    for rows in pool:
        distances, _ = cosine_nn(rows, bank)
        count = max(int(far * len(rows)), 1)
        chosen.append(rows[distances[:, 0].topk(count).indices])
    return chosen


def _strange(problem: Problem) -> list[Tensor]:
    """Versions of the images that no normal image looks like."""
    x = problem.x
    generators = [problem.generator(place, PURPOSE) for place in range(len(problem))]
    noise = torch.stack([torch.rand(x.shape[1:], generator=one) for one in generators]).to(x)
    orders = [torch.randperm(x.shape[2] * x.shape[3], generator=one) for one in generators]
    shuffled = torch.stack(
        [image.flatten(1)[:, order.to(x.device)] for image, order in zip(x, orders, strict=True)]
    )
    mean = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    return [noise, 1 - x, shuffled.reshape(x.shape), x.roll(1, dims=1), mean]


def _features(problem: Problem, view: FeatureView, images: Tensor) -> Tensor:
    """Features (B, N, D), float32, on the meter."""
    problem.meter.forward.index_add_(0, problem.rows, torch.ones_like(problem.rows))
    return view.rows(view.patch_scores(images)).float()
