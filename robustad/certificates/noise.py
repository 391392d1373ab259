"""Noisy copies of images, drawn so that nothing but an image's own content decides its noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from robustad.certificates.orders import check_sigma
from robustad.errors import InputError

# From noisy images (K, 3, H, W), not clipped, to images of that shape.
Denoiser: TypeAlias = Callable[[Tensor], Tensor]

# Draws made of one generator: a draw depends on its place, not on how many are asked for.
BLOCK = 16
# Odd, so that places of blocks and seeds modulo 2^32 match one to one: no block is drawn twice.
STRIDE = 0x9E3779B9


@dataclass(frozen=True)
class Run:
    """Consecutive draws of one image that lie side by side in a batch."""

    image: int
    first: int
    count: int


def content_seed(image: Tensor, seed: int = 0) -> int:
    """Seed of an image's noise, made of its pixels.

    Parameters
    ----------
    image : Tensor, (3, H, W)
        A prepared image.
    seed : int, default 0
        Another one gives other noise for all images.

    Returns
    -------
    int in 0..2^32 - 1
        An attacker who changes the image changes its noise as well.

    Examples
    --------
    >>> content_seed(torch.zeros(3, 8, 8)) == content_seed(torch.zeros(3, 8, 8))
    True
    >>> content_seed(torch.zeros(3, 8, 8)) == content_seed(torch.zeros(3, 8, 8), seed=1)
    False
    """
    pixels = image.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(f"robustad noise 1 {seed} {tuple(pixels.shape)} ".encode())
    digest.update(pixels.numpy().data)
    return int.from_bytes(digest.digest()[:4], "big")


def noisy_batches(
    x: Tensor,
    *,
    sigma: float,
    draws: range,
    seeds: Sequence[int],
    batch_size: int = 64,
) -> Iterator[tuple[list[Run], Tensor]]:
    """Add Gaussian noise to images, batch after batch, in one buffer.

    Parameters
    ----------
    x : Tensor, (B, 3, H, W), floating point in [0, 1]
        Prepared images.
    sigma : float > 0
        Standard deviation of the noise, in pixel range.
    draws : range of step 1
        Which draws of each image's endless sequence.
    seeds : sequence of int in 0..2^32 - 1
        One an image, see `content_seed`.
    batch_size : int >= 1, default 64
        Copies at once; above `BLOCK` rounded down to a multiple of it. It does not change the
        noise. That of a CPU and that of a GPU differ.

    Yields
    ------
    runs : list of Run
        Whose copies these are, in order.
    copies : Tensor, (K, 3, H, W), in channels-last order, not clipped
        A view of the buffer: the next batch overwrites it.
    """
    check_sigma(sigma)
    if batch_size < 1:
        raise InputError(f"batch_size: expected >= 1, got {batch_size}")
    device, height, width = x.device, x.shape[2], x.shape[3]
    rows = x.detach().permute(0, 2, 3, 1).contiguous()
    buffer = torch.empty(_whole(batch_size), height, width, 3, dtype=x.dtype, device=device)
    with _workers(device) as workers:
        for runs in plan(len(x), draws, batch_size):

            def fill(run: Run, target: Tensor) -> None:
                _draw(run, target, seeds)
                torch.add(rows[run.image], target, alpha=sigma, out=target)

            count = sum(run.count for run in runs)
            targets = torch.split(buffer[:count], [run.count for run in runs])
            list(workers(fill, runs, targets))
            copies = buffer[:count].permute(0, 3, 1, 2)
            for first in range(0, count, batch_size):
                part = slice(first, min(first + batch_size, count))
                yield _cut(runs, part), copies[part]


def noise_of(runs: Sequence[Run], x: Tensor, seeds: Sequence[int]) -> Tensor:
    """Give the standard normal numbers (K, 3, H, W) behind some copies of images (B, 3, H, W)."""
    counts = [run.count for run in runs]
    noise = torch.empty(sum(counts), *x.shape[2:], 3, dtype=x.dtype, device=x.device)
    for run, target in zip(runs, torch.split(noise, counts), strict=True):
        _draw(run, target, seeds)
    return noise.permute(0, 3, 1, 2)


def cleaned(copies: Tensor, denoiser: Denoiser | None) -> Tensor:
    """What a detector sees of noisy copies (K, 3, H, W): denoised, then clipped to [0, 1].

    Raises
    ------
    InputError
        If the denoiser gives another shape, or no tensor.
    """
    if denoiser is None:
        return copies.clamp(0.0, 1.0) if copies.requires_grad else copies.clamp_(0.0, 1.0)
    given = denoiser(copies)
    if not isinstance(given, Tensor) or given.shape != copies.shape:
        got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise InputError(f"denoiser: expected images {tuple(copies.shape)}, got {got}")
    return given.clamp(0.0, 1.0)


def plan(images: int, draws: range, batch_size: int) -> Iterator[list[Run]]:
    """Blocks of all images, image after image, as many at once as a batch holds."""
    size = _whole(batch_size)
    runs: list[Run] = []
    used = 0
    for image in range(images):
        for block in range(draws.start // BLOCK, -(-draws.stop // BLOCK)):
            first = max(draws.start, block * BLOCK)
            count = min(draws.stop, (block + 1) * BLOCK) - first
            if used + count > size:
                yield runs
                runs, used = [], 0
            runs.append(Run(image, first, count))
            used += count
    if runs:
        yield runs


def _cut(runs: list[Run], part: slice) -> list[Run]:
    """The runs of some rows of a batch."""
    found, at = [], 0
    for run in runs:
        first, last = max(part.start, at), min(part.stop, at + run.count)
        if first < last:
            found.append(Run(run.image, run.first + first - at, last - first))
        at += run.count
    return found


def _draw(run: Run, target: Tensor, seeds: Sequence[int]) -> None:
    """Fill a target (count, H, W, 3) with a run's standard normal numbers."""
    block = run.first // BLOCK
    # A block is drawn whole, in place unless only some of its draws are wanted.
    noise = target if run.count == BLOCK else target.new_empty(BLOCK, *target.shape[1:])
    seed = (seeds[run.image] + STRIDE * block) % 2**32
    noise.normal_(generator=torch.Generator(target.device).manual_seed(seed))
    if noise is not target:
        skipped = run.first - block * BLOCK
        target.copy_(noise[skipped : skipped + run.count])


def _whole(batch_size: int) -> int:
    """Copies in a buffer: whole blocks, one at least."""
    return max(BLOCK, batch_size - batch_size % BLOCK)


@contextmanager
def _workers(device: torch.device) -> Iterator[Callable[..., Iterator[None]]]:
    """Give a `map` over blocks on all of torch's threads: a generator by itself uses one."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool.map
