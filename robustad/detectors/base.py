"""The small interface that attacks, calibration, evaluation and export consume."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor, nn

from robustad._batching import runs
from robustad.calibration import ScoreCalibrator
from robustad.detectors.judgement import Judgement
from robustad.errors import InputError
from robustad.geometry import Geometry
from robustad.images import iter_images
from robustad.ops import topk_mean
from robustad.prediction import Prediction
from robustad.verdict import binary_entropy

if TYPE_CHECKING:
    from robustad.images import Images


@runtime_checkable
class PatchScorer(Protocol):
    """All that an attack needs: patch scores, and the image score made of them."""

    def patch_scores(self, x: Tensor) -> Tensor:
        """Scores (B, N) of images (B, 3, H, W) in [0, 1]; higher is more anomalous."""
        ...

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Image scores (B,) from patch scores (B, N)."""
        ...


class Detector(Judgement, nn.Module, ABC):
    """A visual anomaly detector that scores patches.

    Parameters
    ----------
    geometry : Geometry
        How images are resized and cropped before they are scored.
    top_fraction : float in (0, 1] or int >= 1
        The image score is the mean of this share (or number) of the largest patch scores.
    map_sigma : float >= 0
        Standard deviation in pixels of the Gaussian that smooths the anomaly map; 0 for none.
    map_radius : int >= 1 or None, default None
        Where that Gaussian is cut, in pixels; None for 4 `map_sigma`.

    Attributes
    ----------
    calibrator, pixel_calibrator, conformal, pixel_threshold, policy
        What gives the scores a meaning; see `robustad.detectors.judgement.Judgement`.

    Notes
    -----
    A subclass implements `patch_scores`, `patch_grid`, `config` and `from_config`; everything else
    follows.
    """

    method: ClassVar[str]
    # Whether a patch score above 0 already says "rather anomalous", as a classifier's logit does.
    scores_are_logits: ClassVar[bool] = False
    # Ends of the range that scores can have, where there are any; beta calibration needs them.
    score_range: ClassVar[tuple[float, float] | None] = None

    def __init__(
        self,
        *,
        geometry: Geometry,
        top_fraction: float | int,
        map_sigma: float,
        map_radius: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= map_sigma < float("inf"):
            raise InputError(f"map_sigma: expected >= 0 pixels, got {map_sigma}")
        if map_radius is not None and map_radius < 1:
            raise InputError(f"map_radius: expected >= 1 pixel or None, got {map_radius}")
        if top_fraction <= 0 or (isinstance(top_fraction, float) and top_fraction > 1):
            raise InputError(
                f"top_fraction: expected a share in (0, 1] or a count >= 1, got {top_fraction}"
            )
        self.geometry = geometry
        self.top_fraction = top_fraction
        self.map_sigma = map_sigma
        self.map_radius = map_radius
        self.forget_calibration()

    @abstractmethod
    def patch_scores(self, x: Tensor) -> Tensor:
        """Score every patch.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W), floating point in [0, 1]
            RGB at a size `prepare` gives; normalisation happens inside.

        Returns
        -------
        Tensor, (B, N), float32
            Patch scores, row by row; higher is more anomalous. Differentiable with respect to `x`.
        """

    @abstractmethod
    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch grid of a prepared image; their product is N."""

    @abstractmethod
    def config(self) -> BaseModel:
        """Everything but tensors that `from_config` needs."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, object], tensors: dict[str, Tensor]) -> Self:
        """Rebuild a saved detector from its JSON configuration and tensors."""

    @abstractmethod
    def saved_tensors(self) -> dict[str, Tensor]:
        """The tensors that `from_config` needs, by name."""

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Image scores: the mean of the largest patch scores.

        Parameters
        ----------
        patch_scores : Tensor, (B, N), floating point
            Scores of `patch_scores`.

        Returns
        -------
        Tensor, (B,)
            Higher is more anomalous.
        """
        return topk_mean(patch_scores, self.top_fraction)

    def forward(self, x: Tensor) -> Tensor:
        """Image scores (B,) of prepared images (B, 3, H, W); differentiable."""
        return self.aggregate(self.patch_scores(x))

    def anomaly_map(self, patch_scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Smooth map at image size.

        Parameters
        ----------
        patch_scores : Tensor, (B, N), floating point
            Scores of `patch_scores`.
        size : (int, int)
            Height and width of the prepared images in pixels.

        Returns
        -------
        Tensor, (B, H, W)
            Bilinear upsampling, then a Gaussian of `map_sigma` pixels, cut at `map_radius` (edges
            repeated).
        """
        grid = self.patch_grid(*size)
        coarse = patch_scores.reshape(patch_scores.shape[0], 1, *grid)
        maps = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
        return gaussian_blur(maps, self.map_sigma, self.map_radius).squeeze(1)

    def probability_map(self, anomaly_map: Tensor) -> Tensor:
        """Probability of each pixel to be anomalous.

        Parameters
        ----------
        anomaly_map : Tensor, (B, H, W), floating point
            As of `anomaly_map`.

        Returns
        -------
        Tensor, (B, H, W), in [0, 1]
            Differentiable; NaN without a pixel calibrator.
        """
        pixel = self.pixel_calibrator
        if pixel is None:
            return torch.full_like(anomaly_map, float("nan"))
        return torch.sigmoid(pixel.slope * anomaly_map + pixel.intercept)

    def prepare(self, images: Images) -> Tensor:
        """Decode, resize and crop images into one batch.

        Parameters
        ----------
        images : path, folder, PIL image, array, tensor, or an iterable of these
            See `robustad.images.iter_images`.

        Returns
        -------
        Tensor, (B, 3, H, W), float32 in [0, 1]
            On the detector's device.

        Raises
        ------
        InputError
            If an image cannot be read, or the prepared images differ in size.
        """
        prepared: list[npt.NDArray[np.float32]] = []
        names: list[str] = []
        for image in iter_images(images):
            prepared.append(self.geometry.apply(image.pixels))
            names.append(image.name)
            if prepared[-1].shape != prepared[0].shape:
                raise InputError(
                    f"{image.name}: prepared to {prepared[-1].shape[:2]} pixels, but {names[0]} to "
                    f"{prepared[0].shape[:2]}; a batch needs one size (use square=True, or predict)"
                )
        return self.stack(prepared)

    @torch.no_grad()
    def predict(self, images: Images, *, batch_size: int = 8) -> Prediction:
        """Score images of any sizes and say what to make of them.

        Parameters
        ----------
        images : path, folder, PIL image, array, tensor, or an iterable of these
            See `robustad.images.iter_images`.
        batch_size : int >= 1, default 8
            Images of equal prepared size scored at once.

        Returns
        -------
        Prediction
            With one entry an image, in the order given.

        Raises
        ------
        InputError
            If an image cannot be read or there is none.
        """
        if batch_size < 1:
            raise InputError(f"batch_size: expected >= 1, got {batch_size}")
        names: list[str] = []
        scores: list[float] = []
        grids: list[npt.NDArray[np.float32]] = []
        maps: list[npt.NDArray[np.float32]] = []
        for batch in runs(self._prepared(images), batch_size, key=lambda one: one[2].shape):
            x = self.stack([prepared for _, _, prepared in batch])
            size = (x.shape[2], x.shape[3])
            patch_scores = self.patch_scores(x)
            scores += self.aggregate(patch_scores).tolist()
            smooth = self.anomaly_map(patch_scores, size).cpu().numpy()
            coarse = patch_scores.reshape(-1, *self.patch_grid(*size)).cpu().numpy()
            for i, (name, (height, width), _) in enumerate(batch):
                names.append(name)
                grids.append(coarse[i])
                maps.append(self.geometry.restore(smooth[i], height, width))
        if not names:
            raise InputError("images: expected at least one image, got none")
        score = np.asarray(scores, np.float32)
        known = self.evidence(score)
        pixel = self.pixel_calibrator
        return Prediction(
            names=names,
            score=score,
            probability=known.probability,
            entropy=binary_entropy(known.probability),
            p_value=known.p_value,
            verdict=self.policy.decide(known),
            patch_scores=grids,
            anomaly_map=maps,
            pixel_threshold=None if self.pixel_threshold is None else self.pixel_threshold.value,
            probability_map=None if pixel is None else [pixel.predict_proba(one) for one in maps],
            probability_interval=self._interval(score),
        )

    def _interval(
        self, score: npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
        """Interval of the probability, where the calibrator has a band."""
        calibrator = self.calibrator
        if not isinstance(calibrator, ScoreCalibrator) or calibrator.band is None:
            return None
        return calibrator.predict_interval(np.asarray(score, np.float64))

    def save(self, path: str | Path) -> None:
        """Save everything needed to predict again to one safetensors file; never pickled.

        The file's header carries a JSON document (configuration, calibration, policy). It is
        written aside and renamed, so that a reader never sees half of it.
        """
        from robustad.detectors.state import save

        save(self, path)

    @property
    def device(self) -> torch.device:
        """Where the detector's tensors lie."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    def stack(self, prepared: Sequence[npt.NDArray[np.float32]]) -> Tensor:
        """Make one batch (B, 3, H, W) on the detector's device of prepared images (H, W, 3)."""
        if not prepared:
            raise InputError("images: expected at least one image, got none")
        stacked = np.ascontiguousarray(np.stack(prepared).transpose(0, 3, 1, 2))
        return torch.from_numpy(stacked).to(self.device)

    def _prepared(
        self, images: Images
    ) -> Iterator[tuple[str, tuple[int, int], npt.NDArray[np.float32]]]:
        """Name, original size and prepared pixels of each image."""
        for image in iter_images(images):
            height, width = image.pixels.shape[:2]
            yield image.name, (height, width), self.geometry.apply(image.pixels)


def gaussian_blur(maps: Tensor, sigma: float, radius: int | None = None) -> Tensor:
    """Blur maps (B, 1, H, W) by a Gaussian of `sigma` pixels, cut at `radius`, edges repeated.

    The radius is 4 sigma by default; what is left of the Gaussian sums to 1.
    """
    if sigma == 0:
        return maps
    if radius is None:
        radius = int(4 * sigma + 0.5)
    axis = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (axis / sigma) ** 2)
    kernel = kernel / kernel.sum()
    # One pass at a time: replicate padding of both edges at once would cost a larger image.
    maps = F.conv2d(F.pad(maps, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(maps, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
