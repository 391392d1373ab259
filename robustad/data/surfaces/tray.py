"""Parts on a tray: nine hexagon nuts in the pockets of a foam tray."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from robustad.data.surfaces.defects import stained
from robustad.data.surfaces.lighting import Rig, Surface
from robustad.data.surfaces.pose import View
from robustad.data.surfaces.scene import Scene
from robustad.data.surfaces.shapes import blob, coverage, stroke
from robustad.data.surfaces.texture import Field, colour, fractal, mix, noise, smoothstep

STEP = 78.0  # distance between pockets, in units
POCKET, DEPTH = 28.0, 5.5  # half the width of a pocket, and its depth
FLAT, CHAMFER, BORE, TALL = 24.0, 23.2, 13.0, 8.5  # a nut: half its width, its rims, its height
FOAM = colour(0.055, 0.062, 0.072)
FLOOR = colour(0.30, 0.215, 0.085)  # two-tone foam, to make empty pockets show
ZINC = colour(0.31, 0.315, 0.32)
SHINE = colour(0.95, 0.97, 1.0)


Index = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Tray(Scene):
    """One tray of nuts.

    Attributes
    ----------
    view : View
        Its pose.
    shift : array, (9, 2)
        Displacement of each nut in its pocket, in units.
    turn : array, (9,)
        Rotation of each nut, in radians.
    lean : array, (9, 2)
        Slope of each nut.
    lift : array, (9,)
        How high each nut sits above the pocket's floor, in units.
    tone : array, (9,)
        Brightness of each nut.
    seated : array, (9,)
        1 where there is a nut.
    grain, rough, haze : array, (H, W)
        Texture of the plastic, of the metal, and slow unevenness; of unit variance.
    bite : array, (H, W)
        Where a nut's material has broken out, in [0, 1].
    """

    DEFECTS: ClassVar[tuple[str, ...]] = ("chip", "debris", "missing", "rust", "tilted")
    RIG: ClassVar[Rig] = Rig(
        elevation=(42.0, 58.0),
        azimuth=(200.0, 250.0),
        exposure=0.32,
        falloff=0.22,
        shadow=0.75,
        reach=13.0,
        near=0.3,
        occlusion=0.055,
    )

    view: View
    shift: Field
    turn: Field
    lean: Field
    lift: Field
    tone: Field
    seated: Field
    grain: Field
    rough: Field
    haze: Field
    bite: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> Self:
        """Draw a tray."""
        view = View.draw(rng, size, shift=4.0, turn=2.0, zoom=0.015)
        angle = rng.uniform(0, 2 * math.pi, 9)
        return cls(
            view=view,
            shift=(
                rng.uniform(0, 2.0, (9, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            ).astype(np.float32),
            turn=rng.uniform(-0.09, 0.09, 9).astype(np.float32),
            lean=rng.normal(0, 0.012, (9, 2)).astype(np.float32),
            lift=np.zeros(9, np.float32),
            tone=rng.normal(1, 0.07, 9).astype(np.float32),
            seated=np.ones(9, np.float32),
            grain=noise(rng, size, 120) + 0.6 * noise(rng, size, 220),
            rough=noise(rng, size, 200) + 0.8 * noise(rng, size, 70),
            haze=fractal(rng, size, 5),
            bite=np.zeros((size, size), np.float32),
        )

    def cells(self) -> tuple[Index, Field, Field]:
        """Which nut each pixel belongs to, and its place in that nut's pocket."""
        column = np.clip(np.round(self.view.x / STEP), -1, 1)
        row = np.clip(np.round(self.view.y / STEP), -1, 1)
        part = (3 * (row + 1) + column + 1).astype(np.intp)
        return part, self.view.x - STEP * column, self.view.y - STEP * row

    def middle(self, part: int) -> tuple[float, float]:
        """Where a nut lies in the image, in units."""
        row, column = divmod(part, 3)
        target = np.array([(column - 1) * STEP, (row - 1) * STEP]) + self.shift[part]
        away = np.hypot(self.view.x - target[0], self.view.y - target[1])
        where = np.unravel_index(int(np.argmin(away)), away.shape)
        return float(self.view.u[where]), float(self.view.v[where])

    def raster(self) -> Surface:
        """Cut the pockets and put the nuts in."""
        part, x, y = self.cells()
        wall = _hexagon(x, y) - POCKET
        pocket = coverage(wall, 2.4)
        foam = mix(FOAM, FLOOR, coverage(wall, 1.2))
        foam = foam * (1 + 0.07 * self.grain + 0.05 * self.haze)
        ground = 0.16 * self.grain - DEPTH * pocket
        x, y = x - self.shift[part, 0], y - self.shift[part, 1]
        nut, body = self._nut(part, x, y)
        there = body * self.seated[part]
        metal: Field = ZINC * (self.tone[part] * (1 + 0.05 * self.rough + 0.04 * self.haze))
        metal = mix(metal, ZINC * 0.5, self.bite)
        shine = 0.5 * self.tone[part] * (1 - 0.8 * self.bite)
        return Surface(
            albedo=np.clip(mix(foam, metal, there), 0.0, 1.0),
            height=ground + there * (nut - DEPTH - ground),
            gloss=0.012 + there * (shine - 0.012),
            tint=SHINE,
            roughness=(0.26, 0.26),
        )

    def _nut(self, part: Index, x: Field, y: Field) -> tuple[Field, Field]:
        """Relief of the nuts above the pocket's floor, and where there is metal seen from above."""
        radius = np.hypot(x, y)
        cos, sin = np.cos(self.turn)[part], np.sin(self.turn)[part]
        side = _hexagon(cos * x + sin * y, cos * y - sin * x) - FLAT + 4.5 * self.bite
        top = TALL - 0.6 * np.maximum(radius - CHAMFER, 0.0)
        top -= 0.9 * np.maximum(BORE + 2.2 - radius, 0.0)  # countersink
        # Turning marks of the lathe, and the roughness of the zinc.
        top += 0.045 * np.sin(2 * math.pi / 2.3 * radius + 0.6 * self.haze) + 0.05 * self.rough
        top -= self.bite * (2.2 + 0.5 * self.rough)
        bore = coverage(radius - BORE, 1.8)
        thread = 0.9 * np.sin(2 * math.pi / 2.2 * radius)
        top += bore * (thread - TALL + 2.5)
        lean = self.lean[part, 0] * x + self.lean[part, 1] * y + self.lift[part]
        return top + lean, coverage(side, 1.6) * smoothstep(radius, BORE - 4.6, BORE - 3.4)

    def damaged(self, kind: str, rng: np.random.Generator) -> Surface:
        """Add a defect."""
        part = int(rng.integers(9))
        if kind == "missing":
            seated = self.seated.copy()
            seated[part] = 0.0
            return replace(self, seated=seated).raster()
        if kind == "tilted":
            return self._tilted(part, rng)
        if kind == "chip":
            return self._chip(part, rng)
        if kind == "debris":
            return self._debris(rng)
        at = self.middle(part)
        angle, away = rng.uniform(0, 2 * math.pi), rng.uniform(14, 21)
        return stained(
            rng,
            self.view,
            self.surface,
            area=(0.004, 0.012),
            tinge=colour(0.85, 0.33, 0.09),
            strength=(0.45, 0.95),
            ragged=0.45,
            rim=0.1,
            gloss=0.05,
            within=np.clip(self.surface.gloss / 0.3, 0.0, 1.0),
            centre=(at[0] + away * math.cos(angle), at[1] + away * math.sin(angle)),
        )

    def _tilted(self, part: int, rng: np.random.Generator) -> Surface:
        """Let a nut ride up on its pocket's rim."""
        angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.15)
        heading = np.array([math.cos(angle), math.sin(angle)], np.float32)
        lean, shift, lift = self.lean.copy(), self.shift.copy(), self.lift.copy()
        lean[part] = slope * heading
        shift[part] = rng.uniform(3.5, 7.0) * heading
        lift[part] = FLAT * slope
        return replace(self, lean=lean, shift=shift, lift=lift).raster()

    def _chip(self, part: int, rng: np.random.Generator) -> Surface:
        """Break a piece out of a nut's rim."""
        corner = self.turn[part] + self.view.angle + math.pi / 6 + rng.integers(6) * math.pi / 3
        at = self.middle(part)
        away = rng.uniform(22, 26)
        outline = blob(
            rng,
            self.view,
            centre=(at[0] + away * math.cos(corner), at[1] + away * math.sin(corner)),
            area=float(rng.uniform(0.003, 0.007)),
            ragged=0.25,
        )
        depth = rng.uniform(0.35, 1.0)
        return replace(self, bite=depth * coverage(outline, 2.0)).raster()

    def _debris(self, rng: np.random.Generator) -> Surface:
        """Drop a curl of swarf."""
        surface = self.surface
        across, taper = stroke(
            rng,
            self.view,
            centre=(float(rng.uniform(-70, 70)), float(rng.uniform(-70, 70))),
            length=rng.uniform(26, 60),
            angle=rng.uniform(0, math.pi),
            bend=0.4,
            waves=rng.uniform(1, 4),
        )
        half, dark = rng.uniform(1.1, 2.0), rng.uniform(0.15, 0.7)
        body = smoothstep(np.abs(across), half + 0.5, half - 0.5) * (taper > 0.05)
        curl = half * np.sqrt(np.maximum(1 - (across / (half + 0.5)) ** 2, 0.0))
        return replace(
            surface,
            albedo=mix(surface.albedo, ZINC * dark, body),
            height=surface.height + body * (1.5 + 1.5 * curl),
            gloss=surface.gloss * (1 - body) + 0.3 * dark * body,
        )


def _hexagon(x: Field, y: Field) -> Field:
    """Distance from the origin along the nearest of six normals: constant on hexagons."""
    half, high = 0.5 * np.abs(x), math.sqrt(0.75) * np.abs(y)
    return np.maximum(2.0 * half, half + high)
