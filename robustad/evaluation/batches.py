"""Labelled samples as prepared batches with patch masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad._batching import runs
from robustad.attacks import patch_mask
from robustad.data import Sample
from robustad.detectors import Detector


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some samples as a detector takes them.

    Attributes
    ----------
    index : list of int
        Their places in the sequence they came from.
    x : Tensor, (B, 3, H, W), float32 in [0, 1]
        Prepared images.
    label : Tensor, (B,), int64
        0 normal, 1 anomalous.
    pixels : list of array (H, W) bool, or None
        Ground truth at the prepared size; None where an anomalous image has no mask.
    mask : Tensor, (B, N), bool
        Anomalous patches; an anomalous image without a mask counts as anomalous everywhere.
    """

    index: list[int]
    x: Tensor
    label: Tensor
    pixels: list[npt.NDArray[np.bool_] | None]
    mask: Tensor


def batches(detector: Detector, samples: Sequence[Sample], batch_size: int) -> Iterator[Batch]:
    """Read samples one by one and group consecutive ones of equal prepared size."""
    for run in runs(_read(detector, samples), batch_size, key=lambda one: one[2].shape):
        x = detector.stack([pixels for _, _, pixels, _ in run])
        truth = [mask for _, _, _, mask in run]
        full = [
            np.full(pixels.shape[:2], sample.label == 1) if mask is None else mask
            for _, sample, pixels, mask in run
        ]
        grid = detector.patch_grid(x.shape[2], x.shape[3])
        yield Batch(
            index=[index for index, *_ in run],
            x=x,
            label=torch.tensor([sample.label for _, sample, *_ in run], device=x.device),
            pixels=truth,
            mask=patch_mask(torch.from_numpy(np.stack(full)).to(x.device), grid),
        )


def _read(
    detector: Detector, samples: Iterable[Sample]
) -> Iterator[tuple[int, Sample, npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]]:
    for index, sample in enumerate(samples):
        mask = sample.read_mask()
        prepared = None if mask is None else detector.geometry.apply_mask(mask)
        yield index, sample, detector.geometry.apply(sample.read()), prepared
