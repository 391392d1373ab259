"""AnomalyDINO: a training-free few-shot detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor

from robustad.backbones import DEFAULT, Backbone, create
from robustad.detectors.anomaly_dino_config import AnomalyDINOConfig, Reduce
from robustad.detectors.anomaly_dino_presets import Preprocessing, preprocessing_for
from robustad.detectors.bank import build_bank, checked_bank, rotations
from robustad.detectors.base import Detector
from robustad.detectors.foreground import Unit, foreground_mask
from robustad.detectors.packed import PackedOnce
from robustad.detectors.pruning import Outlyingness
from robustad.detectors.whitening import Whitening
from robustad.errors import InputError, NotFittedError
from robustad.geometry import Geometry
from robustad.images import iter_images
from robustad.ops import cosine_nn
from robustad.progress import track

if TYPE_CHECKING:
    from robustad.images import Images


class AnomalyDINO(Detector):
    """Cosine distance of each patch to its nearest neighbour among a few normal images' patches.

    Parameters
    ----------
    backbone : str or Backbone, default "vit_small_patch14_dinov2.lvd142m"
        A name for `robustad.backbones.create`, or a backbone; `filters` needs no weights.
    weights : str, Path or None, default None
        See `robustad.backbones.create`.
    image_size : int, default 448
        Length of the smaller edge in pixels; rounded down to a whole multiple of patches.
    square : bool, default False
        Stretch to a square instead of keeping the aspect ratio.
    rotations : int, default 1
        Rotated copies of each reference image in the bank; 8 is AnomalyDINO's augmentation.
    mask : bool, default False
        Score only patches of the object in the foreground; all others get 0.
    mask_threshold : float, optional
        See `foreground_mask`; by default 10 for DINOv2 backbones (absolute) and 0.5 standard
        deviations for others.
    mask_unit : {"absolute", "std"}, optional
        Unit of `mask_threshold`; "absolute" by default where a threshold is given.
    whiten : bool, optional
        Whiten the features on the bank before comparing them; by default only for `filters`.
    k : int >= 1, default 1
        Neighbours that a patch is compared with.
    reduce : {"mean", "max"}, default "mean"
        Whether the patch score is the mean of the k distances, or the largest (the distance to the
        k-th nearest).
    top_fraction : float or int, default 0.01
        Share (or number) of the largest patch scores whose mean is the image score.
    map_sigma : float, default 4
        Smoothing of the anomaly map in pixels.
    coreset : int, float or None, default None
        Reduce the bank to this many vectors, or this share, by greedy k-centre selection.
    prune : float in [0, 1), default 0
        Share of the bank's vectors to drop as outliers, before the coreset is chosen: it would
        choose them first.
    prune_by : {"distance", "density"}, default "distance"
        What makes an outlier; see `robustad.detectors.pruning.inliers`.

    Raises
    ------
    InputError
        If an option is out of range.
    WeightsError
        If the backbone's weights cannot be had.

    Notes
    -----
    Damm et al., "AnomalyDINO", WACV 2025; section 3.1 of the few-shot robustness study. The
    distance is differentiable almost everywhere, through the current nearest neighbour.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(0, 50, (2, 64, 64, 3), dtype=np.uint8)
    >>> detector = AnomalyDINO("filters", image_size=64).fit(normal)
    >>> defect = normal[:1].copy()
    >>> defect[:, 20:40, 20:40] = 255
    >>> bool(detector.predict(defect).score[0] > detector.predict(normal).score.max())
    True
    """

    method: ClassVar[str] = "anomaly_dino"
    score_range: ClassVar[tuple[float, float] | None] = (0.0, 2.0)  # of a cosine distance
    bank: Tensor
    centre: Tensor
    whitening: Tensor

    def __init__(
        self,
        backbone: str | Backbone = DEFAULT,
        weights: str | Path | None = None,
        *,
        image_size: int = 448,
        square: bool = False,
        rotations: int = 1,
        mask: bool = False,
        mask_threshold: float | None = None,
        mask_unit: Unit | None = None,
        whiten: bool | None = None,
        k: int = 1,
        top_fraction: float | int = 0.01,
        map_sigma: float = 4.0,
        coreset: int | float | None = None,
        reduce: Reduce = "mean",
        prune: float = 0.0,
        prune_by: Outlyingness = "distance",
    ) -> None:
        built = create(backbone, weights) if isinstance(backbone, str) else backbone
        size = image_size - image_size % built.multiple
        super().__init__(
            geometry=Geometry(
                size=max(size, built.multiple), multiple=built.multiple, square=square
            ),
            top_fraction=top_fraction,
            map_sigma=map_sigma,
        )
        if image_size < built.multiple:
            raise InputError(
                f"image_size: expected at least one patch of {built.multiple} pixels, "
                f"got {image_size}"
            )
        for name, value in (("k", k), ("rotations", rotations)):
            if value < 1:
                raise InputError(f"{name}: expected >= 1, got {value}")
        self.backbone = built.requires_grad_(False).eval()
        is_dino = "dinov2" in built.config.name
        if mask_unit is None:
            mask_unit = "absolute" if is_dino or mask_threshold is not None else "std"
        if mask_threshold is None:
            mask_threshold = 10.0 if is_dino else 0.5
        try:
            self._config = AnomalyDINOConfig(
                backbone=built.config,
                image_size=image_size,
                square=square,
                rotations=rotations,
                mask=mask,
                mask_threshold=mask_threshold,
                mask_unit=mask_unit,
                whiten=built.config.name == "filters" if whiten is None else whiten,
                k=k,
                top_fraction=top_fraction,
                map_sigma=map_sigma,
                coreset=coreset,
                reduce=reduce,
                prune=prune,
                prune_by=prune_by,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}"
            ) from error
        self._packed = PackedOnce()
        self.register_buffer("bank", torch.empty(0, built.dim + self._config.whiten))
        self.register_buffer("centre", torch.zeros(built.dim))
        self.register_buffer("whitening", torch.eye(built.dim))
        self.eval()

    @classmethod
    def for_category(
        cls,
        category: str,
        *,
        dataset: str = "mvtec",
        preprocessing: Preprocessing = "agnostic",
        **options: Any,
    ) -> Self:
        """Build a detector with the rotations and masking published for a benchmark category.

        Parameters
        ----------
        category : str
            For instance `screw`.
        dataset : str, default "mvtec"
            As for `robustad.data.load`.
        preprocessing : {"agnostic", "informed", "masking_only", "none"}, default "agnostic"
            See `preprocessing_for`.
        **options
            Further options of `AnomalyDINO`; `rotations` and `mask` override the preset.

        Returns
        -------
        AnomalyDINO
            Not yet fitted.
        """
        rotate, mask = preprocessing_for(dataset, category, preprocessing)
        return cls(**{"rotations": 8 if rotate else 1, "mask": mask, **options})

    @torch.inference_mode(False)  # a bank of inference tensors could not be attacked later
    @torch.no_grad()
    def fit(self, images: Images, *, progress: bool = False) -> Self:
        """Store the patches of a few normal images.

        Parameters
        ----------
        images : path, folder, PIL image, array, tensor, or an iterable of these
            Normal images; a folder's image files are taken as they lie.
        progress : bool, default False
            Show a progress bar.

        Returns
        -------
        AnomalyDINO
            Itself. An earlier bank, calibrators, held-out scores and policy are dropped: they
            belong together.

        Raises
        ------
        InputError
            If there is no image, one cannot be read, or the bank has fewer than `k` vectors.
        """
        features = [
            self.reference_features(image.pixels)
            for image in track(iter_images(images), "fit", enabled=progress)
        ]
        self.remember(features, progress=progress)
        return self

    @torch.no_grad()
    def reference_features(self, pixels: npt.NDArray[np.float32]) -> Tensor:
        """Backbone features (R, D) that a normal image (H, W, 3), as it is, adds to the bank."""
        turned = rotations(self.stack([self.geometry.apply(pixels)]), self._config.rotations)
        parts = [
            self.backbone(turned[start : start + 4]).flatten(0, 1).float()
            for start in range(0, turned.shape[0], 4)
        ]
        return torch.cat(parts)

    @torch.inference_mode(False)
    @torch.no_grad()
    def remember(self, features: Sequence[Tensor], *, progress: bool = False) -> None:
        """Build the bank of `reference_features`, one tensor an image; see `fit`.

        Raises
        ------
        InputError
            If there is none, or the bank has fewer than `k` vectors.
        """
        options = self._config
        bank, whitening = build_bank(
            features,
            whiten=options.whiten,
            prune=options.prune,
            prune_by=options.prune_by,
            coreset_size=options.coreset,
            progress=progress,
        )
        if bank.shape[0] < options.k:
            raise InputError(
                f"k: expected at most the bank's {bank.shape[0]} vectors, got {self.k}"
            )
        self.bank = bank  # only now: a fit that fails leaves the detector as it was
        if whitening is not None:
            self.centre, self.whitening = whitening.centre, whitening.matrix
        self.forget_calibration()

    @property
    def k(self) -> int:
        """Neighbours that a patch is compared with."""
        return self._config.k

    @property
    def mask(self) -> bool:
        """Whether patches outside the foreground are scored 0."""
        return self._config.mask

    def patch_features(self, x: Tensor) -> Tensor:
        """Features (B, N, D) that are compared with the bank; differentiable.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W), floating point in [0, 1]
            Prepared images.
        """
        return self._transform(self.backbone(x))

    def patch_scores(self, x: Tensor) -> Tensor:
        """Cosine distance to the nearest bank vectors; see `Detector.patch_scores`.

        Returns
        -------
        Tensor, (B, N), float32 in [0, 2]
            0 outside the foreground if `mask` is set; the mask is a constant of the backward pass.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        distances, mask = self.neighbour_distances(x)
        scores = self.reduced(distances)
        return scores if mask is None else scores * mask

    def neighbour_distances(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cosine distances to the k nearest bank vectors, and the foreground.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W), floating point in [0, 1]
            Prepared images.

        Returns
        -------
        distances : Tensor, (B, N, k), float32 in [0, 2]
            Ascending; differentiable.
        mask : Tensor, (B, N), bool, or None
            The foreground; None unless `mask` is set.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        """
        if self.bank.shape[0] == 0:
            raise NotFittedError("this detector has no memory bank yet: call fit(images) first")
        features, mask = self.compared(x)
        return self._distances(features), mask

    def token_scores(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Patch scores (B, N) of images `x` whose backbone features `tokens` are known."""
        scores = self.reduced(self._distances(self._transform(tokens)))
        return scores * self.foreground(tokens, x) if self._config.mask else scores

    def _distances(self, features: Tensor) -> Tensor:
        """Distances (B, N, k), ascending, of features (B, N, D) to the bank."""
        distances, _ = cosine_nn(features.flatten(0, 1), self._packed(self.bank), self._config.k)
        return distances.reshape(*features.shape[:2], -1)

    def compared(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, N, D) as `patch_features` gives them, and the foreground, in one pass."""
        tokens = self.backbone(x)
        mask = self.foreground(tokens, x) if self._config.mask else None
        return self._transform(tokens), mask

    def reduced(self, distances: Tensor) -> Tensor:
        """Patch scores (B, N), but for the foreground, of distances (B, N, k), ascending."""
        return distances.mean(dim=2) if self._config.reduce == "mean" else distances[..., -1]

    def foreground(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Foreground (B, N), bool, of images `x` with backbone `tokens`."""
        grid = self.patch_grid(x.shape[2], x.shape[3])
        return foreground_mask(
            tokens, grid, threshold=self._config.mask_threshold, unit=self._config.mask_unit
        )

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch grid; see `Detector.patch_grid`."""
        return self.backbone.grid(height, width)

    def config(self) -> AnomalyDINOConfig:
        """Options as they are saved."""
        return self._config

    def saved_tensors(self) -> dict[str, Tensor]:
        """Bank, whitening and the backbone's weights."""
        if self.bank.shape[0] == 0:
            raise NotFittedError("this detector has no memory bank to save: call fit(images) first")
        tensors = {"bank": self.bank}
        if self._config.whiten:
            tensors |= {"centre": self.centre, "whitening": self.whitening}
        if self.backbone.has_weights:
            state = self.backbone.state_dict(prefix="backbone.")
            tensors |= {name: value.clone() for name, value in state.items()}
        return tensors

    @classmethod
    def from_config(cls, config: dict[str, object], tensors: dict[str, Tensor]) -> Self:
        """Rebuild a saved detector; see `robustad.load`."""
        options = AnomalyDINOConfig.model_validate(config)
        name = options.backbone
        weights = None if name.name == "filters" else "random"
        layers = None if name.name == "filters" else name.layers
        backbone = create(name.name, weights, layers=layers, normalisation=name.normalisation)
        state = {
            key.removeprefix("backbone."): value
            for key, value in tensors.items()
            if key.startswith("backbone.")
        }
        try:
            backbone.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(f"backbone weights do not fit {name.name}: {error}") from error
        detector = cls(backbone, **options.model_dump(exclude={"backbone"}))
        checked = checked_bank(tensors, whiten=options.whiten, dim=backbone.dim, least=options.k)
        for key, value in checked.items():
            setattr(detector, key, value)
        return detector

    def _transform(self, tokens: Tensor) -> Tensor:
        if not self._config.whiten:
            return tokens
        return Whitening(self.centre, self.whitening)(tokens)
