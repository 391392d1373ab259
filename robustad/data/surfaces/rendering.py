"""One image, its clean twin and the mask that tells them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from robustad.data.surfaces.cloth import Weave
from robustad.data.surfaces.label import Label
from robustad.data.surfaces.lighting import Shot
from robustad.data.surfaces.metal import Sheet
from robustad.data.surfaces.scene import Scene
from robustad.data.surfaces.terrazzo import Slab
from robustad.data.surfaces.tray import Tray
from robustad.errors import InputError

SCENES: dict[str, type[Scene]] = {
    "cloth": Weave,
    "metal": Sheet,
    "print": Label,
    "terrazzo": Slab,
    "tray": Tray,
}
# A grey level difference that is seen; the sensor's noise has a standard deviation of 2 or 3.
VISIBLE = 5
# Masks outside this share of the image are drawn again.
AREA = (0.003, 0.06)
ATTEMPTS = 8
# Below this the textures would alias, so small images are rendered finer and averaged.
FINEST = 192
MIN_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A generated image with everything known about it.

    Attributes
    ----------
    image : array, (H, W, 3), uint8
        RGB.
    clean : array, (H, W, 3), uint8
        The same object under the same light with the same sensor noise, without the defect; the
        image itself where there is none.
    mask : array, (H, W), bool
        Where the two differ by more than `VISIBLE` grey levels in a channel, with gaps closed and
        holes filled; all False without a defect.
    """

    image: npt.NDArray[np.uint8]
    clean: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]


def render(category: str, folder: str, index: int, *, size: int = 256, seed: int = 0) -> Rendered:
    """Render one image.

    Parameters
    ----------
    category : str
        One of `CATEGORIES`.
    folder : str
        `train/good`, `test/good` or `test/<defect>`.
    index : int
        Number of the image in its folder; each is drawn on its own.
    size : int, default 256
        Edge of the square image in pixels.
    seed : int, default 0
        Seed of the whole data set.

    Returns
    -------
    Rendered
        The image, its clean twin and the mask.

    Raises
    ------
    InputError
        If the category or the folder is unknown, `size` is below 64, or `index` or `seed` is
        negative.

    Examples
    --------
    >>> rendered = render("tray", "test/missing", 0, size=64)
    >>> rendered.image.shape, rendered.image.dtype.name, bool(rendered.mask.any())
    ((64, 64, 3), 'uint8', True)
    """
    scene_type = scene_of(category)
    check_size(size)
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            raise InputError(f"{name}: expected >= 0, got {value}")
    folders = ("train/good", "test/good", *(f"test/{kind}" for kind in scene_type.DEFECTS))
    if folder not in folders:
        raise InputError(f"folder: expected one of {', '.join(folders)}, got {folder!r}")

    # The streams depend on nothing but what is asked for, so any order and any count agree.
    place = int.from_bytes(f"{category}/{folder}".encode())

    def stream(*key: int) -> np.random.Generator:
        sequence = np.random.SeedSequence((seed, place, index), spawn_key=key)
        return np.random.Generator(np.random.PCG64(sequence))

    factor = -(-FINEST // size)
    scene = scene_type.draw(stream(0), size * factor)
    shot = Shot.draw(stream(1), scene_type.RIG, scene.view, factor=factor)
    clean = shot.take(scene.surface, scene.view)
    kind = folder.rpartition("/")[2]
    if kind == "good":
        return Rendered(image=clean, clean=clean, mask=np.zeros(clean.shape[:2], np.bool_))
    best: Rendered | None = None
    for attempt in range(ATTEMPTS):
        # A defect can be drawn where it hardly shows: a scratch over black ink, a flat dent.
        image = shot.take(scene.damaged(kind, stream(2, attempt)), scene.view)
        rendered = Rendered(image=image, clean=clean, mask=difference_mask(image, clean))
        share = float(rendered.mask.mean())
        if AREA[0] <= share <= AREA[1]:
            return rendered
        if best is None or rendered.mask.sum() > best.mask.sum():
            best = rendered
    assert best is not None
    return best


def difference_mask(
    image: npt.NDArray[np.uint8], clean: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Where two images differ visibly, with gaps closed and holes filled: (H, W) bool."""
    difference = np.maximum(image, clean) - np.minimum(image, clean)
    changed = difference.max(axis=-1) > VISIBLE
    width = 1 + 2 * max(1, round(image.shape[0] / 128))
    wide = ndimage.maximum_filter(np.pad(changed, width), width)
    closed = ndimage.minimum_filter(wide, width)
    # A hole is background that does not reach the padded border, whose corner is background.
    regions, _ = ndimage.label(~closed)
    filled = (regions != regions[0, 0])[width:-width, width:-width]
    return np.ascontiguousarray(filled | changed)


def scene_of(category: str) -> type[Scene]:
    """Find the scene of a category, or list the categories there are."""
    if category not in SCENES:
        raise InputError(f"category: expected one of {', '.join(SCENES)}, got {category!r}")
    return SCENES[category]


def check_size(size: int) -> None:
    """Refuse images too small to show a defect."""
    if size < MIN_SIZE:
        raise InputError(f"size: expected >= {MIN_SIZE} pixels, got {size}")
