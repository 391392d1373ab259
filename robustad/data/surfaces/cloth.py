"""Woven cloth: a canvas of coloured warp and pale weft over a wooden table."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from robustad.data.surfaces.defects import stained
from robustad.data.surfaces.lighting import Rig, Surface
from robustad.data.surfaces.pose import View
from robustad.data.surfaces.scene import Scene
from robustad.data.surfaces.shapes import blob, coverage, spot, stroke
from robustad.data.surfaces.texture import Field, colour, fractal, mix, noise, smoothstep

PITCH = 8.0  # distance between threads, in units
THREADS = 48  # threads with drawn properties each way; more than the image ever shows
CROWN = 1.1  # how far a thread rises and dips, in units
WARP = colour(0.115, 0.165, 0.235)
WEFT = colour(0.36, 0.35, 0.315)
TABLE = colour(0.135, 0.075, 0.035)


@dataclass(frozen=True, kw_only=True)
class Weave(Scene):
    """One piece of cloth.

    Attributes
    ----------
    view : View
        Its pose.
    wander : (array, array)
        Displacement of the threads across their run, (H, W) in units: warp and weft.
    present : (array, array)
        Where the threads exist, (H, W) in [0, 1]: warp and weft.
    tone : (array, array)
        Brightness of each thread, (THREADS,): warp and weft.
    offset : (array, array)
        Displacement of each thread, (THREADS,) in units.
    girth : array, (H, W)
        Relative thickness: slubs.
    fibre : array, (H, W)
        Fine irregularity of the yarn.
    bump : array, (H, W)
        Slow relief of the cloth, in units.
    """

    DEFECTS: ClassVar[tuple[str, ...]] = ("hole", "loose_thread", "missing_thread", "snag", "stain")
    RIG: ClassVar[Rig] = Rig(
        elevation=(34.0, 52.0),
        azimuth=(195.0, 255.0),
        exposure=0.32,
        falloff=0.22,
        shadow=0.35,
        reach=3.0,
        occlusion=0.22,
    )

    view: View
    wander: tuple[Field, Field]
    present: tuple[Field, Field]
    tone: tuple[Field, Field]
    offset: tuple[Field, Field]
    girth: Field
    fibre: Field
    bump: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> Self:
        """Draw a piece of cloth."""
        view = View.draw(rng, size, shift=2 * PITCH, turn=3.0, zoom=0.03)
        tone = rng.normal(1.0, 0.06, (2, THREADS)).astype(np.float32)
        offset = rng.normal(0.0, 0.35, (2, THREADS)).astype(np.float32)
        wander = 1.2 * noise(rng, size, 5), 1.2 * noise(rng, size, 5)
        fine = fractal(rng, size, 28), fractal(rng, size, 28)
        full = np.ones((size, size), np.float32)
        return cls(
            view=view,
            wander=(wander[0] + 0.3 * fine[0], wander[1] + 0.3 * fine[1]),
            present=(full, full),
            tone=(tone[0], tone[1]),
            offset=(offset[0], offset[1]),
            girth=0.06 * fractal(rng, size, 40),
            fibre=noise(rng, size, 128) + 0.7 * noise(rng, size, 256),
            bump=1.2 * noise(rng, size, 4),
        )

    def raster(self) -> Surface:
        """Lay the threads over and under each other."""
        view = self.view
        x, y = view.x + self.wander[0], view.y + self.wander[1]
        warp, across_warp = self._threads(x, self.offset[0])
        weft, across_weft = self._threads(y, self.offset[1])
        # A plain weave: each thread is up at every second crossing, and in between it sways.
        up_warp = np.cos(math.pi * (y / PITCH - 0.5)) * (1 - 2 * (warp % 2)).astype(np.float32)
        up_weft = -np.cos(math.pi * (x / PITCH - 0.5)) * (1 - 2 * (weft % 2)).astype(np.float32)
        top_warp, body_warp = self._yarn(across_warp, up_warp, self.present[0])
        top_weft, body_weft = self._yarn(across_weft, up_weft, self.present[1])
        # Yarn is twisted: fine diagonal strands cross each thread.
        twist_warp = np.sin(2 * math.pi * (y / 2.9 + 1.1 * across_warp) + 0.8 * self.fibre)
        twist_weft = np.sin(2 * math.pi * (x / 2.9 - 1.1 * across_weft) + 0.8 * self.fibre)
        above = smoothstep(top_warp - top_weft, -0.12, 0.12)
        covered = np.maximum(body_warp * above, body_weft * (1 - above))
        tone_warp = self.tone[0][warp] * (1 + 0.10 * twist_warp)
        tone_weft = self.tone[1][weft] * (1 + 0.10 * twist_weft)
        albedo = mix(WEFT * tone_weft, WARP * tone_warp, above)
        albedo *= 1 + 0.07 * self.fibre
        albedo = mix(TABLE, albedo, covered)
        height = np.maximum(top_warp, top_weft) + 0.05 * self.fibre + self.bump
        height += 0.1 * np.where(above > 0.5, twist_warp, twist_weft) * covered
        return Surface(
            albedo=np.clip(albedo, 0.0, 1.0),
            height=height,
            gloss=0.035 * covered,
            tint=colour(1, 1, 1),
            roughness=(0.5, 0.5),
        )

    def _threads(self, position: Field, offset: Field) -> tuple[np.ndarray, Field]:
        """Index of the thread at each point, and the distance from its centre in pitches."""
        across = position * (1 / PITCH)
        index = np.floor(across)
        across -= index + 0.5
        number = (index.astype(np.int32) + THREADS // 2) % THREADS
        return number, across + offset[number] / PITCH

    def _yarn(self, across: Field, up: Field, present: Field) -> tuple[Field, Field]:
        """Height of a thread's upper side, and whether there is thread."""
        half = (0.47 + 0.47 * self.girth) * present
        round_ = np.sqrt(np.maximum(1.0 - (across / np.maximum(half, 1e-3)) ** 2, 0.0))
        body = smoothstep(half - np.abs(across), -0.02, 0.06) * present
        height = CROWN * up + 2.2 * (round_ - 1.0)
        return np.where(body > 0.05, height, -5.0), body

    def damaged(self, kind: str, rng: np.random.Generator) -> Surface:
        """Add a defect."""
        if kind == "hole":
            return self._hole(rng)
        if kind == "loose_thread":
            return self._loose_thread(rng)
        if kind == "missing_thread":
            return self._missing_thread(rng)
        if kind == "snag":
            return self._snag(rng)
        return stained(
            rng,
            self.view,
            self.surface,
            area=(0.01, 0.05),
            tinge=colour(0.32, 0.2, 0.1),
            strength=(0.5, 1.0),
            rim=0.2,
        )

    def _hole(self, rng: np.random.Generator) -> Surface:
        """Cut the threads of both systems, each at its own length, so that the edge frays."""
        area = float(math.exp(rng.uniform(*np.log([0.002, 0.009]))))
        distance = blob(rng, self.view, centre=spot(rng), area=area, ragged=0.1)
        present = []
        for axis, position in enumerate((self.view.x, self.view.y)):
            index, _ = self._threads(position + self.wander[axis], self.offset[axis])
            jag = rng.normal(0.0, 2.2, THREADS).astype(np.float32)[index]
            present.append(self.present[axis] * coverage(-(distance + jag), 3.5))
        fray = 1.6 * np.exp(-((distance / 6.0) ** 2)) * noise(rng, self.view.size, 30)
        wander = (self.wander[0] + fray, self.wander[1] - fray)
        return replace(self, present=(present[0], present[1]), wander=wander).raster()

    def _missing_thread(self, rng: np.random.Generator) -> Surface:
        """Take a stretch of one thread out."""
        axis = int(rng.integers(2))
        view = self.view
        across, along = (view.x, view.y) if axis == 0 else (view.y, view.x)
        across = across + self.wander[axis]
        index, _ = self._threads(across, self.offset[axis])
        centre = spot(rng, margin=48.0)
        row = int((0.5 + centre[1] / 256.0) * view.size)
        column = int((0.5 + centre[0] / 256.0) * view.size)
        length = rng.uniform(50, 150)
        middle = float(along[row, column])
        gone = (index == index[row, column]) & (np.abs(across - across[row, column]) < 2 * PITCH)
        gap = smoothstep(np.abs(along - middle), length / 2, length / 2 - 3.0) * gone
        present = list(self.present)
        present[axis] = present[axis] * (1.0 - gap)
        return replace(self, present=(present[0], present[1])).raster()

    def _snag(self, rng: np.random.Generator) -> Surface:
        """Pull one thread tight: its neighbours are drawn towards it and the cloth puckers."""
        axis = int(rng.integers(2))
        angle = (math.pi / 2 if axis == 0 else 0.0) - self.view.angle
        length, width = rng.uniform(50, 110), rng.uniform(4.5, 7.0)
        across, taper = stroke(
            rng, self.view, centre=spot(rng, margin=56.0), length=length, angle=angle, bend=0.02
        )
        near = np.exp(-((across / width) ** 2)) * taper
        pull = rng.uniform(0.8, 1.2) * across * near
        sway = rng.uniform(2.8, 4.2) * near
        wander = list(self.wander)
        wander[axis] = wander[axis] + pull
        wander[1 - axis] = wander[1 - axis] + sway
        bump = self.bump - rng.uniform(1.8, 3.2) * near
        return replace(self, wander=(wander[0], wander[1]), bump=bump).raster()

    def _loose_thread(self, rng: np.random.Generator) -> Surface:
        """Let a stray thread of the weft's colour lie on top."""
        surface, view = self.surface, self.view
        across, taper = stroke(
            rng,
            view,
            centre=spot(rng, margin=56.0),
            length=rng.uniform(50, 120),
            angle=rng.uniform(0, math.pi),
            bend=0.25,
            waves=rng.uniform(2.0, 8.0),
        )
        half = rng.uniform(1.3, 2.2)
        body = smoothstep(np.abs(across), float(half) + 0.4, float(half) - 0.4) * (taper > 0.02)
        dye = WARP + (WEFT - WARP) * rng.uniform(0.1, 1.0)
        strand = 1 + 0.15 * np.sin(2 * math.pi * (view.u + view.v + 2 * across) / 3.5)
        yarn = dye * (strand * (1 + 0.06 * self.fibre))
        round_ = np.sqrt(np.maximum(1.0 - (across / (half + 0.4)) ** 2, 0.0))
        return replace(
            surface,
            albedo=np.clip(mix(surface.albedo, yarn, body), 0.0, 1.0),
            height=surface.height * (1 - body) + body * (2.2 + 2 * half * round_ + self.bump),
        )
