"""Transfer: attack a model one has, and hope that it works on the one one has not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.attacks.momentum import mifgsm
from robustad.attacks.objectives import LogitScale, Objective, Scores
from robustad.attacks.problem import Problem
from robustad.attacks.proxy import standing_in
from robustad.detectors.base import PatchScorer
from robustad.errors import InputError


def transfer(
    problem: Problem,
    surrogate: PatchScorer | Sequence[PatchScorer],
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    diversity: float = 0.5,
    random: bool = False,
    restarts: int = 1,
) -> Tensor:
    """Momentum and diverse inputs on a stand-in; the detector itself is never asked.

    Parameters
    ----------
    problem : Problem
        Of any norm. Its objective is maximised on the surrogate's scores; as the surrogate's
        patches are others, one that needs masks is refused.
    surrogate : PatchScorer or sequence of them
        Differentiable, for instance another backbone with a bank of the same few normal images.
        Where one takes only multiples of some patch size, images are resampled to the nearest. Of
        several the mean objective is maximised, each measured in the spread of its own scores.
    steps : int >= 1, default 10
        Number of steps.
    step_size : float > 0, optional
        Default eps / steps.
    decay : float >= 0, default 1
        Of the momentum; 0 for none.
    diversity : float in [0, 1], default 0.5
        Probability with which a step shrinks and pads the image before it takes the gradient.
    random : bool, default False
        Start from a random point of the ball.
    restarts : int >= 1, default 1
        Runs; the one that the surrogate says is best is kept.

    Returns
    -------
    Tensor, (B, 3, H, W)
        Inside the ball: the last iterate, as the best for the surrogate is the one most fitted to
        it.

    Raises
    ------
    InputError
        If the surrogate is in training mode or has no gradient, or an option is out of range.

    Notes
    -----
    Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018; Xie et al., "Improving
    Transferability of Adversarial Examples with Input Diversity", CVPR 2019. Several at once:
    Liu et al., "Delving into Transferable Adversarial Examples", ICLR 2017, section 5. The meter
    stays at zero: a surrogate costs no queries.
    """
    surrogates = [*surrogate] if isinstance(surrogate, Sequence) else [surrogate]
    if not surrogates:
        raise InputError("surrogate: expected at least one, got none")
    for one in surrogates:
        if getattr(one, "training", False):
            raise InputError("surrogate: is in training mode; call surrogate.eval() first")
    sized = [Resampled.where_needed(one, problem.x) for one in surrogates]
    if len(sized) == 1:
        proxy = standing_in(problem, sized[0], problem.objective)
    else:
        together = Together(sized)
        proxy = standing_in(problem, together, together.mean(problem))
    adversarial = mifgsm(
        proxy,
        steps=steps,
        step_size=step_size,
        decay=decay,
        diversity=diversity,
        random=random,
        restarts=restarts,
        keep="last",
    )
    problem.meter.flags |= proxy.meter.flags
    return adversarial


class Resampled:
    """A scorer behind a bilinear resampling to a size that it takes."""

    def __init__(self, scorer: PatchScorer, size: tuple[int, int]) -> None:
        self.scorer = scorer
        self.size = size
        self.top_fraction = getattr(scorer, "top_fraction", None)
        self.scores_are_logits = bool(getattr(scorer, "scores_are_logits", False))

    @classmethod
    def where_needed(cls, scorer: PatchScorer, x: Tensor) -> PatchScorer:
        """The scorer itself if it takes images (B, 3, H, W) as large as these."""
        multiple: int = getattr(getattr(scorer, "geometry", None), "multiple", 1)
        height, width = (max(round(edge / multiple), 1) * multiple for edge in x.shape[2:])
        return scorer if (height, width) == tuple(x.shape[2:]) else cls(scorer, (height, width))

    def patch_scores(self, x: Tensor) -> Tensor:
        """Patch scores (B, N) of images (B, 3, H, W) of any size."""
        sized = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        return self.scorer.patch_scores(sized.clamp(0.0, 1.0))

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Image scores (B,)."""
        return self.scorer.aggregate(patch_scores)


class Together:
    """Several scorers as one, whose patch scores stand side by side."""

    scores_are_logits = True  # each has its own scale

    def __init__(self, scorers: Sequence[PatchScorer]) -> None:
        self.scorers = scorers
        self.widths: list[int] = []

    def patch_scores(self, x: Tensor) -> Tensor:
        """Patch scores (B, N1 + N2 + ...) of images (B, 3, H, W)."""
        found = [one.patch_scores(x) for one in self.scorers]
        self.widths = [part.shape[1] for part in found]
        return torch.cat(found, dim=1)

    def parts(self, patch_scores: Tensor) -> list[Tensor]:
        """Each scorer's own columns."""
        ends = [*accumulate(self.widths)]
        return [
            patch_scores[:, end - width : end] for width, end in zip(self.widths, ends, strict=True)
        ]

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Mean image score (B,) of all."""
        parts = self.parts(patch_scores)
        scores = [one.aggregate(part) for one, part in zip(self.scorers, parts, strict=True)]
        return torch.stack(scores).mean(dim=0)

    def mean(self, problem: Problem) -> Objective:
        """The objective of a problem as the mean over the scorers, each in its own unit."""
        with torch.no_grad():
            cleans = self.parts(self.patch_scores(problem.x))
        alone = [
            standing_in(problem, one, problem.objective, clean=clean)
            for one, clean in zip(self.scorers, cleans, strict=True)
        ]
        units = [LogitScale.of_images(clean).temperature for clean in cleans]

        def mean(scores: Scores) -> Tensor:
            values = []
            for one, part, posed, unit in zip(
                self.scorers, self.parts(scores.patch), alone, units, strict=True
            ):
                given = replace(
                    scores, patch=part, image=one.aggregate(part), clean=posed.clean,
                    scale=posed.scale, top=posed.top,
                )  # fmt: skip
                values.append(posed.objective(given) / unit)
            return torch.stack(values).mean(dim=0)

        return mean
