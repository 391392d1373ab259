"""What is exported: from prepared images to score, probability, p-value, patches and map."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from importlib import import_module

import numpy as np
import torch
from torch import Tensor, nn

from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.export.calibration import Calibrated, calibration_inputs, pixel_inputs
from robustad.export.conformal import held_out_scores, p_value
from robustad.ops.reference.topk_mean import resolve_k, topk_mean_torch
from robustad.runtime._metadata import CONFORMAL

# Methods whose patch scores are written otherwise for export, and where: a module class that is
# built from the detector and maps images to patch scores. All others are traced as they are.
PATCH_GRAPHS = {
    "anomaly_dino": ("robustad.export.anomaly_dino", "AnomalyDINOGraph"),
    "bank_ensemble": ("robustad.export.bank_ensemble", "BankEnsembleGraph"),
    "smoothed": ("robustad.export.smoothed", "refuse"),
}
# Patches an image, up to which the fraction of the top-k mean is checked.
MAX_PATCHES = 2**20


class DetectorGraph(nn.Module):
    """A detector as one module, in operations that ONNX knows.

    Parameters
    ----------
    detector : Detector
        Fitted, in evaluation mode, on the CPU.

    Attributes
    ----------
    defaults : dict of str to array, float32
        Names and defaults of the inputs behind the image: the numbers of the calibration, see
        `robustad.export.calibration`, and the scores that p-values are counted among.
    has_pixels : bool
        Whether there is a map of probabilities.

    Raises
    ------
    InputError
        If its calibrator is of a method that cannot be exported.
    NotFittedError
        If it is not fitted.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        # A tuple hides the detector from torch: its tensors would be exported a second time.
        self._detector = (detector,)
        self.patches = patch_graph(detector)
        own, pixel = calibration_inputs(detector), pixel_inputs(detector)
        self.defaults = {**own, **pixel, CONFORMAL: held_out_scores(detector)}
        self._own = len(own)
        self.has_pixels = bool(pixel)
        self._calibrated = Calibrated(detector)
        self._aggregate: Callable[[Tensor], Tensor] = detector.aggregate
        if type(detector).aggregate is Detector.aggregate:
            self._aggregate = TopMean(detector.top_fraction)

    def forward(self, image: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
        """All outputs of images (B, 3, H, W) under a calibration and held-out scores.

        Parameters
        ----------
        image : Tensor, (B, 3, H, W)
            As a detector takes them.
        numbers : Tensor
            What the attribute `defaults` names, in that order.

        Returns
        -------
        score : Tensor, (B,)
            Image scores.
        probability, entropy : Tensor, (B,)
            NaN where the calibration is NaN.
        patch_scores : Tensor, (B, N)
            Row by row.
        anomaly_map : Tensor, (B, H, W)
            Smoothed.
        p_value : Tensor, (B,)
            NaN without held-out scores.
        probability_map : Tensor, (B, H, W)
            Only with a pixel calibrator.
        """
        patch_scores = self.patches(image)
        score = self._aggregate(patch_scores)
        probability, entropy = self._calibrated(score, *numbers[: self._own])
        size = (image.shape[2], image.shape[3])
        anomaly_map = self._detector[0].anomaly_map(patch_scores, size)
        *pixel, held_out = numbers[self._own :]
        p_values = p_value(score, held_out)
        outputs = score, probability, entropy, patch_scores, anomaly_map, p_values
        if not self.has_pixels:
            return outputs
        slope, intercept = pixel
        return *outputs, torch.sigmoid(slope * anomaly_map + intercept)


class TopMean(nn.Module):
    """`ops.topk_mean` for a number of patches that is known only when the graph runs.

    Parameters
    ----------
    top_fraction : int or float
        See `Detector`.

    """

    def __init__(self, top_fraction: int | float) -> None:
        super().__init__()
        self.top_fraction = top_fraction

    def forward(self, scores: Tensor) -> Tensor:
        """Image scores (B,) of patch scores (B, N).

        Raises
        ------
        InputError
            If N is free and no ratio of integers gives the same counts as the fraction, or N is
            fixed and less than the number.
        """
        count = scores.shape[1]
        if type(count) is not int:  # an axis left free
            return self._of_any(scores, count)
        return topk_mean_torch(scores, resolve_k(self.top_fraction, count))

    def _of_any(self, scores: Tensor, count: int) -> Tensor:
        descending = scores.sort(dim=1, descending=True).values
        rank = torch.arange(count, device=scores.device)
        if isinstance(self.top_fraction, float):
            p, q = exact_ratio(self.top_fraction).as_integer_ratio()
            # rank < floor(count * p / q), in integers; the largest always counts
            taken = ((rank + 1) * q <= count * p) | (rank == 0)
        else:
            taken = rank < self.top_fraction
        kept = torch.where(taken, descending, torch.zeros_like(descending))
        return kept.sum(dim=1) / taken.sum()


def exact_ratio(fraction: float) -> Fraction:
    """Find integers p / q with `floor(n * p / q)` equal to `resolve_k(fraction, n)`.

    Floating-point products would round differently in a graph, and select another count.

    Raises
    ------
    InputError
        If the fraction is out of range or there is no such ratio.

    Examples
    --------
    >>> exact_ratio(0.01)
    Fraction(1, 100)
    """
    resolve_k(fraction, 1)
    ratio = Fraction(fraction).limit_denominator(10**9)
    n = np.arange(1, MAX_PATCHES)
    if (np.floor(fraction * n + 1e-9) != n * ratio.numerator // ratio.denominator).any():
        raise InputError(
            f"top_fraction: {fraction} cannot be exported with dynamic sizes; round it to fewer "
            "digits or export with dynamic_size=False"
        )
    return ratio


def patch_graph(detector: Detector) -> nn.Module:
    """Build the module that computes a detector's patch scores in exportable operations."""
    if detector.method not in PATCH_GRAPHS:
        return TracedPatches(detector)
    module, name = PATCH_GRAPHS[detector.method]
    kind: Callable[[Detector], nn.Module] = getattr(import_module(module), name)
    return kind(detector)


class TracedPatches(nn.Module):
    """`patch_scores` of a detector as it is, for methods that need nothing else to be exported."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> Tensor:
        """Patch scores (B, N) of images (B, 3, H, W)."""
        return self.detector.patch_scores(image)
