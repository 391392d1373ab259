"""`Surfaces`: a generated data set of surfaces and parts with exact defect masks.

It is embedded: nothing is read from disk or downloaded, and the same arguments give the same
images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from robustad.data.dataset import ANOMALOUS, NORMAL, Dataset, Sample
from robustad.data.surfaces.rendering import SCENES, Rendered, check_size, render, scene_of
from robustad.errors import InputError

CATEGORIES: tuple[str, ...] = tuple(SCENES)
DEFECTS: dict[str, tuple[str, ...]] = {name: scene.DEFECTS for name, scene in SCENES.items()}

__all__ = ["CATEGORIES", "DEFECTS", "Rendered", "Surfaces", "load_surfaces", "render"]


@dataclass(frozen=True, kw_only=True)
class Surfaces:
    """The embedded data set: generated photographs of five kinds of inspected objects.

    Parameters
    ----------
    size : int, default 256
        Edge of the square images in pixels, at least 64.
    train : int, default 32
        Normal training images of a category.
    test_good : int, default 24
        Normal test images of a category.
    per_defect : int, default 8
        Test images of each kind of defect.
    seed : int, default 0
        Another seed is another production run: other objects, light and defects.

    Raises
    ------
    InputError
        If `size` is below 64, or a count or the seed is negative.

    Notes
    -----
    Image i of a folder does not depend on how many are asked for, nor on the other folders.

    Examples
    --------
    >>> data = Surfaces(size=64, train=2, test_good=1, per_defect=1).load("cloth")
    >>> [sample.name for sample in data.train]
    ['train/good/000', 'train/good/001']
    >>> [sample.defect for sample in data.test]
    ['good', 'hole', 'loose_thread', 'missing_thread', 'snag', 'stain']
    """

    CATEGORIES: ClassVar[tuple[str, ...]] = CATEGORIES
    DEFECTS: ClassVar[dict[str, tuple[str, ...]]] = DEFECTS

    size: int = 256
    train: int = 32
    test_good: int = 24
    per_defect: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_size(self.size)
        for name in ("train", "test_good", "per_defect", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected >= 0, got {getattr(self, name)}")

    def load(self, category: str = "cloth") -> Dataset:
        """Render a category, or hand out what this process has rendered before.

        Parameters
        ----------
        category : str, default "cloth"
            One of `CATEGORIES`: cloth, metal, print, terrazzo, tray.

        Returns
        -------
        Dataset
            Its samples hold read-only arrays: images (size, size, 3) uint8 and, where there is a
            defect, masks (size, size) bool.

        Raises
        ------
        InputError
            If the category is unknown.
        """
        scene_of(category)
        return _load(self, category)


def load_surfaces(
    category: str = "cloth",
    *,
    size: int = 256,
    train: int = 32,
    test_good: int = 24,
    per_defect: int = 8,
    seed: int = 0,
) -> Dataset:
    """Load one category of `Surfaces`; see there for the parameters and the errors.

    Examples
    --------
    >>> load_surfaces("metal", size=64, train=1, test_good=0, per_defect=0).train[0].read().shape
    (64, 64, 3)
    """
    return Surfaces(
        size=size, train=train, test_good=test_good, per_defect=per_defect, seed=seed
    ).load(category)


@lru_cache(maxsize=8)
def _load(spec: Surfaces, category: str) -> Dataset:
    def samples(folder: str, count: int) -> list[Sample]:
        return [_sample(spec, category, folder, index) for index in range(count)]

    test = samples("test/good", spec.test_good)
    for defect in SCENES[category].DEFECTS:
        test += samples(f"test/{defect}", spec.per_defect)
    return Dataset(
        name="surfaces",
        category=category,
        train=tuple(samples("train/good", spec.train)),
        test=tuple(sorted(test, key=lambda sample: sample.name)),
    )


def _sample(spec: Surfaces, category: str, folder: str, index: int) -> Sample:
    rendered = render(category, folder, index, size=spec.size, seed=spec.seed)
    defect = folder.rpartition("/")[2]
    # The arrays are shared between all who load this category.
    rendered.image.flags.writeable = rendered.mask.flags.writeable = False
    return Sample(
        image=rendered.image,
        label=NORMAL if defect == "good" else ANOMALOUS,
        name=f"{folder}/{index:03d}",
        defect=defect,
        mask=None if defect == "good" else rendered.mask,
    )
