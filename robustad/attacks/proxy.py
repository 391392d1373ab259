"""Attacking something in place of the detector: its features, or another detector."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from robustad.attacks.objectives import Objective
from robustad.attacks.probe import FeatureScorer
from robustad.attacks.problem import Problem
from robustad.detectors.base import PatchScorer
from robustad.errors import InputError


@runtime_checkable
class BankScorer(FeatureScorer, Protocol):
    """A detector that compares patch features with a bank of normal ones."""

    bank: Tensor  # (M, D), of length 1


class FeatureView:
    """A detector's patch features (B, N, D) in the place of patch scores, as rows (B, N * D)."""

    scores_are_logits = True  # no scale is wanted

    def __init__(self, detector: FeatureScorer) -> None:
        self.detector = detector
        self.width = 1

    def patch_scores(self, x: Tensor) -> Tensor:
        """Features of images (B, 3, H, W), flattened."""
        found = self.detector.patch_features(x)
        if found.ndim != 3 or len(found) != len(x):
            raise InputError(
                f"detector: expected patch_features ({len(x)}, N, D), got {tuple(found.shape)}"
            )
        self.width = found.shape[2]
        return found.flatten(1)

    def rows(self, flat: Tensor) -> Tensor:
        """Features (B, N, D) of what `patch_scores` gave."""
        return flat.reshape(len(flat), -1, self.width)

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Nothing that means anything."""
        return patch_scores[:, 0]


def standing_in(
    problem: Problem,
    detector: PatchScorer,
    objective: str | Objective,
    *,
    clean: Tensor | None = None,
) -> Problem:
    """Pose a problem on another scorer, with a meter of its own.

    Parameters
    ----------
    problem : Problem
        Gives images, labels, ball and seeds; not its masks, which belong to its own patches.
    detector : PatchScorer
        What is attacked instead.
    objective : str or Objective
        On its scores.
    clean : Tensor, optional
        Its clean scores where they are known, or what the objective shall find there.
    """
    return Problem.of(
        detector,
        problem.x,
        label=problem.label,
        eps=problem.eps,
        norm=problem.norm,
        objective=objective,
        seeds=problem.seeds,
        precision=problem.precision,
        clean=clean,
    )


def charge(problem: Problem, proxy: Problem) -> None:
    """Count the passes of a problem that stood in, where they went through the same network."""
    meter, other = problem.meter, proxy.meter
    for mine, theirs in (
        (meter.forward, other.forward),
        (meter.backward, other.backward),
        (meter.dead, other.dead),
    ):
        mine.index_add_(0, problem.rows, theirs)
    meter.flags |= other.flags


def require_features(detector: object, attack: str) -> FeatureScorer:
    """Return the detector if it shows its features.

    Raises
    ------
    InputError
        If it does not.
    """
    if isinstance(detector, FeatureScorer):
        return detector
    raise InputError(
        f"detector: the {attack} attack needs patch_features, which {type(detector).__name__} does "
        "not have"
    )


def require_bank(detector: object, attack: str) -> BankScorer:
    """Return the detector if it shows its features and the bank they are compared with.

    Raises
    ------
    InputError
        If it does not, or the bank is empty or of another width.
    """
    require_features(detector, attack)
    bank = getattr(detector, "bank", None)
    if isinstance(detector, BankScorer) and bank is not None and bank.ndim == 2 and len(bank):
        return detector
    raise InputError(
        f"detector: the {attack} attack needs a bank (M, D) of normal features, which "
        f"{type(detector).__name__} does not have"
    )


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine similarity (B, N) of features (B, N, D); 0 where one is zero."""
    return torch.nn.functional.cosine_similarity(one, other, dim=2, eps=1e-12)
