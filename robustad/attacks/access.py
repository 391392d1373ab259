"""Anything that scores images, as something that can be attacked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustad.calibration import Calibrator, calibrator_from_dict
from robustad.detectors.base import PatchScorer
from robustad.errors import InputError, StateError
from robustad.ops import topk_mean

if TYPE_CHECKING:
    from robustad.conformal import ConformalScores
    from robustad.runtime import OnnxDetector
    from robustad.verdict import Policy

# What an attacker can see: gradients, scores, or only on which side of the threshold an image is.
Access: TypeAlias = Literal["white", "score", "decision"]
Target: TypeAlias = "PatchScorer | OnnxDetector | str | Path | Callable[[Tensor], Any]"

# Largest difference between a file's image scores and those made of its patch scores.
AGGREGATE_TOLERANCE = 1e-4


def as_scorer(target: Target) -> PatchScorer:
    """Make anything that scores images a `PatchScorer`.

    Parameters
    ----------
    target : PatchScorer, OnnxDetector, path or callable
        A detector (returned as it is), an exported detector or the path of its `.onnx` file, or
        any callable from images (B, 3, H, W), float32 in [0, 1], to patch scores (B, N), or to
        image scores (B,) if it has no patches. What the callable gives may be a tensor, an array
        or nested lists; if it is a tensor with a gradient, white-box attacks can use it.

    Returns
    -------
    PatchScorer
        Ready for `attack`.

    Raises
    ------
    InputError
        If the target is none of these, or there is no such file.
    StateError
        If the file was not exported by robustad.

    Examples
    --------
    >>> import torch
    >>> from robustad import attack
    >>> x = torch.full((1, 3, 8, 8), 0.5)
    >>> dark = as_scorer(lambda x: 1 - x.numpy().mean(axis=(1, 2, 3)))
    >>> dark.patch_scores(x).shape, find_access(dark, x)
    (torch.Size([1, 1]), 'score')
    """
    from robustad.runtime import OnnxDetector, load

    if isinstance(target, str | Path):
        if Path(target).suffix != ".onnx":
            raise InputError(
                f"target: expected the path of an .onnx file, got {str(target)!r}; load a saved "
                "detector with robustad.load first"
            )
        return OnnxScorer(load(target))
    if isinstance(target, OnnxDetector):
        return OnnxScorer(target)
    if isinstance(target, PatchScorer):
        return target
    if callable(target):
        return CallableScorer(target)
    raise InputError(
        "target: expected a detector with patch_scores and aggregate, an exported detector, the "
        f"path of an .onnx file, or a callable from images to scores, got {type(target).__name__}"
    )


def find_access(scorer: PatchScorer, x: Tensor) -> Access:
    """Find out by one forward pass (and one backward pass) what an attacker can see.

    Parameters
    ----------
    scorer : PatchScorer
        As of `as_scorer`.
    x : Tensor, (B, 3, H, W), float32 in [0, 1]
        Images to try it on.

    Returns
    -------
    {"white", "score", "decision"}
        `white` if image scores carry a gradient to the images, `decision` if they are booleans,
        else `score`. That the gradient is of any use is not said.
    """
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        image = scorer.aggregate(scorer.patch_scores(leaf))
        if image.requires_grad:
            (gradient,) = torch.autograd.grad(image.sum(), leaf, allow_unused=True)
            if gradient is not None:
                return "white"
    return "decision" if getattr(scorer, "decides", False) else "score"


class OnnxScorer:
    """An exported detector as a black box of scores.

    A file that takes uint8 images is given prepared images rounded to them: the rounding is part of
    what is attacked. It moves two images apart by no more than they are where that is a whole
    number of steps of 1 / 255.

    Parameters
    ----------
    detector : OnnxDetector
        As of `robustad.runtime.load`.

    Attributes
    ----------
    calibrator : Calibrator or None
        That of the file, or what `detector.calibration` overrides it with.
    conformal : ConformalScores or None
        That of the file, or what replaces it.
    policy : Policy
        That of the file.
    """

    def __init__(self, detector: OnnxDetector) -> None:
        self.detector = detector
        self._checked = False

    @property
    def calibrator(self) -> Calibrator | None:
        """What makes probabilities of image scores."""
        override, stored = self.detector.calibration, self.detector.metadata["calibration"]
        if override is not None:
            if override["method"] != "raw":
                # on how many images bare numbers were fitted is not known
                override = {"n_normal": 1, "n_anomalous": 1, "prevalence": 0.5} | override
            return calibrator_from_dict(override)
        return None if stored is None else calibrator_from_dict(stored)

    @property
    def conformal(self) -> ConformalScores | None:
        """What makes p-values of image scores."""
        return self.detector.conformal

    @property
    def policy(self) -> Policy:
        """What makes verdicts of probabilities and p-values."""
        return self.detector.policy

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch grid of prepared images."""
        return self.detector.patch_grid(height, width)

    def patch_scores(self, x: Tensor) -> Tensor:
        """Patch scores (B, N), float32, of images (B, 3, H, W); without a gradient.

        Raises
        ------
        InputError
            If the file resizes images to another size than theirs.
        StateError
            If the file's image scores are not the mean of its largest patch scores.
        """
        pixels = x.detach().to("cpu", torch.float32).numpy()
        if self.detector.input_form == "uint8_nhwc":
            pixels = self._bytes(pixels)
        wanted = ("patch_scores",) if self._checked else ("patch_scores", "score")
        out = self.detector.run(pixels, outputs=wanted)
        patch = torch.from_numpy(out["patch_scores"]).to(x.device)
        if not self._checked:
            apart = float(np.abs(self.aggregate(patch).cpu().numpy() - out["score"]).max())
            if not apart <= AGGREGATE_TOLERANCE:
                raise StateError(
                    f"detector: its image scores differ by {apart:g} from the mean of its largest "
                    "patch scores; attack the image scores alone, with a callable that returns "
                    "detector.score(x)"
                )
            self._checked = True
        return patch

    def _bytes(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Whole images (B, H, W, 3), uint8, that the file does not resize, but crops to these."""
        size, low, high = pixels.shape[2:], pixels.min(initial=1.0), pixels.max(initial=0.0)
        if not (low >= 0.0 and high <= 1.0):  # also refuses NaN
            raise InputError(f"x: expected values in [0, 1], got {low:g}..{high:g}")
        geometry = self.detector.geometry
        whole = max(size[0], geometry.size), max(size[1], geometry.size)
        top, left, *cropped = geometry.crop(*whole)
        if geometry.resized(*whole) != whole or tuple(cropped) != size:
            made = geometry.crop(*geometry.resized(*size))[2:]
            raise InputError(
                f"x: expected images prepared for the file, which resizes {size} pixels to {made}"
            )
        margins = (top, whole[0] - size[0] - top), (left, whole[1] - size[1] - left)
        pixels = np.pad(pixels, ((0, 0), (0, 0), *margins), mode="edge")
        return np.round(pixels * 255.0).astype(np.uint8).transpose(0, 2, 3, 1)

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Image scores (B,): the mean of the largest patch scores, as many as the file takes."""
        return topk_mean(patch_scores, self.detector.metadata["top_fraction"])


class CallableScorer:
    """A function from images to scores.

    Parameters
    ----------
    function : callable
        From images (B, 3, H, W) to patch scores (B, N), or image scores (B,). Booleans are
        decisions, True for anomalous.

    Attributes
    ----------
    function : callable
        As given.
    decides : bool
        Whether the last call gave booleans.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function
        self.decides = False

    @property
    def training(self) -> bool:
        """Whether the function is a module in training mode."""
        return bool(getattr(self.function, "training", False))

    def parameters(self) -> list[Tensor]:
        """Parameters of the function if it is a module."""
        found = getattr(self.function, "parameters", None)
        return list(found()) if isinstance(self.function, torch.nn.Module) and found else []

    def patch_scores(self, x: Tensor) -> Tensor:
        """Patch scores (B, N) of images (B, 3, H, W); image scores become (B, 1).

        Raises
        ------
        InputError
            If the function gives anything else, or a score is NaN.
        """
        try:
            given = self.function(x)
        except RuntimeError as error:
            # numpy takes no tensor that wants a gradient; such a function has none to give
            if not x.requires_grad or "requires grad" not in str(error):
                raise
            given = self.function(x.detach())
        try:
            scores = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"callable: expected scores that make an array, got {type(given).__name__}"
            ) from error
        if scores.ndim not in (1, 2) or scores.shape[0] != x.shape[0] or scores.numel() == 0:
            raise InputError(
                f"callable: expected patch scores ({x.shape[0]}, N) or image scores "
                f"({x.shape[0]},), got {tuple(scores.shape)}"
            )
        self.decides = scores.dtype == torch.bool
        if not scores.is_floating_point():
            scores = scores.to(torch.float32)
        if bool(scores.isnan().any()):
            raise InputError("callable: expected scores, got NaN")
        return scores.to(x.device).reshape(x.shape[0], -1)

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Image scores (B,): the largest patch score."""
        return patch_scores.amax(dim=1)
