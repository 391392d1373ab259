"""What pseudo-anomalies are made of: one frozen configuration."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustad.errors import InputError

Transformation: TypeAlias = Literal[
    "colour", "elastic", "swirl", "blur", "jpeg", "lines", "perlin", "erasing"
]
TRANSFORMATIONS: tuple[Transformation, ...] = get_args(Transformation)


class PseudoConfig(BaseModel):
    """How pseudo-anomalies are drawn.

    Lengths in pixels are those at an image edge of 224 and are scaled with the image.

    Attributes
    ----------
    levels : (float, float, float), default (0.2, 0.2, 0.6)
        Probabilities of a light, medium and heavy anomaly; they sum to 1.
    size : (int, int) or None, default None
        Least and largest edge of a patch in pixels at 224; None takes the bounds the generator is
        given, else (14, 86).
    rotation : (float, float), default (-90.0, 90.0)
        Range of the rotation angle in degrees.
    count : int, default 1
        Anomalies in each image.
    transformations : tuple of str, default all
        Which may be drawn. `colour` is applied to every patch where it is listed; up to one, two
        or four others (light, medium, heavy) are drawn from those the level knows.
    opacity : (float, float), default (1.0, 1.0)
        Range of the weight of the pasted patch against what it covers; 1 covers it completely.
    dilate : int, default 0
        Grow the foreground by this many pixels at 224 before placing boxes (10 in the authors'
        code).
    empty_foreground : {"error", "whole"}, default "error"
        Whether an image without a foreground pixel is refused or taken as a whole.

    Raises
    ------
    ValidationError
        If a range is not ordered, a probability or opacity lies outside [0, 1], the probabilities
        do not sum to 1, or a transformation is unknown or listed twice.

    Examples
    --------
    >>> PseudoConfig(levels=(1.0, 0.0, 0.0)).size is None
    True
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    levels: tuple[
        Annotated[float, Field(ge=0.0, le=1.0)],
        Annotated[float, Field(ge=0.0, le=1.0)],
        Annotated[float, Field(ge=0.0, le=1.0)],
    ] = (0.2, 0.2, 0.6)
    size: tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=2)]] | None = None
    rotation: tuple[
        Annotated[float, Field(ge=-180.0, le=180.0)], Annotated[float, Field(ge=-180.0, le=180.0)]
    ] = (-90.0, 90.0)
    count: Annotated[int, Field(ge=1, le=64)] = 1
    transformations: tuple[Transformation, ...] = TRANSFORMATIONS
    opacity: tuple[
        Annotated[float, Field(gt=0.0, le=1.0)], Annotated[float, Field(gt=0.0, le=1.0)]
    ] = (1.0, 1.0)
    dilate: Annotated[int, Field(ge=0)] = 0
    empty_foreground: Literal["error", "whole"] = "error"

    @model_validator(mode="after")
    def _consistent(self) -> PseudoConfig:
        if abs(sum(self.levels) - 1.0) > 1e-6:
            raise InputError(f"levels: expected probabilities that sum to 1, got {self.levels}")
        for name in ("size", "rotation", "opacity"):
            bounds = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                raise InputError(f"{name}: expected (low, high) with low <= high, got {bounds}")
        if len(set(self.transformations)) != len(self.transformations):
            raise InputError(
                f"transformations: expected each at most once, got {self.transformations}"
            )
        return self
