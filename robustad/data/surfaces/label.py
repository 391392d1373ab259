"""A printed label: a title, text, motifs, a bar code and control patches on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np

from robustad.data.surfaces.defects import scratched, stained
from robustad.data.surfaces.glyphs import CHARACTERS, Glyph, Plate, line
from robustad.data.surfaces.lighting import Rig, Surface
from robustad.data.surfaces.pose import EXTENT, View
from robustad.data.surfaces.scene import Scene
from robustad.data.surfaces.shapes import blob, coverage, spot
from robustad.data.surfaces.texture import Field, colour, fractal, noise

PAPER = colour(0.74, 0.715, 0.655)
# What each ink multiplies the paper by: blue, red, black.
INKS = colour(0.07, 0.16, 0.42), colour(0.78, 0.16, 0.09), colour(0.055, 0.055, 0.06)
BLUE, RED, BLACK = 0, 1, 2
TITLE = tuple(line("SAMPLE", x=-99, y=-73, height=27, weight=5.2))
TEXT = (
    *line("LOT 47-B", x=-109, y=-28, height=15, weight=2.8),
    *line("08/27", x=38, y=-28, height=15, weight=2.8),
)
MOTIFS = tuple((x, y) for y in (3.0, 53.0) for x in (-84.0, -28.0, 28.0, 84.0))


@dataclass(frozen=True, kw_only=True)
class Label(Scene):
    """One printed label.

    Attributes
    ----------
    view : View
        Its pose.
    x, y : array, (H, W)
        Points of the design, with the paper's stretch and the ink's ragged edge, in units.
    register : array, (3, 2)
        Misregistration of each ink, in units.
    density : array, (3,)
        Strength of each ink.
    mottle, fibre, wave : array, (H, W)
        Unevenness of the ink, texture of the paper, and its slow relief in units.
    """

    DEFECTS: ClassVar[tuple[str, ...]] = ("ghost", "misprint", "scratch", "smear", "stain")
    RIG: ClassVar[Rig] = Rig(
        elevation=(48.0, 66.0),
        azimuth=(180.0, 360.0),
        exposure=0.3,
        falloff=0.22,
        shadow=0.0,
        near=0.5,
        occlusion=0.0,
    )

    view: View
    x: Field
    y: Field
    register: Field
    density: Field
    mottle: Field
    fibre: Field
    wave: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> Self:
        """Draw a label."""
        view = View.draw(rng, size, shift=5.0, turn=1.8, zoom=0.012)
        return cls(
            view=view,
            x=view.x + 0.13 * noise(rng, size, 110) + 0.4 * noise(rng, size, 3),
            y=view.y + 0.13 * noise(rng, size, 110) + 0.4 * noise(rng, size, 3),
            register=rng.normal(0, 0.25, (3, 2)).astype(np.float32),
            density=rng.uniform(0.84, 0.98, 3).astype(np.float32),
            mottle=fractal(rng, size, 24),
            fibre=fractal(rng, size, 64, octaves=2, decay=0.8),
            wave=1.5 * noise(rng, size, 3) + 0.25 * noise(rng, size, 9),
        )

    def inks(self, plates: tuple[Plate, ...] | None = None) -> Field:
        """Coverage (3, H, W) of each ink in [0, 1], as the plates would print it on this label."""
        plates = _plates(self.view.size) if plates is None else plates
        return np.stack(
            [
                plate.look(self.x + self.register[i, 0], self.y + self.register[i, 1])
                for i, plate in enumerate(plates)
            ]
        )

    def raster(self) -> Surface:
        """Print the label."""
        return self.printed(self.inks())

    def printed(self, inks: Field) -> Surface:
        """Lay the inks on the paper."""
        uneven = 1 + 0.03 * self.mottle + 0.025 * self.fibre
        albedo = PAPER * (1 + 0.025 * self.fibre + 0.012 * self.mottle)
        for i, ink in enumerate(INKS):
            amount = np.clip(inks[i] * self.density[i] * uneven, 0.0, 1.0)
            albedo = albedo * (1 - amount * (1 - ink))
        return Surface(
            albedo=np.clip(albedo, 0.0, 1.0),
            height=self.wave + 0.05 * self.fibre,
            gloss=0.03 + 0.04 * inks.max(axis=0),
            tint=colour(1, 1, 1),
            roughness=(0.2, 0.2),
        )

    def damaged(self, kind: str, rng: np.random.Generator) -> Surface:
        """Add a defect."""
        if kind == "ghost":
            return self._ghost(rng)
        if kind == "misprint":
            return self._misprint(rng)
        if kind == "smear":
            return self._smear(rng)
        if kind == "scratch":
            return scratched(
                rng,
                self.view,
                self.surface,
                length=(45, 120),
                width=(1.8, 3.2),
                depth=(0.4, 0.9),
                bare=PAPER * 1.05,
                strength=0.85,
                count=int(rng.integers(2, 5)),
            )
        return stained(
            rng,
            self.view,
            self.surface,
            area=(0.01, 0.05),
            tinge=colour(0.66, 0.43, 0.22),
            strength=(0.5, 0.95),
            rim=0.25,
        )

    def _window(self, rng: np.random.Generator, area: tuple[float, float], soft: float) -> Field:
        size = float(math.exp(rng.uniform(*np.log(area))))
        outline = blob(rng, self.view, centre=spot(rng), area=size, ragged=0.1, stretch=3.0)
        return coverage(outline, soft)

    def _ghost(self, rng: np.random.Generator) -> Surface:
        """Print part of the design a second time, faint and displaced."""
        where = self._window(rng, (0.035, 0.09), 6.0)
        angle, away = rng.uniform(0, 2 * math.pi), rng.uniform(5.0, 8.0)
        moved = replace(
            self,
            x=self.x + (away * math.cos(angle)),
            y=self.y + (away * math.sin(angle)),
        )
        strength = rng.uniform(0.5, 0.8)
        inks = self.inks()
        return self.printed(np.maximum(inks, strength * where * moved.inks()))

    def _smear(self, rng: np.random.Generator) -> Surface:
        """Wipe over ink that has not dried."""
        where = self._window(rng, (0.02, 0.06), 5.0)
        angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(12.0, 20.0)
        clean = self.inks()
        wiped = np.zeros_like(clean)
        for share in np.linspace(0.2, 1.0, 5):
            step = float(share * reach)
            moved = replace(
                self,
                x=self.x + (step * math.cos(angle)),
                y=self.y + (step * math.sin(angle)),
            )
            wiped += 0.2 * moved.inks()
        dragged = np.maximum(0.6 * clean, 0.2 * clean + 0.75 * wiped)
        return self.printed(clean + where * (dragged - clean))

    def _misprint(self, rng: np.random.Generator) -> Surface:
        """Leave out or exchange characters, or print a motif wrongly."""
        plates = tuple(plate.copy() for plate in _plates(self.view.size))
        if rng.uniform() < 0.35:
            x, y = MOTIFS[int(rng.integers(len(MOTIFS)))]
            window, _, _ = plates[BLUE].window(x - 24, y - 24, x + 24, y + 24)
            way = int(rng.integers(3))
            for ink in (BLUE, RED):
                if way == 0 or way == 1 + ink:
                    plates[ink].ink[window] = 0.0
            return self.printed(self.inks(plates))
        large = rng.uniform() < 0.4
        glyphs = TITLE if large else TEXT
        first = int(rng.integers(len(glyphs) - 3))
        wrong = rng.uniform() < 0.5
        for glyph in glyphs[first : first + (1 if large else int(rng.integers(2, 5)))]:
            self._strike(plates, glyph, rng, wrong=wrong, knocked_out=large)
        return self.printed(self.inks(plates))

    def _strike(
        self,
        plates: tuple[Plate, ...],
        glyph: Glyph,
        rng: np.random.Generator,
        *,
        wrong: bool,
        knocked_out: bool,
    ) -> None:
        plate = plates[BLUE if knocked_out else BLACK]
        where, _, _ = plate.window(*glyph.box)
        plate.ink[where] = 1.0 if knocked_out else 0.0
        if wrong:
            others = CHARACTERS.replace(glyph.character, "")
            other = others[int(rng.integers(len(others)))]
            plate.write(replace(glyph, character=other), erase=knocked_out)


@lru_cache(maxsize=4)
def _plates(size: int) -> tuple[Plate, Plate, Plate]:
    """Make the design's plates, an ink each; shared, so copy them before changing them."""
    blue, red, black = (Plate(1.5 * size / EXTENT) for _ in range(3))
    blue.block(-111, -110, 111, -63)
    for glyph in TITLE:
        blue.write(glyph, erase=True)
    red.block(-111, -57, 111, -53)
    for glyph in TEXT:
        black.write(glyph)
    for x, y in MOTIFS:
        _motif(blue, red, x, y)
    _bars(black)
    for plate, x in ((blue, 32.0), (red, 60.0), (black, 88.0)):  # the printer's control patches
        plate.block(x, 84, x + 22, 110)
    for plate in (blue, red, black):
        plate.ink.flags.writeable = False
    return blue, red, black


def _motif(blue: Plate, red: Plate, x0: float, y0: float) -> None:
    """Draw a rosette: eight petals around a dot, within a ring."""
    where, x, y = blue.window(x0 - 24, y0 - 24, x0 + 24, y0 + 24)
    radius, angle = np.hypot(x - x0, y - y0), np.arctan2(y - y0, x - x0)
    petals = radius - (12.5 + 5.5 * np.cos(8 * angle))
    blue.cover(np.maximum(petals, 8.5 - radius), where)
    red.cover(radius - 5.2, where)
    red.cover(np.abs(radius - 21.0) - 1.2, where)


def _bars(plate: Plate) -> None:
    """Draw a bar code: bars and gaps of one to three modules."""
    x = -110.0
    for index, code in enumerate("041712802659173048256130794"):
        width = 2.4 * (1 + int(code) % 3)
        if index % 2 == 0:
            plate.block(x, 84, x + width, 110)
        x += width
