"""What an attack returns, scored by the detector itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustad.attacks.meter import Record
from robustad.attacks.options import Keep
from robustad.attacks.problem import Problem
from robustad.attacks.projection import distance


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """Adversarial images and what the detector makes of them.

    Attributes
    ----------
    x_adv : Tensor, (B, 3, H, W), float32 in [0, 1]
        Adversarial images.
    clean_patch_scores, patch_scores : Tensor, (B, N)
        The detector's patch scores before and after.
    clean_score, score : Tensor, (B,)
        The detector's image scores before and after.
    distance : Tensor, (B,)
        Distance of `x_adv` to the clean images in the attack's norm.
    x_worst : Tensor, (B, 3, H, W)
        Of everything the attack tried inside the ball, and the clean image, what moved the image
        score furthest, whatever the attack was after.
    worst_score : Tensor, (B,)
        Its image score, in float32: never better for the detector than `clean_score` or `score`.
    worst_patch_scores : Tensor, (B, N)
        Its patch scores.
    x_pixel : Tensor, (B, 3, H, W), or None
        Likewise what left the smallest mean pairwise margin between anomalous and normal patches;
        None without masks.
    pixel_patch_scores : Tensor, (B, N), or None
        Its patch scores.
    x_order, order_patch_scores : Tensor or None
        The same for the smallest margin of squashed logits, see
        `robustad.attacks.objectives.misorder`. Which of both hurts pixel AUROC more is known only
        with all other images.
    forward, backward : Tensor, (B,), int64
        Passes of the detector over each image that the attack took; forward passes are the
        queries of a black box. The clean pass and the scoring afterwards do not count.
    success : Tensor, (B,), bool, or None
        Whether `worst_score` is on the wrong side of the threshold; None without one.
    flags : tuple of str
        `zero_gradient`: some image had no gradient in any step; `nonfinite_gradient`: some
        gradient of low precision was not finite, and counted as zero; `query_budget`: it was
        used up before the last iteration; `no_start`: HopSkipJump found no image across the
        threshold to start from, and left an image as it is; `no_threshold`: AutoAttack went
        without FAB, which needs one.
    """

    x_adv: Tensor
    clean_patch_scores: Tensor
    patch_scores: Tensor
    clean_score: Tensor
    score: Tensor
    distance: Tensor
    x_worst: Tensor
    worst_score: Tensor
    worst_patch_scores: Tensor
    x_pixel: Tensor | None
    pixel_patch_scores: Tensor | None
    x_order: Tensor | None
    order_patch_scores: Tensor | None
    forward: Tensor
    backward: Tensor
    success: Tensor | None
    flags: tuple[str, ...]


@torch.no_grad()
def finish(problem: Problem, x_adv: Tensor, *, keep: Keep = "best") -> AttackResult:
    """Score what an attack found, without autocast and off the meter.

    Parameters
    ----------
    problem : Problem
        As `Problem.of` made it, with the meter that the attack ran up.
    x_adv : Tensor, (B, 3, H, W)
        What the attack returned.
    keep : {"best", "last", "worst"}, default "best"
        "worst" returns the worst image seen in place of `x_adv`.
    """
    detector, meter = problem.detector, problem.meter
    clean, clean_score = problem.clean, detector.aggregate(problem.clean)
    candidates = [(problem.x, clean)]
    if keep == "worst":
        candidates.append(_rescored(problem, meter.image, *candidates))
    else:
        x_adv = x_adv.detach()
        candidates.append((x_adv, detector.patch_scores(x_adv)))
        candidates.append(_rescored(problem, meter.image, *candidates))
    for record in (meter.pixel, meter.order):
        if record is not None:
            candidates.append(_rescored(problem, record, *candidates))
    harm = [problem.sign * detector.aggregate(patch) for _, patch in candidates]
    x_worst, worst = _choose(candidates, harm)
    if keep == "worst":
        x_adv, patch = x_worst, worst
    else:
        patch = candidates[1][1]
    x_pixel = pixel = x_order = order = None
    if problem.mask is not None:
        margins, orders = zip(*(problem.hurts(patch) for _, patch in candidates), strict=True)
        x_pixel, pixel = _choose(candidates, [*margins])
        x_order, order = _choose(candidates, [*orders])
    worst_score, success = detector.aggregate(worst), None
    if problem.threshold is not None:
        success = (worst_score >= problem.threshold) == (problem.label == 0)
    if bool(((meter.dead == meter.backward) & (meter.backward > 0)).any()):
        meter.flags.add("zero_gradient")
    return AttackResult(
        x_adv=x_adv,
        clean_patch_scores=clean,
        patch_scores=patch,
        clean_score=clean_score,
        score=detector.aggregate(patch),
        distance=distance(x_adv, problem.x, problem.norm),
        x_worst=x_worst,
        worst_score=worst_score,
        worst_patch_scores=worst,
        x_pixel=x_pixel,
        pixel_patch_scores=pixel,
        x_order=x_order,
        order_patch_scores=order,
        forward=meter.forward.clone(),
        backward=meter.backward.clone(),
        success=success,
        flags=tuple(sorted(meter.flags)),
    )


def _rescored(
    problem: Problem, record: Record, *known: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The images of a record with patch scores; images scored already are not scored again."""
    patch = known[-1][1].clone()
    new = torch.ones(len(patch), dtype=torch.bool, device=patch.device)
    for images, scores in known:
        same = (record.images == images).flatten(1).all(dim=1)
        patch[same] = scores[same]
        new &= ~same
    if bool(new.any()):
        patch[new] = problem.detector.patch_scores(record.images[new])
    return record.images, patch


def _choose(
    candidates: list[tuple[Tensor, Tensor]], measures: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Of several versions of each image the one of largest measure, the first of equal ones."""
    (images, patch), best = candidates[0], measures[0]
    for (others, scores), measure in zip(candidates[1:], measures[1:], strict=True):
        better = measure > best
        best = torch.where(better, measure, best)
        images = torch.where(better[:, None, None, None], others, images)
        patch = torch.where(better[:, None], scores, patch)
    return images, patch
