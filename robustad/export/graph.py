"""What is exported: from prepared images to score, probability, p-value, patches and map."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from importlib import import_module

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.export.conformal import held_out_scores, p_value
from robustad.ops.reference.topk_mean import resolve_k, topk_mean_torch

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
        self.slope, self.intercept = calibration_constants(detector)
        self.held_out = held_out_scores(detector)
        self._raw = getattr(detector.calibrator, "method", None) == "raw"
        self._aggregate: Callable[[Tensor], Tensor] = detector.aggregate
        if type(detector).aggregate is Detector.aggregate:
            self._aggregate = TopMean(detector.top_fraction)

    def forward(
        self, image: Tensor, slope: Tensor, intercept: Tensor, held_out: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All outputs of images (B, 3, H, W) under a calibration given by two scalars.

        The p-values are those among the scores `held_out` (n,).

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
        """
        patch_scores = self.patches(image)
        score = self._aggregate(patch_scores)
        logit = slope * score + intercept
        probability, complement = torch.sigmoid(logit), torch.sigmoid(-logit)
        # -log sigmoid(z) = softplus(-z): no cancellation near probability 1
        entropy = probability * F.softplus(-logit) + complement * F.softplus(logit)
        if self._raw:
            raw = score.clamp(0.0, 1.0)
            plain = slope.isnan()
            probability = torch.where(plain, raw, probability)
            raw_entropy = torch.special.xlogy(raw, raw) + torch.special.xlogy(1 - raw, 1 - raw)
            entropy = torch.where(plain, -raw_entropy, entropy)
        size = (image.shape[2], image.shape[3])
        return (
            score,
            probability,
            entropy,
            patch_scores,
            self._detector[0].anomaly_map(patch_scores, size),
            p_value(score, held_out),
        )


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


def calibration_constants(detector: Detector) -> tuple[float, float]:
    """Slope and intercept of a detector's calibration; NaN without one, and for the raw score.

    Raises
    ------
    InputError
        If the calibrator's method cannot be exported, or float32 cannot hold its numbers.
    """
    calibrator = detector.calibrator
    method = getattr(calibrator, "method", None)
    if calibrator is None or method == "raw":
        return float("nan"), float("nan")
    if method != "platt":
        raise InputError(
            f"calibrator: expected platt, raw or none to export, got {method or calibrator!r}"
        )
    state = calibrator.to_dict()
    pair = float(state["slope"]), float(state["intercept"])
    if max(abs(value) for value in pair) > float(np.finfo(np.float32).max):
        raise InputError(f"calibrator: slope and intercept {pair} do not fit float32")
    return pair
