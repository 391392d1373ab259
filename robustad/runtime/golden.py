"""A test image that any language can compute, to check an engine against the exporter's outputs."""

import numpy as np
import numpy.typing as npt

RECIPE = "quadratic-256"


def golden_image(height: int, width: int) -> npt.NDArray[np.float32]:
    """Compute the golden input of an exported file from its size alone.

    Parameters
    ----------
    height, width : int
        Size in pixels.

    Returns
    -------
    array, (1, 3, height, width), float32 in [0, 1]
        `((i*i + 2*j*j + 3*i*j + 50*c) mod 256) / 255` at row i, column j and channel c: integers
        up to the division, so that every language and platform gets the same values.

    Examples
    --------
    >>> (golden_image(2, 3)[0, 1] * 255).round().astype(int).tolist()
    [[50, 52, 58], [51, 56, 65]]
    """
    row = np.arange(height, dtype=np.int64)[:, None]
    column = np.arange(width, dtype=np.int64)
    channel = np.arange(3, dtype=np.int64)[:, None, None]
    values = (row * row + 2 * column * column + 3 * row * column + 50 * channel) % 256
    image: npt.NDArray[np.float32] = (values / 255).astype(np.float32)[None]
    return image
