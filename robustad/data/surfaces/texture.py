"""Random fields and small field operations that every renderer builds on."""

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

# (H, W), or (3, H, W) for colours. Always float32, which numpy's stubs lose in products with
# plain numbers.
Field: TypeAlias = npt.NDArray[np.floating[Any]]


def noise(rng: np.random.Generator, size: int, cells: int | tuple[int, int]) -> Field:
    """Smooth noise of zero mean and unit variance.

    Parameters
    ----------
    rng : Generator
        Where the random numbers come from.
    size : int
        Edge of the square field in pixels.
    cells : int or (int, int)
        Independent values along the rows and the columns: few make broad waves, `size` makes
        grain, unequal numbers make streaks.

    Returns
    -------
    array, (size, size), float32
        A Gaussian random field, interpolated by cubic B-splines.

    Examples
    --------
    >>> import numpy as np
    >>> field = noise(np.random.default_rng(0), 128, 64)
    >>> field.shape, bool(0.9 < field.std() < 1.1)
    ((128, 128), True)
    """
    rows, columns = cells if isinstance(cells, tuple) else (cells, cells)
    lattice = rng.standard_normal((rows + 3, columns + 3), dtype=np.float32)
    # A separable upsampling is two matrix products, far faster than any interpolation call.
    out = _spline_weights(size, rows) @ lattice @ _spline_weights(size, columns).T
    return np.asarray(out, np.float32)


def fractal(
    rng: np.random.Generator, size: int, cells: int, *, octaves: int = 3, decay: float = 0.5
) -> Field:
    """Sum of `octaves` noises, each twice as fine and `decay` times as strong; unit variance."""
    weights = [decay**octave for octave in range(octaves)]
    parts = [weight * noise(rng, size, cells << octave) for octave, weight in enumerate(weights)]
    total: Field = np.sum(parts, axis=0, dtype=np.float32)
    return total * (1.0 / math.hypot(*weights))


def smoothstep(values: Field, low: float, high: float) -> Field:
    """Cubic ramp from 0 at `low` to 1 at `high`; falls where `high` is below `low`."""
    t = np.clip((values - low) * (1.0 / (high - low)), 0.0, 1.0)
    out: Field = t * t * (3.0 - 2.0 * t)
    return out


def sample(field: Field, rows: Field, columns: Field) -> Field:
    """Bilinear look-up of `field` (h, w) at fractional pixels, edges repeated."""
    height, width = field.shape
    row0 = np.clip(np.floor(rows), 0, height - 2).astype(np.int32)
    column0 = np.clip(np.floor(columns), 0, width - 2).astype(np.int32)
    down = np.clip(rows - row0, 0.0, 1.0).astype(np.float32)
    right = np.clip(columns - column0, 0.0, 1.0).astype(np.float32)
    flat = field.reshape(-1)
    corner = row0 * width + column0
    upper = flat[corner]
    upper = upper + right * (flat[corner + 1] - upper)
    lower = flat[corner + width]
    lower = lower + right * (flat[corner + width + 1] - lower)
    out: Field = upper + down * (lower - upper)
    return out


def colour(red: float, green: float, blue: float) -> Field:
    """Make a linear colour, (3, 1, 1), to be combined with fields (H, W) or (3, H, W)."""
    return np.array([red, green, blue], np.float32).reshape(3, 1, 1)


def mix(first: Field, second: Field, amount: Field) -> Field:
    """Blend `first` towards `second` by `amount` (H, W) in [0, 1]; both may be colours."""
    return first + amount * (second - first)


@lru_cache(maxsize=128)
def _spline_weights(size: int, cells: int) -> Field:
    position = (np.arange(size) + 0.5) * (cells / size)
    first = np.floor(position).astype(np.intp)
    f = position - first
    taps = np.stack(
        [
            (1 - f) ** 3,
            3 * f**3 - 6 * f**2 + 4,
            -3 * f**3 + 3 * f**2 + 3 * f + 1,
            f**3,
        ],
        axis=1,
    )
    # Rows of unit length make the variance one everywhere, also between the lattice points.
    taps /= np.sqrt(np.sum(taps**2, axis=1, keepdims=True))
    weights = np.zeros((size, cells + 3), np.float32)
    np.put_along_axis(weights, first[:, None] + np.arange(4), taps.astype(np.float32), axis=1)
    return weights
