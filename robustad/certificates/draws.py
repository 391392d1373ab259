"""The noisy scores of a data set's images, drawn once and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import robustad
from robustad.certificates.noise import BLOCK, content_seed
from robustad.certificates.orders import FloatArray
from robustad.certificates.smoothed import SmoothedDetector
from robustad.evaluation.store import Units, unit_key

# Draws in one unit of work: what an interrupted run may lose, and where an early stop may come.
SEGMENT = 16 * BLOCK
FORMAT = 1  # of what a unit's hash stands for; raise it when units mean something else


@dataclass(kw_only=True, eq=False)
class Draws:
    """Scores noisy copies, or reads them.

    Attributes
    ----------
    detector : SmoothedDetector
        Whose base scores the copies.
    detector_hash : str
        Fingerprint of the base, the noise and the denoiser.
    store : Units or None
        Where finished units are kept.
    reuse : bool
        Whether to read units that the store has.
    done : callable
        Called with the number of draws after each unit.
    computed : int
        Draws that were not found in the store.
    """

    detector: SmoothedDetector
    detector_hash: str
    store: Units | None = None
    reuse: bool = True
    done: Callable[[int], None] = lambda count: None
    computed: int = 0

    def of(self, x: Tensor, n: int, stop: Callable[[FloatArray], bool] | None = None) -> FloatArray:
        """Scores (n,) of one image's noisy copies.

        Parameters
        ----------
        x : Tensor, (1, 3, H, W)
            A prepared image.
        n : int
            How many.
        stop : callable, optional
            Asked with the scores so far at each of `looks`; true ends the drawing there.
        """
        seed = content_seed(x[0], self.detector.seed)
        found = np.empty(0)
        for first in range(0, n, SEGMENT):
            found = np.concatenate([found, self._segment(x, seed, first, min(SEGMENT, n - first))])
            if stop is not None and len(found) in looks(n)[:-1] and stop(found):
                self.done(n - len(found))
                break
        return found

    def _segment(self, x: Tensor, seed: int, first: int, count: int) -> FloatArray:
        parts: dict[str, Any] = {
            "format": FORMAT,
            "robustad": robustad.__version__,
            "unit": "noisy scores",
            "detector": self.detector_hash,
            "device": x.device.type,  # whose random numbers they are
            "seed": seed,
            "size": [*x.shape[2:]],
            "first": first,
            "count": count,
        }
        key = unit_key(parts)
        found = self.store.read(key) if self.store is not None and self.reuse else None
        if found is not None and found[0].get("scores", np.empty(0)).shape == (count,):
            self.done(count)
            return np.asarray(found[0]["scores"], np.float64)
        scores = self.detector.noise.scores(self.detector.base, x, count, first)
        made: FloatArray = scores[0].cpu().double().numpy()
        self.computed += count
        if self.store is not None:
            self.store.write(key, {"scores": made}, {"made_from": parts})
        self.done(count)
        return made


def looks(n: int) -> list[int]:
    """Numbers of draws at which an image may stop early: doubling, `n` the last.

    Examples
    --------
    >>> looks(1000), looks(100)
    ([256, 512, 1000], [100])
    """
    found, at = [], SEGMENT
    while at < n:
        found.append(at)
        at *= 2
    return [*found, n]


def base_scores(detector: SmoothedDetector, x: Tensor) -> FloatArray:
    """Scores (B,) of images before smoothing."""
    with torch.no_grad():
        scores = detector.base(x)
    made: FloatArray = scores.cpu().double().numpy()
    return made
