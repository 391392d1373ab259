"""Terrazzo: a polished floor tile of stone chips in cement."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from robustad.data.surfaces.defects import stained
from robustad.data.surfaces.lighting import Rig, Surface
from robustad.data.surfaces.pose import EXTENT, View
from robustad.data.surfaces.scene import Scene
from robustad.data.surfaces.shapes import blob, coverage, spot, stroke
from robustad.data.surfaces.texture import Field, colour, fractal, mix, noise, smoothstep

GRAIN = 6.5  # mean distance between chips, in units
REACH = 1.5 * EXTENT  # edge of the square that chips are strewn over: any turn of the tile fits
CEMENT = colour(0.42, 0.41, 0.39)
# Marble, grey limestone, ochre, basalt, and how often each is met.
STONES = np.array(
    [[0.66, 0.65, 0.62], [0.37, 0.37, 0.36], [0.50, 0.41, 0.29], [0.13, 0.13, 0.14]], np.float32
)
SHARES = np.array([0.38, 0.30, 0.18, 0.14])
CLAY = colour(0.145, 0.062, 0.036)
MARKER = colour(0.022, 0.024, 0.045)
RESIN = colour(0.86, 0.52, 0.12)


@dataclass(frozen=True, kw_only=True)
class Slab(Scene):
    """One tile.

    Attributes
    ----------
    view : View
        Its pose; the texture has no direction, so the tile lies any way round.
    stone : array, (3, H, W)
        Albedo of the chip at or nearest to each point.
    rim : array, (H, W)
        How far each point is from the border to the next chip, in units.
    vein : array, (H, W)
        Fine unevenness of colour within stone and cement, of unit variance.
    wave : array, (H, W)
        Unevenness of the polish, in units.
    """

    DEFECTS: ClassVar[tuple[str, ...]] = ("chip", "crack", "glue", "oil", "stroke")
    RIG: ClassVar[Rig] = Rig(
        elevation=(48.0, 64.0),
        azimuth=(200.0, 340.0),
        exposure=0.3,
        falloff=0.16,
        shadow=0.3,
        reach=3.0,
        occlusion=0.1,
    )

    view: View
    stone: Field
    rim: Field
    vein: Field
    wave: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> Self:
        """Draw a tile."""
        view = View.draw(rng, size, shift=20.0, turn=180.0, zoom=0.03)
        middles = _strewn(rng)
        # No two batches are mixed alike.
        shares = SHARES * np.exp(rng.normal(0.0, 0.45, len(SHARES)))
        kind = rng.choice(len(SHARES), len(middles), p=shares / shares.sum())
        tone = rng.normal(1.0, 0.12, (len(middles), 1)).astype(np.float32)
        chips = STONES[kind] * tone
        points = np.stack([view.x.ravel(), view.y.ravel()], axis=1)
        # The two nearest chips: which one it is, and how close its neighbour comes.
        distance, nearest = cKDTree(middles).query(points, k=2)
        rim = (distance[:, 1] - distance[:, 0]).astype(np.float32).reshape(size, size) / 2
        return cls(
            view=view,
            stone=np.ascontiguousarray(chips[nearest[:, 0]].T).reshape(3, size, size),
            rim=rim,
            vein=fractal(rng, size, 60),
            wave=0.5 * noise(rng, size, 4),
        )

    def raster(self) -> Surface:
        """Grind and polish the tile."""
        stone = smoothstep(self.rim, 0.3, 0.9)
        albedo = mix(CEMENT, self.stone, stone) * (1 + 0.05 * self.vein)
        return Surface(
            albedo=np.clip(albedo, 0.0, 1.0),
            height=self.wave + 0.05 * stone,
            gloss=0.03 + 0.05 * stone,
            tint=colour(1, 1, 1),
            roughness=(0.3, 0.3),
        )

    def damaged(self, kind: str, rng: np.random.Generator) -> Surface:
        """Add a defect."""
        if kind == "chip":
            return self._chip(rng)
        if kind == "crack":
            return self._crack(rng)
        if kind == "glue":
            return self._glue(rng)
        if kind == "stroke":
            return self._stroke(rng)
        return stained(
            rng,
            self.view,
            self.surface,
            area=(0.018, 0.05),
            tinge=colour(0.26, 0.22, 0.16),
            strength=(0.8, 1.0),
            rim=0.1,
            gloss=1.6,
        )

    def _chip(self, rng: np.random.Generator) -> Surface:
        """Break a piece out, down to the clay below."""
        area = float(math.exp(rng.uniform(*np.log([0.012, 0.04]))))
        out = blob(rng, self.view, centre=spot(rng), area=area, ragged=0.2)
        gone = coverage(out, 2.0)
        rough = noise(rng, self.view.size, 70)
        surface = self.surface
        return replace(
            surface,
            albedo=mix(surface.albedo, CLAY * (1 + 0.12 * rough), gone),
            height=surface.height + gone * (0.5 * rough - np.float32(rng.uniform(2.5, 4.0))),
            gloss=surface.gloss * (1 - gone),
        )

    def _crack(self, rng: np.random.Generator) -> Surface:
        """Split the tile, with a branch leaving the crack midway."""
        surface, centre, heading = self.surface, spot(rng, margin=88.0), rng.uniform(0, math.pi)
        length = rng.uniform(120, 170)
        open_ = np.zeros_like(self.rim)
        turns = (0.0, rng.choice([-1, 1]) * rng.uniform(0.5, 0.9))
        for turn, share, width in zip(turns, (1.0, 0.5), (1.0, 0.7), strict=True):
            angle = heading + turn
            away = 0.0 if turn == 0.0 else length * share / 2
            at = (centre[0] + away * math.cos(angle), centre[1] + away * math.sin(angle))
            across, taper = stroke(
                rng, self.view, centre=at, length=length * share, angle=angle, bend=0.08, waves=3.0
            )
            half = width * rng.uniform(3.0, 4.5) * taper * (1 + 0.2 * fractal(rng, len(taper), 24))
            np.maximum(open_, smoothstep(half - np.abs(across), -0.4, 1.0), out=open_)
        return replace(
            surface,
            albedo=mix(surface.albedo, surface.albedo * 0.06, open_),
            height=surface.height - 3.5 * open_,
            gloss=surface.gloss * (1 - open_),
        )

    def _glue(self, rng: np.random.Generator) -> Surface:
        """Leave a strip of amber glue."""
        surface = self.surface
        across, taper = stroke(
            rng,
            self.view,
            centre=spot(rng, margin=56.0),
            length=rng.uniform(70, 110),
            angle=rng.uniform(0, math.pi),
            bend=0.05,
        )
        half = rng.uniform(9.0, 13.0)
        thick = smoothstep(half - np.abs(across) + noise(rng, len(taper), 40), -1.0, 2.0)
        thick = thick * (taper > 0.05)
        tinge = 1 - (1 - RESIN**1.6) * rng.uniform(0.85, 1.0)
        return replace(
            surface,
            albedo=mix(surface.albedo, surface.albedo * tinge.astype(np.float32), thick),
            height=surface.height + 0.8 * thick,
            gloss=surface.gloss + 0.05 * thick,
        )

    def _stroke(self, rng: np.random.Generator) -> Surface:
        """Draw over the tile with a broad marker."""
        across, taper = stroke(
            rng,
            self.view,
            centre=spot(rng, margin=56.0),
            length=rng.uniform(80, 130),
            angle=rng.uniform(0, math.pi),
            bend=0.15,
        )
        half = rng.uniform(5.0, 8.0)
        ink = smoothstep(half - np.abs(across), -0.6, 0.8) * (taper > 0.03)
        ink = np.clip(ink * (0.9 + 0.05 * fractal(rng, len(taper), 30)), 0.0, 1.0)
        surface = self.surface
        return replace(
            surface,
            albedo=mix(surface.albedo, MARKER, ink),
            gloss=surface.gloss * (1 - 0.5 * ink),
        )


def _strewn(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Middles of chips (n, 2) in the tile's frame, in units: a lattice, every point moved."""
    count = round(REACH / GRAIN)
    line = (np.arange(count) + 0.5) * (REACH / count) - REACH / 2
    lattice = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return lattice + rng.uniform(-0.48, 0.48, lattice.shape) * GRAIN
