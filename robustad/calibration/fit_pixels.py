"""Giving a detector's map a meaning from held-out images with masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from robustad.calibration.pixel import PIXELS, PixelPlatt
from robustad.errors import InputError

if TYPE_CHECKING:
    from robustad.data import Sample
    from robustad.detectors.base import Detector

    D = TypeVar("D", bound=Detector)

Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def calibrate_pixels(
    detector: D,
    samples: Iterable[Sample],
    *,
    pixels: int = PIXELS,
    seed: int = 0,
    defect_rate: float | None = None,
) -> D:
    """Fit a pixel-wise curve to a detector's maps of held-out images, and set it.

    Parameters
    ----------
    detector : Detector
        Changed in place: its `pixel_calibrator`.
    samples : iterable of Sample
        Held-out images. Anomalous ones without a mask are left out.
    pixels, seed
        See `PixelPlatt.fit`.
    defect_rate : float in (0, 1), optional
        See `PixelPlatt.with_defect_rate`.

    Returns
    -------
    Detector
        The same one.

    Raises
    ------
    InputError
        If no anomalous image has a mask, or as `PixelPlatt.fit`.
    DataError
        If an image or mask cannot be read.
    """
    masked = [one for one in samples if one.label == 0 or one.mask is not None]
    if not any(one.label == 1 for one in masked):
        raise InputError("samples: expected anomalous images with masks, got none")
    found = PixelPlatt().fit(*_maps_and_masks(detector, masked), pixels=pixels, seed=seed)
    detector.pixel_calibrator = (
        found if defect_rate is None else found.with_defect_rate(defect_rate)
    )
    return detector


def _maps_and_masks(
    detector: Detector, samples: list[Sample]
) -> tuple[Iterator[Map], Iterator[Mask]]:
    """Anomaly maps and masks at the prepared size, one image at a time."""
    import torch

    @torch.no_grad()
    def map_of(sample: Sample) -> Map:
        x = detector.stack([detector.geometry.apply(sample.read())])
        size = (x.shape[2], x.shape[3])
        made: Map = detector.anomaly_map(detector.patch_scores(x), size)[0].cpu().numpy()
        return made

    def mask_of(sample: Sample) -> Mask:
        mask = sample.read_mask()
        assert mask is not None
        return detector.geometry.apply_mask(mask)

    return map(map_of, samples), map(mask_of, samples)
