"""Scores of noisy copies: the draws that certificates are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from robustad.certificates.noise import (
    Denoiser,
    Run,
    cleaned,
    content_seed,
    noise_of,
    noisy_batches,
    plan,
)
from robustad.detectors.base import PatchScorer
from robustad.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What noisy copies are made with.

    Attributes
    ----------
    sigma : float > 0
        Standard deviation in pixel range. Copies are denoised, then clipped to [0, 1].
    seed : int, default 0
        Of the noise, together with each image's content.
    batch_size : int >= 1, default 64
        Copies at once; changes nothing else.
    denoiser : callable, optional
        See `robustad.certificates.SmoothedDetector`.
    """

    sigma: float
    seed: int = 0
    batch_size: int = 64
    denoiser: Denoiser | None = None

    def copies(self, x: Tensor, draws: int, first: int = 0) -> Iterator[Tensor]:
        """Batches (K, 3, H, W) of copies of images (B, 3, H, W), image after image."""
        for _, batch in noisy_batches(
            x,
            sigma=self.sigma,
            draws=range(first, first + draws),
            seeds=self.seeds(x),
            batch_size=self.batch_size,
        ):
            yield cleaned(batch, self.denoiser)

    def seeds(self, x: Tensor) -> list[int]:
        """One an image, made of its content."""
        return [content_seed(one, self.seed) for one in x]

    @torch.no_grad()
    def scores(self, detector: PatchScorer, x: Tensor, n: int, first: int = 0) -> Tensor:
        """Image scores (B, n) of copies; see `noisy_scores`."""
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or not len(x):
            raise InputError(
                f"x: expected a floating-point tensor (B, 3, H, W), got {tuple(x.shape)} of "
                f"{x.dtype}"
            )
        if n < 1 or first < 0:
            raise InputError(f"n and first: expected n >= 1 and first >= 0, got {n} and {first}")
        found = torch.empty(len(x) * n, device=x.device)
        done = 0
        for copies in self.copies(x, n, first):
            score = detector.aggregate(detector.patch_scores(copies))
            if not bool(torch.isfinite(score).all()):
                places = range(done // n, (done + len(score) - 1) // n + 1)
                raise InputError(
                    f"detector: a noisy copy of images {[*places]} has a score that is not finite"
                )
            found[done : done + len(score)] = score
            done += len(score)
        return found.reshape(len(x), n)


def noisy_scores(
    detector: PatchScorer,
    x: Tensor,
    *,
    sigma: float,
    n: int,
    first: int = 0,
    seed: int = 0,
    batch_size: int = 64,
    denoiser: Denoiser | None = None,
) -> Tensor:
    """Image scores of noisy copies, of which the certificates are made.

    Parameters
    ----------
    detector : PatchScorer
        What scores the copies; see `robustad.attacks.access.as_scorer` for files and callables.
    x : Tensor, (B, 3, H, W), floating point in [0, 1]
        Prepared images.
    sigma : float > 0
        Standard deviation of the noise. Copies are denoised, then clipped to [0, 1].
    n : int >= 1
        Copies an image.
    first : int >= 0, default 0
        Where in each image's sequence of copies to begin: 100 copies, then 100 more with
        `first=100` are the same as 200.
    seed : int, default 0
        Of the noise, together with each image's content.
    batch_size : int >= 1, default 64
        Copies at once; changes nothing else.
    denoiser : callable, optional
        See `SmoothedDetector`.

    Returns
    -------
    Tensor, (B, n), float32
        Independent draws of the score, in the order drawn.

    Raises
    ------
    InputError
        If an option is out of range, or a score is NaN or infinite.

    Examples
    --------
    >>> from robustad.attacks.access import as_scorer
    >>> brightness = as_scorer(lambda x: x.mean(dim=(1, 2, 3)))
    >>> scores = noisy_scores(brightness, torch.full((1, 3, 8, 8), 0.5), sigma=0.1, n=100)
    >>> scores.shape, round(float(scores.mean()), 2)
    (torch.Size([1, 100]), 0.5)
    """
    noise = Noise(sigma=sigma, seed=seed, batch_size=batch_size, denoiser=denoiser)
    return noise.scores(detector, x, n, first)


@torch.no_grad()
def plain(detector: PatchScorer, x: Tensor, draws: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Mean patch scores (B, N) of an image's copies, and their image scores (B, draws)."""
    patches = []
    scores = []
    for copies in noise.copies(x, draws):
        found = detector.patch_scores(copies)
        scores.append(detector.aggregate(found))
        patches.append(found)
    return _gathered(patches, scores, len(x))


def graded(detector: PatchScorer, x: Tensor, draws: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """As `plain`, with a graph. Of large batches neither noise nor activations are kept."""
    seeds = noise.seeds(x)
    patches = []
    scores = []

    def score(x: Tensor, runs: list[Run]) -> tuple[Tensor, Tensor]:
        places = [run.image for run in runs for _ in range(run.count)]
        copies = torch.add(x[places], noise_of(runs, x, seeds), alpha=noise.sigma)
        found = detector.patch_scores(cleaned(copies, noise.denoiser))
        return found, detector.aggregate(found)

    batches = [*plan(len(x), range(draws), noise.batch_size)]
    for runs in batches:
        found, image = (
            score(x, runs) if len(batches) == 1 else checkpoint(score, x, runs, use_reentrant=False)
        )
        patches.append(found)
        scores.append(image)
    return _gathered(patches, scores, len(x))


def _gathered(patches: list[Tensor], scores: list[Tensor], images: int) -> tuple[Tensor, Tensor]:
    """Copies come sorted by image."""
    patch, score = torch.cat(patches), torch.cat(scores)
    return patch.reshape(images, -1, patch.shape[1]).mean(dim=1), score.reshape(images, -1)
