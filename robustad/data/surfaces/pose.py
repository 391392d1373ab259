"""Where the object lies under the camera.

All lengths in the renderers are in units of 1/256 of the image's edge, whatever its size; the
origin is the image's centre, x points right and y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from robustad.data.surfaces.texture import Field

EXTENT = 256.0  # edge of the image in units


@dataclass(frozen=True, kw_only=True)
class View:
    """The pixel grid seen in the frame of the image and in the frame of the object.

    Attributes
    ----------
    size : int
        Edge of the rendered image in pixels.
    u, v : array, (size, size), float32
        Horizontal and vertical position in the image, in units.
    x, y : array, (size, size), float32
        The same points in the object's own frame, in units.
    angle : float
        Rotation of the object, in radians.
    """

    size: int
    u: Field
    v: Field
    x: Field
    y: Field
    angle: float

    @property
    def pixel(self) -> float:
        """Edge of a pixel in units."""
        return EXTENT / self.size

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        size: int,
        *,
        shift: float,
        turn: float,
        zoom: float,
    ) -> View:
        """Draw a pose.

        Parameters
        ----------
        rng : Generator
            Where the random numbers come from.
        size : int
            Edge of the rendered image in pixels.
        shift : float
            Largest shift along each axis, in units.
        turn : float
            Largest rotation either way, in degrees.
        zoom : float
            Largest relative change of scale either way.
        """
        right, down = rng.uniform(-shift, shift), rng.uniform(-shift, shift)
        angle = math.radians(rng.uniform(-turn, turn))
        scale = 1.0 + rng.uniform(-zoom, zoom)
        u, v = _grid(size)
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        x = cos * u + sin * v + right
        y = cos * v - sin * u + down
        return cls(size=size, u=u, v=v, x=x, y=y, angle=angle)


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Field, Field]:
    line = (((np.arange(size) + 0.5) / size - 0.5) * EXTENT).astype(np.float32)
    u, v = (np.ascontiguousarray(axis) for axis in np.meshgrid(line, line))
    u.flags.writeable = v.flags.writeable = False
    return u, v
