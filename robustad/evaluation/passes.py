"""The two orders in which an evaluation goes through its work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from robustad.attacks import LogitScale
from robustad.evaluation.batches import Batch
from robustad.evaluation.plan import Plan, Shard
from robustad.evaluation.result import CLEAN
from robustad.evaluation.store import Outcome
from robustad.evaluation.tally import CURVE_BINS, Pass
from robustad.evaluation.work import Work
from robustad.evaluation.worst import beaten, order_margin, pair_margin, worst_of
from robustad.metrics import PixelMetrics

Passes = dict[str, Pass]
FloatArray: TypeAlias = npt.NDArray[Any]


def clean_pass(work: Work, *, pixel: bool) -> Pass:
    """Score all images as they are, once."""
    one = Pass(name=CLEAN, pixel=PixelMetrics() if pixel else None)
    work.ahead([None])
    for batch in work.batches():
        outcome = work.outcome(batch, None)
        one.add(outcome)
        one.add_pixels(work.detector, batch, outcome.patch_scores)
    return one


def run_shard(work: Work, shard: Shard) -> None:
    """Compute the attacks of every n-th batch; results go to the store alone."""
    place, count = shard
    work.ahead(work.plan.cases, shard=shard)
    for index, batch in enumerate(work.batches()):
        if index % count == place - 1:
            for case in work.plan.cases:
                work.outcome(batch, case)


def attack_passes(work: Work, clean: Pass, *, pixel: bool) -> Passes:
    """Every attack on every image, batch by batch, and the worst case of every radius."""
    plan = work.plan
    passes = _empty(plan, pixel=pixel)
    if not plan.attacks:
        return passes
    work.ahead(plan.cases)
    for batch in work.batches():
        before = work.outcome(batch, None)
        # The worst so far by either rule: balls are nested, so a smaller one's worst goes on.
        kept = [_Kept(rule, before.patch_scores) for rule in _rules(work, batch, before)]
        for eps in plan.ascending:
            for case in plan.at(eps):
                outcome, one = work.outcome(batch, case), passes[case.name]
                one.add(outcome)
                one.add_pixels(work.detector, batch, outcome.patch_scores)
                for some in kept:
                    some.add(outcome.pixel_patch_scores)
                    some.add(outcome.order_patch_scores)
            worst = passes[plan.worst(eps)]
            worst.add_pixels(work.detector, batch, kept[0].patches)
            worst.add_pixels(work.detector, batch, kept[1].patches, order=True)
    _merge(plan, passes, clean)
    return passes


def skipping_passes(work: Work, clean: Pass) -> tuple[Passes, dict[str, int]]:
    """Attack by attack, leaving out the images that are beaten; the worst case alone.

    Returns
    -------
    passes : dict
        The worst case of every radius.
    skipped : dict of str to int
        Images that each condition's attack was spared.
    """
    plan = work.plan
    passes = {name: one for name, one in _empty(plan, pixel=False).items() if one.chosen}
    labels = np.array([sample.label for sample in plan.samples])
    score, chosen = np.asarray(clean.score, np.float64), [CLEAN] * len(labels)
    forward, backward = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
    skipped, distance, seconds = {}, 0.0, clean.seconds
    for eps in plan.ascending:
        worst = passes[plan.worst(eps)]
        for case in plan.at(eps):
            left = np.flatnonzero(~beaten(score, labels)).tolist()
            skipped[case.name] = len(labels) - len(left)
            work.ahead([case], keep=left)
            for batch in work.batches(left):
                outcome, rows = work.outcome(batch, case), np.array(batch.index)
                pair = np.stack([score[rows], outcome.worst_score])
                score[rows], which = worst_of(pair, labels[rows])
                for row in rows[which == 1]:
                    chosen[row] = case.name
                forward[rows] += outcome.forward
                backward[rows] += outcome.backward
                worst.flags.update(dict.fromkeys(outcome.flags, len(rows)))
                distance = max(distance, float(outcome.distance.max()))
                seconds += outcome.seconds
        worst.score, worst.worst_score, worst.chosen = score.tolist(), score.tolist(), [*chosen]
        worst.forward, worst.backward = forward.tolist(), backward.tolist()
        worst.distance, worst.seconds = distance, seconds
    return passes, skipped


def _empty(plan: Plan, *, pixel: bool) -> Passes:
    """A pass each case, and one for the worst of each radius, in the order they are reported."""
    passes = {}
    for eps in plan.radii if plan.attacks else ():
        bins = {} if eps == plan.radii[0] else {"bins": CURVE_BINS}
        for name in (*(case.name for case in plan.at(eps)), plan.worst(eps)):
            passes[name] = Pass(name=name, eps=eps, pixel=PixelMetrics(**bins) if pixel else None)
        worst = passes[plan.worst(eps)]
        worst.chosen, worst.order = [CLEAN], PixelMetrics(**bins) if pixel else None
    return passes


class _Kept:
    """Of each image the patch scores of the smallest margin so far."""

    def __init__(self, rule: Callable[[FloatArray], FloatArray], patches: FloatArray) -> None:
        self.rule = rule
        self.patches = patches.copy()
        self.margin = rule(patches)

    def add(self, patches: FloatArray) -> None:
        margin = self.rule(patches)
        better = margin < self.margin
        self.patches[better], self.margin[better] = patches[better], margin[better]


def _rules(
    work: Work, batch: Batch, clean: Outcome
) -> tuple[Callable[[FloatArray], FloatArray], Callable[[FloatArray], FloatArray]]:
    """What says how much (B,) patch scores (B, N) hurt, as attacks have it; less is worse."""
    if work.fixed.scale is not None:
        scale = LogitScale(*map(torch.tensor, work.fixed.scale))
    elif getattr(work.detector, "scores_are_logits", False):
        scale = None
    else:
        scale = LogitScale.of_images(torch.from_numpy(clean.patch_scores))
    mask = batch.mask.cpu().numpy()
    return (
        partial(pair_margin, mask=mask),
        partial(order_margin, mask=mask, clean=clean.patch_scores, scale=scale),
    )


def _merge(plan: Plan, passes: Passes, clean: Pass) -> None:
    """Fill the worst case of every radius: over clean and all attacks in balls up to it."""
    labels = np.array([sample.label for sample in plan.samples])
    so_far: list[Pass] = [clean]
    for eps in plan.ascending:
        so_far += [passes[case.name] for case in plan.at(eps)]
        worst = passes[plan.worst(eps)]
        score, which = worst_of([one.worst_score for one in so_far], labels)
        worst.score = worst.worst_score = score.tolist()
        worst.chosen = [so_far[i].name for i in which]
        attacks = so_far[1:]
        worst.forward = _total(one.forward for one in attacks)
        worst.backward = _total(one.backward for one in attacks)
        for one in attacks:
            worst.flags |= one.flags
        worst.distance = max(one.distance for one in so_far)
        worst.seconds = sum(one.seconds for one in so_far)


def _total(counts: Iterable[list[int]]) -> list[int]:
    total: list[int] = np.sum(list(counts), axis=0).tolist()
    return total
