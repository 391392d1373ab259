"""Brushed metal: a steel plate with a laser-marked number."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np

from robustad.data.surfaces.defects import scratched, stained
from robustad.data.surfaces.glyphs import CHARACTERS, Plate, line
from robustad.data.surfaces.lighting import Rig, Surface
from robustad.data.surfaces.pose import EXTENT, View
from robustad.data.surfaces.scene import Scene
from robustad.data.surfaces.shapes import blob, coverage, frame, spot
from robustad.data.surfaces.texture import Field, colour, fractal, mix, noise

STEEL = colour(0.86, 0.87, 0.88)
BURNT = colour(0.055, 0.05, 0.05)
NUMBER = (
    *line("NR 4072-8E", x=-108, y=36, height=23, weight=3.8),
    *line("1.4301 / 2B", x=-108, y=66, height=13, weight=2.4),
)


@dataclass(frozen=True, kw_only=True)
class Sheet(Scene):
    """One plate.

    Attributes
    ----------
    view : View
        Its pose; the plate is brushed along its x axis.
    brush : array, (H, W)
        Relief left by the brush, of unit variance.
    fine : array, (H, W)
        Brightness of single fine scratches of the brush.
    wave : array, (H, W)
        Unevenness of the plate, in units.
    mark : array, (H, W)
        Coverage of the laser's mark in [0, 1].
    burn : float
        Darkness of the mark in [0, 1].
    cloud : array, (H, W)
        Uneven darkness of the mark and finger-wide haze, of unit variance.
    """

    DEFECTS: ClassVar[tuple[str, ...]] = ("dent", "misprint", "pit", "scratch", "stain")
    RIG: ClassVar[Rig] = Rig(
        elevation=(52.0, 66.0),
        azimuth=(240.0, 300.0),
        exposure=0.28,
        falloff=0.18,
        shadow=0.3,
        reach=3.0,
        near=0.42,
        occlusion=0.1,
    )

    view: View
    brush: Field
    fine: Field
    wave: Field
    mark: Field
    burn: float
    cloud: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> Self:
        """Draw a plate."""
        view = View.draw(rng, size, shift=7.0, turn=2.5, zoom=0.02)
        brush = 0.8 * noise(rng, size, (256, 6)) + 0.5 * noise(rng, size, (96, 3))
        brush += 0.55 * noise(rng, size, (256, 20))
        fine = noise(rng, size, (256, 10)) + 0.6 * noise(rng, size, (256, 48))
        # The brush turns with the plate; past the field's edge its mirror image continues it.
        rows = (view.v - math.tan(view.angle) * view.u + EXTENT / 2) / view.pixel - 0.5
        rows = (size - 1) - np.abs((size - 1) - np.abs(rows))
        above = np.minimum(rows.astype(np.intp), size - 2)
        below = rows - above.astype(np.float32)

        def turned(field: Field) -> Field:
            upper = np.take_along_axis(field, above, axis=0)
            return mix(upper, np.take_along_axis(field, above + 1, axis=0), below)

        return cls(
            view=view,
            brush=turned(brush),
            fine=turned(fine),
            wave=noise(rng, size, 3) * 0.8,
            mark=_plate(size).look(view.x, view.y),
            burn=rng.uniform(0.72, 0.92),
            cloud=fractal(rng, size, 6),
        )

    def raster(self) -> Surface:
        """Brush the plate and mark it."""
        burnt = self.mark * self.burn * (1.0 + 0.07 * self.cloud + 0.06 * self.fine)
        burnt = np.clip(burnt, 0.0, 1.0)
        shade = 0.10 * (1 + 0.16 * self.fine) * STEEL
        gloss = 0.62 * (1 + 0.13 * self.fine + 0.03 * self.cloud)
        return Surface(
            albedo=mix(shade, BURNT, burnt),
            height=0.085 * self.brush + self.wave - 0.25 * self.mark,
            gloss=gloss * (1.0 - 0.88 * burnt),
            tint=STEEL,
            roughness=(0.36, 0.6),
            grain=self.view.angle,
        )

    def damaged(self, kind: str, rng: np.random.Generator) -> Surface:
        """Add a defect."""
        if kind == "dent":
            return self._dent(rng)
        if kind == "misprint":
            return self._misprint(rng)
        if kind == "pit":
            return self._pit(rng)
        if kind == "scratch":
            # Across the grain: along it a scratch is what the brush does everywhere.
            return scratched(
                rng,
                self.view,
                self.surface,
                length=(45, 130),
                width=(1.3, 2.5),
                depth=(0.14, 0.55),
                angle=(0.25 * math.pi, 0.75 * math.pi),
                gloss=0.1,
            )
        return stained(
            rng,
            self.view,
            self.surface,
            area=(0.008, 0.05),
            tinge=colour(1.0, 0.62, 0.36),
            strength=(0.45, 0.85),
            gloss=0.35,
        )

    def _dent(self, rng: np.random.Generator) -> Surface:
        """Push the plate in; the brushing stays, the reflection bends."""
        length = rng.uniform(9, 16)
        width = length * rng.uniform(0.55, 1.0)
        p, q = frame(self.view, spot(rng), rng.uniform(0, math.pi))
        bowl = np.exp(-((p / length) ** 2) - (q / width) ** 2)
        return replace(self.surface, height=self.surface.height - rng.uniform(2.2, 4.5) * bowl)

    def _pit(self, rng: np.random.Generator) -> Surface:
        """Let corrosion eat a cluster of small pits."""
        centre = spot(rng)
        eaten = np.zeros_like(self.brush)
        for _ in range(int(rng.integers(4, 10))):
            at = (centre[0] + rng.normal(0, 11), centre[1] + rng.normal(0, 11))
            area = float(rng.uniform(0.0002, 0.0009))
            outline = blob(rng, self.view, centre=at, area=area, ragged=0.2)
            np.maximum(eaten, coverage(outline, 2.5), out=eaten)
        surface = self.surface
        deep = rng.uniform(0.45, 0.9)
        rough = 0.25 * noise(rng, self.view.size, 160)
        return replace(
            surface,
            albedo=mix(surface.albedo, colour(0.085, 0.07, 0.058), deep * eaten),
            height=surface.height - eaten * deep * (1.2 + rough),
            gloss=surface.gloss * (1 - 0.8 * deep * eaten),
        )

    def _misprint(self, rng: np.random.Generator) -> Surface:
        """Write some characters wrongly, twice, too faintly or too boldly."""
        plate = _plate(self.view.size).copy()
        way = ("bold", "doubled", "faded", "wrong")[int(rng.integers(4))]
        large = [glyph for glyph in NUMBER if glyph.height > 15]
        first = int(rng.integers(len(large)))
        for glyph in large[first : first + int(rng.integers(1, 4))]:
            where, _, _ = plate.window(*glyph.box)
            if way == "bold":
                plate.write(replace(glyph, weight=glyph.weight * rng.uniform(1.7, 2.3)))
            elif way == "doubled":
                dx, dy = rng.uniform(2.5, 5.0), rng.uniform(-4.0, -2.0)
                plate.write(replace(glyph, x=glyph.x + dx, y=glyph.y + dy))
            elif way == "faded":
                plate.ink[where] *= rng.uniform(0.1, 0.4)
            else:
                plate.ink[where] = 0.0
                others = CHARACTERS.replace(glyph.character, "")
                plate.write(replace(glyph, character=others[int(rng.integers(len(others)))]))
        return replace(self, mark=plate.look(self.view.x, self.view.y)).raster()


@lru_cache(maxsize=4)
def _plate(size: int) -> Plate:
    """What the laser writes; shared, so copy it before changing it."""
    plate = Plate(1.5 * size / EXTENT)
    for glyph in NUMBER:
        plate.write(glyph)
    return plate
