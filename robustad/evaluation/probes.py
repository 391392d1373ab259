"""Questions that a few passes of the detector answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustad.data import Sample
from robustad.detectors import Detector
from robustad.evaluation.batches import batches
from robustad.evaluation.result import Check

IMAGES = 4  # of each class: enough to meet a fault that all images share
REPEATS = 3
NOISE = 1e-3  # of the scores' spread: what rounding and parallel sums may differ by


def quick_checks(
    detector: Detector, samples: Sequence[Sample], *, images: int = IMAGES
) -> list[Check]:
    """Ask whether the detector is in training mode, random, or without a gradient.

    Parameters
    ----------
    detector : Detector
        The one evaluated.
    samples : sequence of Sample
        Of which the first few of each class are scored.
    images : int, default 4
        How many of each class.

    Returns
    -------
    list of Check
        `train_mode`, `randomised`, `zero_gradient`.
    """
    scored = {0: 0, 1: 0}
    some = []
    for sample in samples:
        if scored[sample.label] < images:
            scored[sample.label] += 1
            some.append(sample)
    x = [batch.x for batch in batches(detector, some, 2 * images)]
    graded, gradients = _differentiated(detector, x)
    return [
        _train_mode(detector),
        _randomised(detector, x, graded),
        _zero_gradient(detector, gradients),
    ]


def _differentiated(
    detector: Detector, x: Sequence[Tensor]
) -> tuple[Tensor, list[tuple[int, Tensor | None]]]:
    """Image scores with the graph on, and of each batch its size and gradient, if there is one."""
    scores: list[Tensor] = []
    gradients: list[tuple[int, Tensor | None]] = []
    for one in x:
        if not getattr(detector, "differentiable", True):
            with torch.no_grad():
                scores.append(detector(one).double().cpu())
            gradients.append((len(one), None))
            continue
        leaf = one.detach().clone().requires_grad_(True)
        gradient = None
        with torch.enable_grad():
            score = detector(leaf)
            if score.requires_grad:
                (gradient,) = torch.autograd.grad(score.sum(), leaf, allow_unused=True)
        scores.append(score.detach().double().cpu())
        gradients.append((len(one), gradient))
    return torch.cat(scores), gradients


def _train_mode(detector: Detector) -> Check:
    names = [name or "the detector" for name, part in detector.named_modules() if part.training]
    # parts without children say where dropout and batch statistics are at work
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Check(
        name="train_mode",
        fired=bool(names),
        sentence=f"In training mode: {shown}; call eval()." if names else "All of it is in eval().",
        numbers={"modules": len(names)},
    )


@torch.no_grad()
def _randomised(detector: Detector, x: Sequence[Tensor], graded: Tensor) -> Check:
    # A detector may draw at random, or cut corners, only where a gradient is asked for.
    passes = torch.stack(
        [torch.cat([detector(one).double().cpu() for one in x]) for _ in range(REPEATS)]
    )
    apart = (torch.cat([passes, graded[None]]) - passes[0]).abs()
    difference = float(apart.max())
    spread = float(passes[0].std(correction=0)) + 1e-3 * float(passes[0].abs().max())
    fired = not difference <= NOISE * spread  # NaN is no repeatable score either
    between = "calls with a gradient and without" if not float(apart[:-1].max()) else "calls"
    text = f"Scores of the same image differ by up to {difference:.3g} between {between}"
    return Check(
        name="randomised",
        fired=fired,
        sentence=f"{text}: average over draws before attacking." if fired else f"{text}.",
        numbers={"difference": difference, "spread": spread},
    )


def _zero_gradient(detector: Detector, gradients: list[tuple[int, Tensor | None]]) -> Check:
    if not getattr(detector, "differentiable", True):
        return Check(
            name="zero_gradient", fired=None, sentence="Not asked: the model shows scores alone."
        )
    cut = any(gradient is None for _, gradient in gradients)
    total = sum(size for size, _ in gradients)
    dead = sum(
        size if gradient is None else int((gradient.flatten(1).abs().amax(dim=1) == 0).sum())
        for size, gradient in gradients
    )
    numbers: dict[str, float] = {"dead": dead, "images": total}
    if not dead:
        sentence = f"All of {total} images have a gradient."
    elif cut:
        sentence = "No gradient reaches the image: a step of the detector is detached."
    else:
        sentence = (
            f"The gradient of the score is exactly zero for {dead} of {total} images: scores are "
            "rounded, saturated or cut off."
        )
    return Check(name="zero_gradient", fired=dead > 0, sentence=sentence, numbers=numbers)
