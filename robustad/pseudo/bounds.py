"""Edges of a pasted patch: published bounds a category, at 224 pixels, and their scaling."""

from collections.abc import Mapping
from types import MappingProxyType

from robustad.errors import InputError

REFERENCE_EDGE = 224
DEFAULT = (14, 86)
# Patches of fewer pixels carry no structure that could be rotated or warped.
LEAST_EDGE = 2

# Where the authors' code departs from (14, 86). Names of data sets as `robustad.data.load` has
# them; "" stands for every category without an own entry.
_PUBLISHED: Mapping[str, Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "mvtec": {
            "bottle": (14, 65),
            "cable": (14, 65),
            "capsule": (14, 39),
            "hazelnut": (14, 65),
            "metal_nut": (14, 65),
            "pill": (14, 39),
            "screw": (9, 35),
            "toothbrush": (14, 39),
            "zipper": (14, 65),
        },
        "visa": {"capsules": (6, 86), "cashew": (10, 86), "fryum": (6, 15)},
        "mpdd": {"": (6, 86), "metal_plate": DEFAULT},
        "btad": {"01": (9, 86), "03": (9, 86)},
        "headct": {"": (9, 86)},
        "wfdd": {"": (9, 86)},
    }
)


def published(dataset: str, category: str) -> tuple[int, int]:
    """Least and largest edge of a patch for a category.

    Parameters
    ----------
    dataset : str
        Name of the data set as `robustad.data.load` takes it.
    category : str
        Name of the category.

    Returns
    -------
    (int, int)
        In pixels at an image edge of 224; (14, 86) where nothing is published.

    Notes
    -----
    Facts from the source code of Nafez et al., PatchGuard (CVPR 2025).

    Examples
    --------
    >>> published("mvtec", "screw"), published("folder", "mine")
    ((9, 35), (14, 86))
    """
    known = _PUBLISHED.get(dataset, {})
    return known.get(category, known.get("", DEFAULT))


def scaled(bounds: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Bounds at 224 pixels as whole pixels of an image of another size.

    Parameters
    ----------
    bounds : (int, int)
        Least and largest edge at 224 pixels.
    image_size : int
        Edge of the square image in pixels.

    Returns
    -------
    (int, int)
        At least 2 pixels; the larger one is cut to the image.

    Raises
    ------
    InputError
        If the image is smaller than the least box.

    Examples
    --------
    >>> scaled((14, 86), 448)
    (28, 172)
    """
    low, high = (max(LEAST_EDGE, round(b * image_size / REFERENCE_EDGE)) for b in bounds)
    if low > image_size:
        raise InputError(
            f"image_size: expected at least the least patch edge of {low} pixels ({bounds[0]} at "
            f"{REFERENCE_EDGE}), got {image_size}"
        )
    return low, min(high, image_size)
