"""A detector whose image score is the median over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from robustad.certificates.noise import Denoiser
from robustad.certificates.orders import Intervals, Sides, check_sigma, median_intervals
from robustad.certificates.scores import Noise, graded, plain
from robustad.detectors.base import Detector
from robustad.errors import InputError, StateError
from robustad.images import iter_images
from robustad.progress import track

if TYPE_CHECKING:
    from robustad.images import Images

PREFIX = "base."
# How far `aggregate` may be from moving with a shift of all patch scores.
SHIFT_TOLERANCE = 1e-4


class SmoothedConfig(BaseModel):
    """Options of `SmoothedDetector`, as saved; see there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    base_config: dict[str, Any]
    sigma: float = Field(gt=0, allow_inf_nan=False)
    draws: int = Field(ge=1)
    seed: int
    denoiser: str | None


class SmoothedDetector(Detector):
    """Median smoothing: the image score is the median over copies with Gaussian noise.

    Parameters
    ----------
    base : Detector
        What scores the noisy copies. It should know noise: a memory bank of clean images takes
        every noisy patch for an anomaly, so call `fit` of this class, or fit `base` on noisy
        images, or give a denoiser.
    sigma : float > 0, default 0.25
        Standard deviation of the noise in pixel range. Copies are clipped to [0, 1].
    draws : int >= 1, default 100
        Copies an image.
    seed : int, default 0
        Of the noise, together with each image's content: the same image always gets the same
        score, an image that was changed other noise.
    batch_size : int >= 1, default 64
        Copies scored at once; changes nothing else, and is not saved.
    denoiser : callable, optional
        From noisy images (K, 3, H, W), not clipped, to images of that shape, before they are
        scored; an `nn.Module` is moved along with the detector. Not saved with it.

    Attributes
    ----------
    base : Detector
        As given; what it makes of its own scores is not looked at.

    Raises
    ------
    InputError
        If an option is out of range, or `base` is smoothed already.
    StateError
        If the base's image score does not move along when all patch scores move by one number.

    Notes
    -----
    Chiang et al., NeurIPS 2020. The patch scores are the means over the copies, shifted by one
    number an image so that `aggregate` gives the median of the copies' image scores. The gradient
    of the image score is that of the mean over the copies (expectation over transformation), so
    that white-box attacks see through the noise.

    Examples
    --------
    >>> import numpy as np
    >>> from robustad import AnomalyDINO
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 150, (3, 32, 32, 3), dtype=np.uint8)
    >>> detector = SmoothedDetector(AnomalyDINO("filters", image_size=32), draws=20)
    >>> detector = detector.fit(normal)
    >>> found = detector.intervals(detector.prepare(normal[:1]), [0.1], n=200)
    >>> bool(found.lower[0, 0] < found.upper[0, 0])
    True
    """

    method: ClassVar[str] = "smoothed"

    def __init__(
        self,
        base: Detector,
        *,
        sigma: float = 0.25,
        draws: int = 100,
        seed: int = 0,
        batch_size: int = 64,
        denoiser: Denoiser | None = None,
    ) -> None:
        if isinstance(base, SmoothedDetector):
            raise InputError("base: expected a detector that is not smoothed, got a smoothed one")
        check_sigma(sigma)
        for name, value in (("draws", draws), ("batch_size", batch_size)):
            if value < 1:
                raise InputError(f"{name}: expected >= 1, got {value}")
        super().__init__(
            geometry=base.geometry,
            top_fraction=base.top_fraction,
            map_sigma=base.map_sigma,
            map_radius=base.map_radius,
        )
        self.scores_are_logits = base.scores_are_logits  # type: ignore[misc]
        self.score_range = base.score_range  # type: ignore[misc]
        self.base = base
        self.sigma, self.draws, self.seed, self.batch_size = sigma, draws, seed, batch_size
        self.denoiser = denoiser
        _check_shifts(base)
        self.eval()

    def fit(self, images: Images, *, copies: int = 1, progress: bool = False) -> Self:
        """Fit the base detector on noisy copies of normal images.

        Parameters
        ----------
        images : path, folder, PIL image, array, tensor, or an iterable of these
            Normal images.
        copies : int >= 1, default 1
            Of each image, each with its own noise (and denoised, if there is a denoiser).
        progress : bool, default False
            Show progress bars.

        Returns
        -------
        SmoothedDetector
            Itself. An earlier calibrator, held-out scores and policy are dropped.

        Raises
        ------
        InputError
            If there is no image, one cannot be read, or the base has no `fit`.
        """
        fit = getattr(self.base, "fit", None)
        if fit is None:
            raise InputError(f"base: {type(self.base).__name__} has no fit; train it before")
        if copies < 1:
            raise InputError(f"copies: expected >= 1, got {copies}")
        noisy: list[Any] = []
        for image in track(iter_images(images), "noise", enabled=progress):
            x = self.stack([self.geometry.apply(image.pixels)])
            # Not the noise that the same image is scored with.
            other = replace(self.noise, seed=self.seed + 1)
            for batch in other.copies(x, copies):
                noisy += [one.contiguous().numpy() for one in batch.permute(0, 2, 3, 1).cpu()]
        fit(noisy, progress=progress)
        self.forget_calibration()
        return self

    def patch_scores(self, x: Tensor) -> Tensor:
        """Mean patch scores of the noisy copies, shifted to the median; see the class.

        Returns
        -------
        Tensor, (B, N), float32
            `aggregate` makes the median image score of them. Differentiable if the base is.
        """
        made = graded if torch.is_grad_enabled() and x.requires_grad else plain
        patch, score = made(self.base, x, self.draws, self.noise)
        mean = score.mean(dim=1)
        middle = score.detach().kthvalue((self.draws + 1) // 2, dim=1).values
        # The median's value with the mean's gradient.
        value = mean + (middle - mean).detach()
        return patch + (value - self.base.aggregate(patch))[:, None]

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Image scores (B,) as the base makes them."""
        return self.base.aggregate(patch_scores)

    def anomaly_map(self, patch_scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Map as the base makes it; see `Detector.anomaly_map`."""
        return self.base.anomaly_map(patch_scores, size)

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the base's patch grid; see `Detector.patch_grid`."""
        return self.base.patch_grid(height, width)

    @torch.no_grad()
    def intervals(
        self,
        x: Tensor,
        radii: Sequence[float],
        *,
        n: int = 1000,
        alpha: float = 0.001,
        sides: Sides = "two",
        test_draws: int | None = None,
    ) -> Intervals:
        """Certified intervals of images' smoothed scores.

        Parameters
        ----------
        x : Tensor, (B, 3, H, W), float32 in [0, 1]
            Prepared images.
        radii, alpha, sides, test_draws
            As `robustad.certificates.median_intervals`; `test_draws=detector.draws` bounds what
            this detector itself computes of a perturbed image.
        n : int >= 1, default 1000
            Copies an image.

        Returns
        -------
        Intervals
            (B, R).
        """
        scores = self.noise.scores(self.base, x, n)
        return median_intervals(
            scores.cpu().numpy(),
            radii,
            sigma=self.sigma,
            alpha=alpha,
            sides=sides,
            test_draws=test_draws,
        )

    def config(self) -> SmoothedConfig:
        """Options as they are saved, the base's among them."""
        name = getattr(self.denoiser, "__name__", type(self.denoiser).__name__)
        return SmoothedConfig(
            base=self.base.method,
            base_config=self.base.config().model_dump(mode="json"),
            sigma=self.sigma,
            draws=self.draws,
            seed=self.seed,
            denoiser=None if self.denoiser is None else name,
        )

    def saved_tensors(self) -> dict[str, Tensor]:
        """The base's tensors."""
        return {PREFIX + name: value for name, value in self.base.saved_tensors().items()}

    def save(self, path: str | Path) -> None:
        """Save with the base detector; see `Detector.save`.

        Raises
        ------
        InputError
            If there is a denoiser, which is code, or the base is none that `load` knows.
        """
        from robustad.detectors.state import METHODS

        if self.base.method not in METHODS:
            raise InputError(f"base: a detector of method {self.base.method!r} cannot be saved")
        if self.denoiser is not None:
            raise InputError(
                "denoiser: is not saved with a detector; save it without one and give it again "
                "after loading (detector.denoiser = ...)"
            )
        super().save(path)

    @classmethod
    def from_config(cls, config: dict[str, object], tensors: dict[str, Tensor]) -> Self:
        """Rebuild a saved detector; see `robustad.load`.

        Raises
        ------
        InputError
            If the base's method is unknown.
        """
        from robustad.detectors.state import METHODS

        options = SmoothedConfig.model_validate(config)
        if options.base not in METHODS or options.base == cls.method:
            raise InputError(f"base: method {options.base!r} is unknown")
        module, name = METHODS[options.base]
        kind: type[Detector] = getattr(import_module(module), name)
        own = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
        return cls(
            kind.from_config(options.base_config, own),
            **options.model_dump(include={"sigma", "draws", "seed"}),
        )

    @property
    def noise(self) -> Noise:
        """What copies are made with."""
        return Noise(
            sigma=self.sigma,
            seed=self.seed,
            batch_size=self.batch_size,
            denoiser=self.denoiser,
        )


def _check_shifts(base: Detector) -> None:
    # As many patches as no count of `top_fraction` exceeds.
    patch = torch.rand(1, 1 << 16, generator=torch.Generator().manual_seed(0)).to(base.device)
    moved = base.aggregate(patch + 0.5) - base.aggregate(patch)
    if not bool(((moved - 0.5).abs() <= SHIFT_TOLERANCE).all()):
        raise StateError(
            "base: its image score does not move along when all patch scores do, so the patch "
            "scores cannot carry the median; certify with robustad.certificates.noisy_scores"
        )
