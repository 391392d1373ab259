"""What a category has to offer: a normal object, and ways to damage it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from robustad.data.surfaces.lighting import Rig, Surface
from robustad.data.surfaces.pose import View


class Scene(ABC):
    """One object with everything random about it already drawn.

    A scene can be turned into a surface with and without a defect, and the two differ by nothing
    but the defect.

    Attributes
    ----------
    DEFECTS : tuple of str
        The kinds of defects, sorted.
    RIG : Rig
        How its photographs vary.
    """

    DEFECTS: ClassVar[tuple[str, ...]]
    RIG: ClassVar[Rig]
    view: View

    @classmethod
    @abstractmethod
    def draw(cls, rng: np.random.Generator, size: int) -> Self:
        """Draw a normal object, to be rendered at `size` pixels."""

    @cached_property
    def surface(self) -> Surface:
        """The object without a defect."""
        return self.raster()

    @abstractmethod
    def raster(self) -> Surface:
        """Turn the drawn object into a surface."""

    @abstractmethod
    def damaged(self, kind: str, rng: np.random.Generator) -> Surface:
        """Turn the drawn object into a surface with a defect of `kind`, one of `DEFECTS`."""
