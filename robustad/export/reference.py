"""What an exported file should give: the detector's own outputs, and how far two are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from robustad.detectors import Detector
from robustad.verdict import binary_entropy


def size_of(x: npt.NDArray[Any]) -> tuple[int, int]:
    """Height and width of images in either form."""
    return (x.shape[1], x.shape[2]) if x.dtype == np.uint8 else (x.shape[2], x.shape[3])


def expected_outputs(detector: Detector, x: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """All outputs of a detector for a batch, as the file exported from it should give them.

    Parameters
    ----------
    detector : Detector
        In evaluation mode.
    x : array, (B, 3, H, W), float32, or (B, H, W, 3), uint8
        As the file takes it.

    Returns
    -------
    dict of array
        By name of output; see `robustad.runtime.OnnxDetector.run`. p-values and verdicts, which
        depend on the score's last digits, are left out.
    """
    size, geometry = size_of(x), detector.geometry
    if x.dtype == np.uint8:
        prepared = [geometry.apply(image / np.float32(255)) for image in x]
        found = expected_outputs(detector, np.stack(prepared).transpose(0, 3, 1, 2).copy())
        maps = np.stack([geometry.restore(one, *size) for one in found["anomaly_map"]])
        pixels = detector.probability_map(torch.from_numpy(maps)).cpu().numpy()
        return {**found, "anomaly_map": maps, "probability_map": pixels}
    patch_scores = detector.patch_scores(torch.from_numpy(x).to(detector.device))
    score = detector.aggregate(patch_scores).cpu().numpy()
    probability = detector.probability(score)
    anomaly_map = detector.anomaly_map(patch_scores, size)
    return {
        "score": score,
        "probability": probability,
        "entropy": binary_entropy(probability),
        "patch_scores": patch_scores.cpu().numpy(),
        "anomaly_map": anomaly_map.cpu().numpy(),
        "probability_map": detector.probability_map(anomaly_map).cpu().numpy(),
    }


def largest_difference(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """Largest absolute difference; infinite for other shapes, or where one only is NaN.

    Of integers, which are codes: 1 if any differ, else 0.
    """
    if expected.shape != found.shape:
        return float("inf")
    if expected.dtype.kind == "i":
        return float((expected != found).any())
    both_nan = np.isnan(expected) & np.isnan(found)
    difference = np.where(both_nan, 0.0, np.abs(expected.astype(np.float64) - found))
    return float(np.nan_to_num(difference, nan=np.inf).max())
