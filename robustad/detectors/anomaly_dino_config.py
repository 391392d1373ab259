"""Options of AnomalyDINO, as saved."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from robustad.backbones import BackboneConfig
from robustad.detectors.foreground import Unit
from robustad.detectors.pruning import Outlyingness

# What is made of the distances to the k nearest bank vectors.
Reduce: TypeAlias = Literal["mean", "max"]


class AnomalyDINOConfig(BaseModel):
    """Options of `AnomalyDINO`, as saved; see there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: BackboneConfig
    image_size: int = Field(ge=1)
    square: bool
    rotations: int = Field(ge=1, le=360)
    mask: bool
    mask_threshold: float
    mask_unit: Unit
    whiten: bool
    k: int = Field(ge=1)
    top_fraction: int | float
    map_sigma: float
    coreset: int | float | None
    # Files of earlier versions lack these.
    reduce: Reduce = "mean"
    prune: float = Field(default=0.0, ge=0.0, lt=1.0)
    prune_by: Outlyingness = "distance"
