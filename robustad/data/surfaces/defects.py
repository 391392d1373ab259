"""Defects that any surface can have. Each returns a changed copy of the surface."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from robustad.data.surfaces.lighting import Surface
from robustad.data.surfaces.pose import View
from robustad.data.surfaces.shapes import blob, coverage, spot, stroke
from robustad.data.surfaces.texture import Field, fractal, mix, smoothstep


def stained(
    rng: np.random.Generator,
    view: View,
    surface: Surface,
    *,
    area: tuple[float, float],
    tinge: Field,
    strength: tuple[float, float],
    rim: float = 0.35,
    ragged: float = 0.12,
    gloss: float = 1.0,
    within: Field | None = None,
    centre: tuple[float, float] | None = None,
) -> Surface:
    """Let a liquid dry on a surface.

    Parameters
    ----------
    rng : Generator
        Where the random numbers come from.
    view : View
        The pixel grid.
    surface : Surface
        The clean surface.
    area : (float, float)
        Range of the stain's area as a share of the image.
    tinge : array, (3, 1, 1)
        What full strength multiplies the albedo by.
    strength : (float, float)
        Range of the strength in [0, 1].
    rim : float
        How much stronger the dried rim is than the middle.
    ragged : float
        Irregularity of the outline.
    gloss : float
        What full strength multiplies the gloss by.
    within : array, (H, W), optional
        Where the stain can lie at all, in [0, 1].
    centre : (float, float), optional
        Where it lies; drawn when left out.
    """
    centre = spot(rng) if centre is None else centre
    size = float(math.exp(rng.uniform(*np.log(area))))
    distance = blob(rng, view, centre=centre, area=size, ragged=ragged)
    amount = coverage(distance, 3.0) * rng.uniform(*strength)
    edge = np.exp(-((distance + 2.5) ** 2) / 8.0)
    amount = amount * (1.0 - rim * (1.0 - edge))
    amount = amount * (1.0 + 0.15 * fractal(rng, view.size, 20))
    if within is not None:
        amount = amount * within
    amount = np.clip(amount, 0.0, 1.0)
    return replace(
        surface,
        albedo=mix(surface.albedo, surface.albedo * tinge, amount),
        gloss=surface.gloss * (1.0 + (gloss - 1.0) * amount),
    )


def scratched(
    rng: np.random.Generator,
    view: View,
    surface: Surface,
    *,
    length: tuple[float, float],
    width: tuple[float, float],
    depth: tuple[float, float],
    angle: tuple[float, float] = (0.0, math.pi),
    bare: Field | None = None,
    strength: float = 0.7,
    gloss: float = 0.0,
    count: int = 1,
) -> Surface:
    """Drag something sharp across a surface: a groove with raised sides, and bared material.

    Parameters
    ----------
    rng : Generator
        Where the random numbers come from.
    view : View
        The pixel grid.
    surface : Surface
        The clean surface.
    length, width, depth : (float, float)
        Ranges in units.
    angle : (float, float)
        Range of the direction in radians.
    bare : array, (3, 1, 1), optional
        Albedo of what comes to light; the surface's own when left out.
    strength : float
        How much of it comes to light, in [0, 1].
    gloss : float
        Added to the gloss in the groove.
    count : int
        Parallel scratches.
    """
    centre, heading = spot(rng, margin=56.0), rng.uniform(*angle)
    height, albedo, shine = surface.height, surface.albedo, surface.gloss
    for index in range(count):
        beside = 0.0 if index == 0 else rng.uniform(-7, 7)
        at = (centre[0] - beside * math.sin(heading), centre[1] + beside * math.cos(heading))
        reach = rng.uniform(*length) * (1.0 if index == 0 else rng.uniform(0.4, 0.9))
        across, taper = stroke(
            rng, view, centre=at, length=reach, angle=heading + rng.normal(0, 0.03), bend=0.06
        )
        broad = rng.uniform(*width) / 2
        # Pressure varies along the way, so the groove comes and goes.
        taper = taper * np.clip(0.85 + 0.3 * fractal(rng, view.size, 14), 0.25, 1.0)
        profile = np.exp(-((across / broad) ** 2)) * taper
        sides = np.exp(-(((np.abs(across) - 1.9 * broad) / (0.7 * broad)) ** 2)) * taper
        deep = rng.uniform(*depth)
        height = height + deep * (0.45 * sides - profile)
        core = smoothstep(np.abs(across), 1.3 * float(broad), 0.5 * float(broad)) * taper
        if bare is not None:
            albedo = mix(albedo, bare, core * strength)
        shine = shine + gloss * core
    return replace(surface, height=height, albedo=albedo, gloss=shine)
