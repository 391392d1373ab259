"""A stroke font and the plates that ink or a laser transfers it with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from robustad.data.surfaces.texture import Field, sample

# Polylines through the points of a grid 4 wide and 6 high, each point as "xy", y upwards.
_FONT = {
    "A": "00-26-40 12-32",
    "B": "00-06-36-45-44-33-03 33-42-41-30-00",
    "C": "45-36-16-05-01-10-30-41",
    "D": "00-06-26-44-42-20-00",
    "E": "40-00-06-46 03-33",
    "F": "00-06-46 03-33",
    "G": "45-36-16-05-01-10-30-41-43-23",
    "H": "00-06 40-46 03-43",
    "I": "20-26 10-30 16-36",
    "K": "00-06 46-02 13-40",
    "L": "06-00-40",
    "M": "00-06-23-46-40",
    "N": "00-06-40-46",
    "O": "10-01-05-16-36-45-41-30-10",
    "P": "00-06-36-45-44-33-03",
    "R": "00-06-36-45-44-33-03 23-40",
    "S": "45-36-16-05-04-13-33-42-41-30-10-01",
    "T": "20-26 06-46",
    "U": "06-01-10-30-41-46",
    "V": "06-20-46",
    "W": "06-10-23-30-46",
    "X": "00-46 06-40",
    "Y": "06-23-46 23-20",
    "Z": "06-46-00-40",
    "0": "10-01-05-16-36-45-41-30-10 11-35",
    "1": "14-26-20 10-30",
    "2": "05-16-36-45-44-00-40",
    "3": "05-16-36-45-44-33-23 33-42-41-30-10-01",
    "4": "30-36-02-42",
    "5": "46-06-03-33-42-41-30-00",
    "6": "45-36-16-05-01-10-30-41-42-33-13-02",
    "7": "06-46-10",
    "8": "13-04-05-16-36-45-44-33-13-02-01-10-30-41-42-33",
    "9": "01-10-30-41-45-36-16-05-04-13-33-44",
    "-": "13-33",
    "/": "00-46",
    ".": "10-11",
}
CHARACTERS = "".join(_FONT)
HALF = 160.0  # a plate reaches this far from the object's origin, in units


@dataclass(frozen=True)
class Glyph:
    """One character: its lower left corner and its height in units, y downwards."""

    character: str
    x: float
    y: float
    height: float
    weight: float  # width of the stroke in units

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, with the stroke's width around."""
        w = self.weight
        right = self.x + self.height * 4 / 6
        return self.x - w, self.y - self.height - w, right + w, self.y + w

    def segments(self) -> list[tuple[float, float, float, float]]:
        """Straight strokes as (x0, y0, x1, y1)."""
        unit = self.height / 6
        out = []
        for line in _FONT[self.character].split():
            points = [
                (self.x + unit * int(p[0]), self.y - unit * int(p[1])) for p in line.split("-")
            ]
            out += [(*start, *end) for start, end in pairwise(points)]
        return out


def line(text: str, *, x: float, y: float, height: float, weight: float) -> list[Glyph]:
    """Set `text` from the lower left corner (x, y); spaces advance only."""
    advance = height * 5.4 / 6 + weight * 0.5
    return [
        Glyph(character, x + index * advance, y, height, weight)
        for index, character in enumerate(text)
        if character != " "
    ]


class Plate:
    """Coverage in [0, 1] on a square of the object's frame, [-160, 160] units each way.

    Parameters
    ----------
    density : float
        Pixels per unit.

    Attributes
    ----------
    ink : array, (N, N), float32
        The coverage; row and column grow with y and x.
    """

    def __init__(self, density: float) -> None:
        self.density = density
        count = round(2 * HALF * density)
        self.ink: Field = np.zeros((count, count), np.float32)

    def copy(self) -> Plate:
        """An independent plate with the same ink."""
        other = Plate(self.density)
        other.ink = self.ink.copy()
        return other

    def window(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[tuple[slice, slice], Field, Field]:
        """The slices that cover a rectangle, and the coordinates (x, y) of their points."""
        limit = self.ink.shape[0]
        low_x, high_x, low_y, high_y = (
            int(np.clip(np.floor((value + HALF) * self.density) + extra, 0, limit))
            for value, extra in ((left, 0), (right, 2), (top, 0), (bottom, 2))
        )
        x = ((np.arange(low_x, high_x) + 0.5) / self.density - HALF).astype(np.float32)
        y = ((np.arange(low_y, high_y) + 0.5) / self.density - HALF).astype(np.float32)
        return (slice(low_y, high_y), slice(low_x, high_x)), x[None, :], y[:, None]

    def cover(self, distance: Field, where: tuple[slice, slice], value: float = 1.0) -> None:
        """Ink where a signed distance over a window is negative, with an edge a pixel wide."""
        amount = np.clip(0.5 - distance * (self.density / 1.5), 0.0, 1.0)
        np.maximum(self.ink[where], amount * value, out=self.ink[where])

    def block(self, left: float, top: float, right: float, bottom: float) -> None:
        """Ink a rectangle."""
        where, x, y = self.window(left - 2, top - 2, right + 2, bottom + 2)
        across = np.maximum(left - x, x - right)
        self.cover(np.maximum(across, np.maximum(top - y, y - bottom)), where)

    def write(self, glyph: Glyph, *, erase: bool = False) -> None:
        """Add a glyph, or take ink away in its shape."""
        half = glyph.weight / 2
        for x0, y0, x1, y1 in glyph.segments():
            where, x, y = self.window(
                min(x0, x1) - half - 2,
                min(y0, y1) - half - 2,
                max(x0, x1) + half + 2,
                max(y0, y1) + half + 2,
            )
            dx, dy = x1 - x0, y1 - y0
            along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
            distance = np.hypot(x - x0 - along * dx, y - y0 - along * dy) - half
            if erase:
                keep = np.clip(0.5 + distance * (self.density / 1.5), 0.0, 1.0)
                np.minimum(self.ink[where], keep, out=self.ink[where])
            else:
                self.cover(distance, where)

    def look(self, x: Field, y: Field) -> Field:
        """Coverage at points of the object's frame."""
        return sample(self.ink, (y + HALF) * self.density - 0.5, (x + HALF) * self.density - 0.5)
