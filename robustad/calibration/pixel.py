"""Probabilities of pixels: Platt's curve on a sample of them, corrected for the sampling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from robustad.calibration._pixel_sample import Map, Mask, PixelSample, pairs
from robustad.calibration.platt import Platt
from robustad.calibration.state import Share
from robustad.errors import InputError, NotFittedError, StateError
from robustad.metrics._checks import check_fraction
from robustad.probability import linear, logit

FloatArray = npt.NDArray[np.float32]
Count = Annotated[int, Field(ge=1)]
PIXELS = 200_000


class PixelPlattState(BaseModel):
    """A fitted pixel-wise Platt scaling as it is saved."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    method: Literal["pixel_platt"] = "pixel_platt"
    slope: FiniteFloat = Field(description="A of sigmoid(A * pixel's map value + B).")
    intercept: FiniteFloat = Field(description="B of sigmoid(A * pixel's map value + B).")
    prevalence: Share = Field(description="Share of anomalous pixels that is assumed.")
    n_normal: Count = Field(description="Normal pixels of the calibration set.")
    n_anomalous: Count = Field(description="Anomalous pixels of the calibration set.")
    n_sampled: Count = Field(description="Pixels that the curve was fitted to.")
    n_images: Count = Field(description="Images they come from.")
    anomalous_images: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        description="Share of them with an anomalous pixel."
    )


class PixelPlatt:
    """P(pixel anomalous | map value) = sigmoid(slope * value + intercept).

    Attributes
    ----------
    slope, intercept : float
        Of the curve.
    prevalence : float
        Share of anomalous pixels that the probabilities assume.
    n_normal, n_anomalous : int
        Pixels of the calibration set.
    n_sampled, n_images : int
        Pixels fitted to, and the images that all come from.

    Raises
    ------
    NotFittedError
        By all of them before `fit`.

    Notes
    -----
    The same number of normal and of anomalous pixels is drawn as far as there are so many, evenly
    over all pixels of a kind. Balanced samples know nothing of how rare anomalous pixels are:
    log odds of their true share minus those of the share in the sample are added to the intercept
    (King and Zeng, "Logistic Regression in Rare Events Data", 2001, prior correction). A sample of
    everything needs no correction, and gives what `Platt` gives.

    Pixels of one image are no independent observations: 100,000 pixels of 10 images are 10 images.
    The probability is that of a pixel, given its map value alone; the most probable pixel of an
    image says nothing of the probability that the image is defective.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> mask = np.zeros((32, 32), bool)
    >>> mask[10:20, 10:20] = True
    >>> maps = [rng.normal(mask + 0.0, 0.4), rng.normal(0.0, 0.4, (32, 32))]
    >>> pixels = PixelPlatt().fit(maps, [mask, np.zeros_like(mask)], pixels=100)
    >>> pixels.n_sampled, round(pixels.prevalence, 4)
    (100, 0.0488)
    >>> pixels.predict_proba(maps[0]).shape
    (32, 32)
    """

    method: ClassVar[str] = "pixel_platt"

    def __init__(self) -> None:
        self._state: PixelPlattState | None = None

    def fit(
        self,
        maps: Iterable[Map],
        masks: Iterable[Mask],
        *,
        pixels: int = PIXELS,
        seed: int = 0,
    ) -> Self:
        """Fit to anomaly maps and their masks, taken one by one.

        Parameters
        ----------
        maps : iterable of array, (H, W), floating point
            Anomaly maps, of any sizes.
        masks : iterable of array, (H, W), bool
            As many: True where a pixel is anomalous, all False for a normal image.
        pixels : int >= 2, default 200,000
            How many to draw in all.
        seed : int >= 0, default 0
            Of the draw.

        Returns
        -------
        PixelPlatt
            Itself. If it fails, an earlier fit stays.

        Raises
        ------
        InputError
            If sizes or types do not fit, a value is not finite, there is no anomalous or no normal
            pixel, or all values are the same.

        Warns
        -----
        UserWarning
            If the slope is negative: see `Platt`.
        """
        if isinstance(pixels, bool) or not isinstance(pixels, int | np.integer) or pixels < 2:
            raise InputError(f"pixels: expected a whole number >= 2, got {pixels!r}")
        sample = PixelSample(int(pixels), seed)
        for anomaly_map, mask in pairs(maps, masks):
            sample.add(anomaly_map, mask)
        normal, anomalous = sample.values()
        values = np.concatenate([normal, anomalous])
        labels = np.repeat([0, 1], [normal.size, anomalous.size])
        platt = Platt().fit(values, labels)
        share = sample.seen[1] / sum(sample.seen)
        platt = platt.with_prior(share)
        self._state = PixelPlattState(
            slope=platt.slope,
            intercept=platt.intercept,
            prevalence=share,
            n_normal=sample.seen[0],
            n_anomalous=sample.seen[1],
            n_sampled=values.size,
            n_images=sample.images,
            anomalous_images=sample.defective / sample.images,
        )
        return self

    def predict_proba(self, anomaly_map: Map) -> FloatArray:
        """Probability of each pixel to be anomalous.

        Parameters
        ----------
        anomaly_map : array of any shape, floating point
            Map values; NaN stays NaN.

        Returns
        -------
        array of the same shape, float32 in [0, 1]
            Probabilities.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        state = self._fitted()
        values = np.asarray(anomaly_map, np.float64)
        return linear(values, slope=state.slope, intercept=state.intercept).astype(np.float32)

    def with_prior(self, rate: float) -> Self:
        """Shift to another share of anomalous pixels; gives a new one.

        Parameters
        ----------
        rate : float in (0, 1)
            Share of all pixels that are anomalous where the detector is going to be used.

        Raises
        ------
        InputError
            If `rate` lies outside (0, 1).
        NotFittedError
            Before `fit`.
        """
        state = self._fitted()
        wanted = check_fraction(rate, "rate", low=False, high=False)
        shift = logit(wanted) - logit(state.prevalence)
        change = {"intercept": state.intercept + shift, "prevalence": wanted}
        return self.from_dict({**state.model_dump(), **change})

    def with_defect_rate(self, rate: float) -> Self:
        """Shift to another share of defective images; gives a new one.

        Parameters
        ----------
        rate : float in (0, 1)
            Share of parts with a defect. Defects are taken to be as large as those of the
            calibration set, so that the share of anomalous pixels changes in proportion.

        Raises
        ------
        InputError
            If `rate` lies outside (0, 1).
        NotFittedError
            Before `fit`.
        """
        wanted = check_fraction(rate, "rate", low=False, high=False)
        state = self._fitted()
        share = state.n_anomalous / (state.n_normal + state.n_anomalous)
        return self.with_prior(share * wanted / state.anomalous_images)

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to restore it, ready for JSON.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        return self._fitted().model_dump()

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore from what `to_dict` gave.

        Raises
        ------
        StateError
            If a key is missing, unknown or holds another type or range than expected.
        """
        found = cls()
        try:
            found._state = PixelPlattState.model_validate(dict(state))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "state"
            raise StateError(
                f"pixel calibration: {where}: {first['msg']}, got {first['input']!r}"
            ) from error
        return found

    @property
    def slope(self) -> float:
        """A of the curve."""
        return self._fitted().slope

    @property
    def intercept(self) -> float:
        """B of the curve."""
        return self._fitted().intercept

    @property
    def prevalence(self) -> float:
        """Share of anomalous pixels that the probabilities assume."""
        return self._fitted().prevalence

    @property
    def n_normal(self) -> int:
        """Normal pixels of the calibration set."""
        return self._fitted().n_normal

    @property
    def n_anomalous(self) -> int:
        """Anomalous pixels of the calibration set."""
        return self._fitted().n_anomalous

    @property
    def n_sampled(self) -> int:
        """Pixels that the curve was fitted to."""
        return self._fitted().n_sampled

    @property
    def n_images(self) -> int:
        """Images that the pixels come from."""
        return self._fitted().n_images

    def __repr__(self) -> str:
        if self._state is None:
            return "PixelPlatt()"
        return f"PixelPlatt(slope={self.slope:.6g}, intercept={self.intercept:.6g})"

    def _fitted(self) -> PixelPlattState:
        if self._state is None:
            raise NotFittedError("PixelPlatt: fit(maps, masks) has to come first")
        return self._state
