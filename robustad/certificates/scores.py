"""Scores of noisy copies: the draws that certificates are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from robustad.certificates.noise import Denoiser, cleaned, content_seed, noisy_batches
from robustad.detectors.base import PatchScorer
from robustad.errors import InputError


@torch.no_grad()
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
    x : Tensor, (B, 3, H, W), float32 in [0, 1]
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
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or not len(x):
        raise InputError(
            f"x: expected a floating-point tensor (B, 3, H, W), got {tuple(x.shape)} of {x.dtype}"
        )
    if n < 1 or first < 0:
        raise InputError(f"n and first: expected n >= 1 and first >= 0, got {n} and {first}")
    seeds = [content_seed(one, seed) for one in x]
    found = torch.empty(len(x) * n, device=x.device)
    done = 0
    for runs, copies in noisy_batches(
        x, sigma=sigma, draws=range(first, first + n), seeds=seeds, batch_size=batch_size
    ):
        score = detector.aggregate(detector.patch_scores(cleaned(copies, denoiser)))
        if not bool(torch.isfinite(score).all()):
            images = sorted({run.image for run in runs})
            raise InputError(
                f"detector: its score of a noisy copy of images {images} is not finite"
            )
        found[done : done + len(score)] = score
        done += len(score)
    return found.reshape(len(x), n)
