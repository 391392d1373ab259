"""Outlines of defects: blobs, strokes and arcs as signed distances, in units."""

from __future__ import annotations

import math

import numpy as np

from robustad.data.surfaces.pose import EXTENT, View
from robustad.data.surfaces.texture import Field, noise, smoothstep


def spot(rng: np.random.Generator, *, margin: float = 40.0) -> tuple[float, float]:
    """Draw a point at least `margin` units inside the image."""
    limit = EXTENT / 2 - margin
    return rng.uniform(-limit, limit), rng.uniform(-limit, limit)


def blob(
    rng: np.random.Generator,
    view: View,
    *,
    centre: tuple[float, float],
    area: float,
    ragged: float = 0.15,
    stretch: float = 1.4,
) -> Field:
    """Signed distance to an irregular blob, negative inside, roughly in units.

    Parameters
    ----------
    rng : Generator
        Where the random numbers come from.
    view : View
        The pixel grid.
    centre : (float, float)
        Position in the image.
    area : float
        Area as a share of the image.
    ragged : float
        Strength of the outline's noise relative to the radius.
    stretch : float
        Largest ratio of the axes.
    """
    radius = EXTENT * math.sqrt(area / math.pi)
    ratio = math.sqrt(rng.uniform(1.0, stretch))
    angle = rng.uniform(0, math.pi)
    p, q = frame(view, centre, angle)
    distance = np.hypot(p / ratio, q * ratio) - radius
    cells = min(max(int(EXTENT / radius), 4), 48)
    wobble = noise(rng, view.size, cells) + 0.5 * noise(rng, view.size, 3 * cells)
    out: Field = distance + (ragged * radius) * wobble
    return out


def frame(view: View, origin: tuple[float, float], angle: float) -> tuple[Field, Field]:
    """Coordinates along and across a direction, from `origin`."""
    cos, sin = math.cos(angle), math.sin(angle)
    du, dv = view.u - origin[0], view.v - origin[1]
    return cos * du + sin * dv, cos * dv - sin * du


def stroke(
    rng: np.random.Generator,
    view: View,
    *,
    centre: tuple[float, float],
    length: float,
    angle: float,
    bend: float = 0.1,
    waves: float = 0.0,
) -> tuple[Field, Field]:
    """Distance to a bent line, and a taper along it.

    Parameters
    ----------
    rng : Generator
        Where the random numbers come from.
    view : View
        The pixel grid.
    centre : (float, float)
        Middle of the line in the image.
    length : float
        Length in units.
    angle : float
        Direction in radians.
    bend : float
        Largest sagitta relative to the length.
    waves : float
        Amplitude of an added meander, in units.

    Returns
    -------
    across : array, (H, W), float32
        Signed distance from the line, in units.
    taper : array, (H, W), float32 in [0, 1]
        1 along the line, falling to 0 at both ends and beyond.
    """
    p, q = frame(view, centre, angle)
    half = length / 2
    t = p / half
    sagitta = rng.uniform(-bend, bend) * length
    tilt = rng.uniform(-bend, bend) * length / 2
    path = sagitta * (t**2 - 0.5) + tilt * t * (t**2 - 1)
    steep = (2 * sagitta / half) * t + (tilt / half) * (3 * t**2 - 1)
    if waves:
        phase, count = rng.uniform(0, 2 * math.pi), rng.uniform(1.0, 2.2)
        turn = math.pi * count * t + phase
        path += waves * np.sin(turn)
        steep += (waves * math.pi * count / half) * np.cos(turn)
    across = (q - path) / np.sqrt(1.0 + steep**2)
    return across, smoothstep(np.abs(t), 1.0, 0.75)


def coverage(distance: Field, soft: float) -> Field:
    """1 inside a signed distance, 0 outside, with an edge `soft` units wide."""
    return smoothstep(distance, soft / 2, -soft / 2)
