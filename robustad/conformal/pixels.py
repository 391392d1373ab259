"""Pixel thresholds with a bounded share of missed defect, or of falsely marked surface."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from robustad.conformal.risk import RiskThreshold, chosen
from robustad.errors import InputError

PixelLoss: TypeAlias = Literal["pixel_miss", "pixel_false_alarm"]
# Float32 numbers that differ in their last 12 bits alone share a bin, whose smallest number is a
# candidate: 2048 an octave, of either sign.
SHIFT = 12
COUNT = 1 << (32 - SHIFT)
_SIGN = np.uint32(1 << 31)


class PixelRisk:
    """Sums up pixel losses map by map, in memory that does not grow, and chooses a threshold.

    Parameters
    ----------
    loss : {"pixel_miss", "pixel_false_alarm"}, default "pixel_miss"
        What is bounded, an image: the share of its defect's pixels that lie below the threshold,
        or the share of its normal pixels that do not. The second one needs no anomalies.

    Attributes
    ----------
    n : int
        Images taken in.

    Raises
    ------
    InputError
        If the loss is unknown.

    Notes
    -----
    Conformal risk control (see `RiskControl`) over 2^20 candidates fixed beforehand: all float32
    numbers with 11 bits after the leading one, which is a step of 0.05% at most. The threshold is
    the best of these candidates, exactly as a brute-force search among them finds it, and below
    (for misses) or above (for false alarms) the best of all real numbers by no more than a step.

    An image counts by its share, not by its pixels: a large defect counts as much as a small one.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> risk = PixelRisk()
    >>> for _ in range(30):
    ...     mask = rng.random((16, 16)) < 0.2
    ...     risk.update(rng.random((16, 16)) + mask, mask)
    >>> found = risk.choose(0.1)
    >>> 1.0 < found.value < 1.1, found.risk < 0.1
    (True, True)
    """

    def __init__(self, loss: PixelLoss = "pixel_miss") -> None:
        if loss not in ("pixel_miss", "pixel_false_alarm"):
            raise InputError(f"loss: expected pixel_miss or pixel_false_alarm, got {loss!r}")
        self.loss: PixelLoss = loss
        self.n = 0
        self._share = np.zeros(COUNT)  # summed over images, of the pixels in each bin

    def update(
        self, anomaly_map: npt.NDArray[Any], mask: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Take in one image.

        Parameters
        ----------
        anomaly_map : array, (H, W), floating point
            Finite scores; compared as float32.
        mask : array, (H, W), bool, optional
            Pixels of the defect. None for a normal image, which has none.

        Raises
        ------
        InputError
            If the shapes differ, a score is not finite, or there is no pixel that could be lost.
        """
        scores = np.asarray(anomaly_map)
        if scores.ndim != 2 or scores.dtype.kind != "f":
            raise InputError(
                f"anomaly_map: expected floating-point scores (H, W), got {scores.shape} of "
                f"{scores.dtype}"
            )
        if mask is not None and (mask.shape != scores.shape or mask.dtype != np.bool_):
            raise InputError(
                f"mask: expected bool {scores.shape} as the map, got {mask.dtype} {mask.shape}"
            )
        miss = self.loss == "pixel_miss"
        if mask is None and miss:
            raise InputError("mask: expected the pixels of the defect, got None")
        counted = scores.ravel() if mask is None else scores[mask if miss else ~mask]
        values = counted.astype(np.float32)
        if not values.size:
            which = "defect" if miss else "normal"
            raise InputError(f"mask: expected at least one {which} pixel, got none")
        if not bool(np.isfinite(values).all()):
            raise InputError("anomaly_map: expected finite scores, got NaN or infinity")
        bins = _keys(values) >> np.uint32(SHIFT)
        first = int(bins.min())
        part = np.bincount((bins - np.uint32(first)).astype(np.int64))
        self._share[first : first + part.size] += part / values.size
        self.n += 1

    def choose(self, alpha: float) -> RiskThreshold:
        """Choose the threshold: the largest that misses little, or the smallest that alarms little.

        Parameters
        ----------
        alpha : float in (0, 1)
            Bound of the expected share.

        Returns
        -------
        RiskThreshold
            Pixels from `value` on are marked. `-inf` marks all of them, `inf` none.

        Raises
        ------
        InputError
            If `alpha` lies outside (0, 1) or there are too few images for it.
        """
        low, high = self._occupied()
        # The candidates that matter: every one in the range of the scores, and both infinities.
        starts = _values(np.arange(low, high, dtype=np.uint32))
        candidates = np.concatenate([[-math.inf], starts, [math.inf]])
        below = np.concatenate([[0.0, 0.0], np.cumsum(self._share[low:high])])
        miss = self.loss == "pixel_miss"
        total = below if miss else (self.n - below).clip(min=0.0)
        total[-1 if miss else 0] = self.n
        total[0 if miss else -1] = 0.0
        return chosen(candidates, total, self.n, alpha, rising=miss, loss=self.loss)

    def _occupied(self) -> tuple[int, int]:
        """First bin with a pixel, and the one behind the last with its successor."""
        filled = np.flatnonzero(self._share)
        if not filled.size:
            raise InputError("losses: expected those of at least one held-out image, got none")
        return int(filled[0]), int(filled[-1]) + 1


def _keys(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Integers ordered as finite float32 numbers are; -0 counts as 0."""
    bits = np.ascontiguousarray(values + np.float32(0.0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _values(bins: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Smallest number in each bin."""
    keys = bins << np.uint32(SHIFT)
    bits = np.where(keys & _SIGN, keys ^ _SIGN, ~keys)
    return bits.view(np.float32).astype(np.float64)
