"""From a surface to a photograph: light, shadows, highlights, lens and sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from robustad.data.surfaces.pose import EXTENT, View
from robustad.data.surfaces.texture import Field, colour

SHADOW_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What light falls on.

    Attributes
    ----------
    albedo : array, (3, H, W), float32 in [0, 1]
        Diffuse reflectance, linear. Colours come first: arithmetic with (H, W) is then fast.
    height : array, (H, W), float32
        Relief in units of 1/256 of the image's edge.
    gloss : array, (H, W), float32
        Strength of the mirror-like reflection; 0 is matte.
    tint : array, (3, 1, 1), float32
        Colour of that reflection.
    roughness : (float, float)
        Spread of the micro-slopes along and across `grain`, as in Ward's reflectance model.
    grain : float
        Direction of brushing in the image, in radians.
    """

    albedo: Field
    height: Field
    gloss: Field
    tint: Field
    roughness: tuple[float, float] = (0.25, 0.25)
    grain: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Rig:
    """How much the photographs of one category vary.

    Attributes
    ----------
    elevation : (float, float)
        Range of the light's height above the surface, in degrees.
    azimuth : (float, float)
        Range of the light's direction, in degrees; 0 is from the right, 90 from below.
    exposure : float
        Largest change of brightness either way, in stops.
    falloff : float
        Largest relative change of the light from the centre to an edge.
    warmth : float
        Largest relative gain of red against blue either way.
    shadow : float
        Darkness of cast shadows in [0, 1].
    reach : float
        Length of the longest shadow considered, in units.
    near : float
        Change of the mirror direction across the image; large values make narrow highlights.
    occlusion : float
        Darkening of hollows per unit of depth.
    noise : float
        Standard deviation of the sensor noise at mid-grey, in grey levels of 255.
    """

    elevation: tuple[float, float] = (40.0, 60.0)
    azimuth: tuple[float, float] = (200.0, 250.0)
    exposure: float = 0.3
    falloff: float = 0.2
    warmth: float = 0.06
    shadow: float = 0.6
    reach: float = 14.0
    near: float = 0.4
    occlusion: float = 0.05
    noise: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One drawn photograph setting; taking it twice gives the same light and the same noise."""

    rig: Rig
    azimuth: float
    elevation: float
    gain: Field  # (3, 1, 1): exposure and colour temperature
    fall: Field  # (H, W): uneven light, vignetting, dust
    highlight: tuple[float, float]
    blur: float
    noise: Field  # (3, size, size)
    factor: int

    @classmethod
    def draw(cls, rng: np.random.Generator, rig: Rig, view: View, *, factor: int) -> Shot:
        """Draw a setting for images rendered `factor` times finer than they are delivered."""
        azimuth = math.radians(rng.uniform(*rig.azimuth))
        elevation = math.radians(rng.uniform(*rig.elevation))
        warmth = rng.uniform(-rig.warmth, rig.warmth)
        green = rng.uniform(-0.25, 0.25) * rig.warmth
        gain = 2.0 ** rng.uniform(-rig.exposure, rig.exposure)
        slope = rng.uniform(0.2, 1.0) * rig.falloff
        side = azimuth + rng.normal(0.0, 0.5)
        vignette = rng.uniform(0.04, 0.22)
        half = EXTENT / 2
        fall = 1.0 + (view.u * math.cos(side) + view.v * math.sin(side)) * (slope / half)
        fall -= (view.u**2 + view.v**2) * (vignette / (2 * half**2))
        _dust(rng, fall, view)
        highlight = rng.uniform(-0.35, 0.35), rng.uniform(-0.35, 0.35)
        blur = rng.uniform(0.35, 0.6)
        size = view.size // factor
        grain = rng.standard_normal((3, size, size), dtype=np.float32)
        return cls(
            rig=rig,
            azimuth=azimuth,
            elevation=elevation,
            gain=colour(gain * (1 + warmth), gain * (1 + green), gain * (1 - warmth)),
            fall=fall,
            highlight=highlight,
            blur=blur,
            noise=grain,
            factor=factor,
        )

    def take(self, surface: Surface, view: View) -> npt.NDArray[np.uint8]:
        """Photograph a surface.

        Parameters
        ----------
        surface : Surface
            What lies under the camera.
        view : View
            Its pose, as the shot was drawn for.

        Returns
        -------
        array, (size, size, 3), uint8
            RGB with a gamma of about 2.2; `size` is the view's divided by `factor`.
        """
        slope_y, slope_x = (np.asarray(g) for g in np.gradient(surface.height, view.pixel))
        flat, up = math.cos(self.elevation), math.sin(self.elevation)
        lit = up - (flat * math.cos(self.azimuth)) * slope_x
        lit -= (flat * math.sin(self.azimuth)) * slope_y
        lit /= np.sqrt(1.0 + slope_x**2 + slope_y**2)
        lit = np.maximum(lit, 0.0) * (0.65 / up)
        if self.rig.shadow:
            lit *= 1.0 - self.rig.shadow * self._shadow(surface.height, view)
        lit += 0.35 * self._open(surface.height, view)
        mirror = self._mirror(surface, slope_x, slope_y, view) * surface.gloss
        linear = surface.albedo * lit + mirror * surface.tint
        linear *= self.fall
        linear *= self.gain
        return self._expose(linear)

    def _shadow(self, height: Field, view: View) -> Field:
        """Soft cast shadows: march towards the light and see how far the relief rises above it."""
        deepest = np.zeros_like(height)
        seen = {(0, 0)}
        for step in range(1, SHADOW_STEPS + 1):
            distance = self.rig.reach * step / SHADOW_STEPS
            right = round(distance * math.cos(self.azimuth) / view.pixel)
            down = round(distance * math.sin(self.azimuth) / view.pixel)
            if (right, down) in seen:
                continue
            seen.add((right, down))
            over = _shift(height, -down, -right)
            over -= height
            over -= distance * math.tan(self.elevation)
            np.maximum(deepest, over, out=deepest)
        softness = 0.08 * self.rig.reach
        out: Field = np.minimum(deepest / softness, 1.0)
        return out

    def _open(self, height: Field, view: View) -> Field | float:
        """Share of the sky a point sees, from its depth below its surroundings."""
        if not self.rig.occlusion:
            return 1.0
        around = ndimage.uniform_filter(height, max(3, round(9 / view.pixel)), mode="nearest")
        out: Field = np.clip(1.0 + self.rig.occlusion * (height - around), 0.35, 1.3)
        return out

    def _mirror(self, surface: Surface, slope_x: Field, slope_y: Field, view: View) -> Field:
        """Ward's lobe: Gaussian in the difference between the slope and the mirror direction."""
        near = self.rig.near / (EXTENT / 2)
        tilt = math.tan((math.pi / 2 - self.elevation) / 2)
        to_x = slope_x - near * view.u + (math.cos(self.azimuth) * tilt + self.highlight[0])
        to_y = slope_y - near * view.v + (math.sin(self.azimuth) * tilt + self.highlight[1])
        cos, sin = math.cos(surface.grain), math.sin(surface.grain)
        along, across = surface.roughness
        lobe = ((cos / along) * to_x + (sin / along) * to_y) ** 2
        lobe += ((cos / across) * to_y - (sin / across) * to_x) ** 2
        out: Field = np.exp(-lobe)
        return out

    def _expose(self, linear: Field) -> npt.NDArray[np.uint8]:
        if self.factor > 1:
            size = linear.shape[1] // self.factor
            linear = linear.reshape(3, size, self.factor, size, self.factor).mean(axis=(2, 4))
        linear = _soften(linear, self.blur)
        # A gentle shoulder keeps highlights from clipping into flat white.
        grey = np.sqrt(np.maximum(linear, 0.0) / (1.0 + 0.22 * linear**2))
        # Close to a gamma of 2.2, but of operations that round alike on every machine.
        grey *= 1.1 - 0.1 * grey
        # Shot noise grows with the signal; in gamma-corrected grey levels it falls with it.
        grey += self.noise * ((self.rig.noise / 255.0) * (1.25 - 0.5 * grey))
        levels = (np.clip(grey, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
        return np.ascontiguousarray(np.moveaxis(levels, 0, -1))


def _dust(rng: np.random.Generator, fall: Field, view: View) -> None:
    """Darken or brighten a few specks, smaller and fainter than any defect."""
    for _ in range(int(rng.poisson(2.5))):
        u, v = rng.uniform(-EXTENT / 2, EXTENT / 2, 2)
        radius, depth = rng.uniform(0.6, 1.5), rng.uniform(-0.3, 0.3)
        row, column = ((at + EXTENT / 2) / view.pixel for at in (v, u))
        reach = 3 * radius / view.pixel + 1
        rows, columns = (slice(max(int(at - reach), 0), int(at + reach)) for at in (row, column))
        away = (view.u[rows, columns] - u) ** 2 + (view.v[rows, columns] - v) ** 2
        fall[rows, columns] *= 1.0 + depth * np.exp(-away / radius**2)


def _soften(image: Field, amount: float) -> Field:
    """Slight defocus: the binomial filter 1-2-1 along both axes, mixed in by `amount`."""
    for _ in range(2):
        step = image[:, 1:] - image[:, :-1]
        step *= amount / 4
        image[:, :-1] += step
        image[:, 1:] -= step
        image = image.swapaxes(1, 2)
    return image


def _shift(field: Field, down: int, right: int) -> Field:
    """Move a field by whole pixels, repeating its edges."""
    size = field.shape[0]
    rows = np.clip(np.arange(size) - down, 0, size - 1)
    columns = np.clip(np.arange(size) - right, 0, size - 1)
    return field[rows[:, None], columns[None, :]]
