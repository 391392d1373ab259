"""What every fitted calibrator is saved with."""

from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Band(BaseModel):
    """A pointwise bootstrap interval of the probability, tabulated over scores.

    Attributes
    ----------
    level : float in (0, 1)
        Nominal coverage at each score.
    draws : int
        Calibration sets drawn anew.
    scores, low, high : list of float
        The probability's interval at rising scores; straight lines between them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    level: Share
    draws: Annotated[int, Field(ge=1)]
    scores: Annotated[list[FiniteFloat], Field(min_length=2)]
    low: list[Probability]
    high: list[Probability]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.scores) == len(self.low) == len(self.high):
            raise ValueError("scores, low and high: expected equal lengths")
        if not (np.diff(self.scores) > 0).all():
            raise ValueError("scores: expected rising numbers")
        return self


class CalibratorState(BaseModel):
    """What every fitted calibrator is saved with, besides its method's own parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_normal: Annotated[int, Field(ge=1)] = Field(description="Normal images fitted to.")
    n_anomalous: Annotated[int, Field(ge=1)] = Field(description="Anomalous images fitted to.")
    prevalence: Share = Field(description="Share of anomalies that the probabilities assume.")
    before: dict[str, FiniteFloat] | None = Field(
        default=None, description="Measures of the raw score taken as a probability."
    )
    after: dict[str, FiniteFloat] | None = Field(
        default=None, description="The same measures of the calibrated probability."
    )
    band: Band | None = Field(default=None, description="Interval of the probability.")
