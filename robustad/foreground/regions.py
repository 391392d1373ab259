"""From a map to a clean mask: threshold, largest component, holes."""

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 256


def otsu(values: npt.NDArray[np.floating[Any]]) -> float:
    """Otsu's threshold of values in [0, 1], in 256 bins: the one that parts them best.

    Parameters
    ----------
    values : array of any shape
        In [0, 1].

    Returns
    -------
    float
        The upper class lies above it. Values in one bin only give that bin's lower edge.

    Examples
    --------
    >>> import numpy as np
    >>> 0.1 < otsu(np.array([0.1, 0.1, 0.1, 0.8, 0.9])) < 0.8
    True
    """
    counts, edges = np.histogram(values, bins=BINS, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    spread = np.where((below > 0) & (above > 0), below * above * distance**2, -1.0)
    best = np.flatnonzero(spread == spread.max())
    if spread.max() < 0:
        return float(edges[np.flatnonzero(counts)[0]])
    # Between two clusters every cut is as good as any; take the middle.
    return float(edges[1:-1][best].mean())


def cleaned(mask: npt.NDArray[np.bool_], *, largest: bool, fill: bool) -> npt.NDArray[np.bool_]:
    """Keep the largest connected component (8 neighbours) of a mask (H, W) and fill its holes."""
    from scipy.ndimage import binary_fill_holes, label

    if largest and mask.any():
        found, _ = label(mask, np.ones((3, 3)))
        sizes = np.bincount(found.ravel())
        sizes[0] = 0
        mask = found == sizes.argmax()
    if fill:
        mask = binary_fill_holes(mask)
    return np.asarray(mask, np.bool_)
