"""Anyone's own folder of images as a data set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustad.data._scan import files_in, folders_in, images_in, pair_masks
from robustad.data.dataset import ANOMALOUS, NORMAL, Dataset, Sample
from robustad.data.splits import hold_out
from robustad.errors import DataError, InputError

NORMAL_NAMES = ("good", "normal", "normals", "ok")
ANOMALOUS_NAMES = (
    "abnormal",
    "anomalies",
    "anomalous",
    "anomaly",
    "bad",
    "defect",
    "defective",
    "defects",
    "ko",
    "ng",
    "nok",
)
MASK_NAMES = ("ground_truth", "masks", "mask")


@dataclass
class _Parts:
    """Where the images lie; `train` None asks for a split of the normal ones."""

    train: Path | None = None
    normal: list[Path] = field(default_factory=list)
    anomalous: dict[str, Path] = field(default_factory=dict)
    masks: Path | None = None


def folder(
    root: str | Path,
    *,
    train: str | Path | None = None,
    test_normal: str | Path | None = None,
    test_anomalous: str | Path | Sequence[str | Path] | None = None,
    masks: str | Path | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    category: str | None = None,
) -> Dataset:
    """Read your own images.

    Parameters
    ----------
    root : str or Path
        The folder all images lie in. Without further arguments it is one of

        - `train/good` (or images directly in `train`), `test/<good or defect>`, and masks in
          `ground_truth/<defect>`;
        - `good` and `defect` side by side (also normal, ok; anomalous, bad, nok, ...), masks in
          `masks` or `ground_truth`;
        - images directly in it, all taken as normal, for training alone.
    train : str or Path or None, default None
        Folder of normal images to train on, relative to `root`. With None and `test_normal`
        given, the normal images are split by `test_fraction`.
    test_normal : str or Path or None, default None
        Folder of normal images to test on.
    test_anomalous : str, Path, sequence of these or None, default None
        Folder or folders of anomalous images. A subfolder with images is a defect class of its
        own; images directly in a folder are a class named after the folder.
    masks : str or Path or None, default None
        Folder of masks, in `<defect>/` or directly, named `<stem>_mask` or `<stem>`. An anomalous
        image may lack a mask; pixel measures then leave it out.
    test_fraction : float in (0, 1), default 0.2
        Share of the normal images to test on where there is no training folder.
    seed : int >= 0, default 0
        Seed of that split.
    category : str or None, default None
        Name of the category; by default the folder's.

    Returns
    -------
    Dataset
        With the name `folder`; sample names are paths relative to `root`.

    Raises
    ------
    DataError
        If no layout is recognised, a folder is missing or empty, file names clash, or a mask fits
        no image.
    InputError
        If an argument is out of range or names a folder outside `root`.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        got = "a file" if base.exists() else "no such folder"
        raise DataError(f"{base}: expected a folder of images, got {got}")
    if not 0.0 < test_fraction < 1.0:
        raise InputError(f"test_fraction: expected a share in (0, 1), got {test_fraction}")
    if seed < 0:
        raise InputError(f"seed: expected an integer >= 0, got {seed}")
    if train is None and test_normal is None and test_anomalous is None:
        parts = _detect(base)
    else:
        parts = _given(base, train, test_normal, test_anomalous)
    if masks is not None:
        parts.masks = _inside(base, masks, "masks")
    return _read(base, parts, test_fraction, seed, category or base.resolve().name)


# Reads like a data set's name where the others are spelled `Surfaces`.
Folder = folder


def _given(
    base: Path,
    train: str | Path | None,
    test_normal: str | Path | None,
    test_anomalous: str | Path | Sequence[str | Path] | None,
) -> _Parts:
    if train is None and test_normal is None:
        raise InputError("test_anomalous: expected train or test_normal with it, got neither")
    parts = _Parts(train=None if train is None else _inside(base, train, "train"))
    if test_normal is not None:
        parts.normal = [_inside(base, test_normal, "test_normal")]
    if isinstance(test_anomalous, str | Path):
        test_anomalous = [test_anomalous]
    for value in test_anomalous or ():
        _add_defects(parts, [_inside(base, value, "test_anomalous")])
    return parts


def _inside(base: Path, value: str | Path, argument: str) -> Path:
    path = base / value
    if not path.resolve().is_relative_to(base.resolve()):
        raise InputError(f"{argument}: expected a folder inside {base}, got {value}")
    return path


def _detect(base: Path) -> _Parts:
    found = {path.name.lower(): path for path in folders_in(base)}
    masks = next((found[name] for name in MASK_NAMES if name in found), None)
    if "train" in found:
        parts = _Parts(train=_training_folder(found["train"]), masks=masks)
        if "test" in found:
            _add_classes(parts, found["test"])
        return parts
    normal = [path for name, path in found.items() if name in NORMAL_NAMES]
    anomalous = [path for name, path in found.items() if name in ANOMALOUS_NAMES]
    if len(normal) == 1:
        known = (*NORMAL_NAMES, *ANOMALOUS_NAMES, *MASK_NAMES)
        for name, path in found.items():
            if name not in known and files_in(path):
                raise DataError(
                    f"{path}: expected normal images in a folder named {_either(NORMAL_NAMES)} and "
                    f"anomalous ones in {_either(ANOMALOUS_NAMES)}; for other names pass "
                    f"test_normal={normal[0].name!r}, test_anomalous=[{path.name!r}, ...]"
                )
        if not anomalous:
            return _Parts(train=normal[0], masks=masks)
        parts = _Parts(normal=normal, masks=masks)
        _add_defects(parts, anomalous)
        return parts
    if not normal and not anomalous and files_in(base):
        return _Parts(train=base, masks=masks)
    names = ", ".join(path.name for path in found.values()) or "no folder and no image"
    raise DataError(
        f"{base}: expected train/good and test/<defect>, or one folder of normal images "
        f"({_either(NORMAL_NAMES)}) beside one of anomalous images ({_either(ANOMALOUS_NAMES)}), "
        f"or normal images alone; found {names}"
    )


def _training_folder(train: Path) -> Path:
    inner = folders_in(train)
    normal = [path for path in inner if path.name.lower() in NORMAL_NAMES]
    if not inner:
        return train
    if len(normal) == 1 and len(inner) == 1:
        return normal[0]
    raise DataError(
        f"{train}: expected one folder of normal images ({_either(NORMAL_NAMES)}) or images "
        f"directly, found {', '.join(path.name for path in inner)}"
    )


def _add_classes(parts: _Parts, test: Path) -> None:
    classes = folders_in(test)
    if not classes:
        raise DataError(f"{test}: expected a folder a class (good, <defect>, ...), found none")
    for path in classes:
        if path.name.lower() in NORMAL_NAMES:
            parts.normal.append(path)
        else:
            _add_defect(parts, path.name, path)


def _add_defects(parts: _Parts, folders: Iterable[Path]) -> None:
    for path in folders:
        inner = [below for below in folders_in(path) if files_in(below)]
        for below in inner:
            if below.name.lower() in NORMAL_NAMES:
                raise DataError(f"{below}: expected anomalous images, the name says normal")
            _add_defect(parts, below.name, below)
        if files_in(path) or not inner:
            _add_defect(parts, path.name, path)


def _add_defect(parts: _Parts, defect: str, path: Path) -> None:
    if defect in parts.anomalous:
        raise DataError(
            f"{path}: expected one folder a defect class, {parts.anomalous[defect]} is one too"
        )
    parts.anomalous[defect] = path


def _read(base: Path, parts: _Parts, fraction: float, seed: int, category: str) -> Dataset:
    def sample(path: Path, **fields: Any) -> Sample:
        return Sample(image=path, name=path.relative_to(base).as_posix(), **fields)

    normal = [sample(path, label=NORMAL) for inner in parts.normal for path in images_in(inner)]
    if parts.train is not None:
        train = [sample(path, label=NORMAL) for path in images_in(parts.train)]
    else:
        if len(normal) < 2:
            raise DataError(
                f"{parts.normal[0]}: expected at least 2 normal images to train and test on, "
                f"got {len(normal)}"
            )
        held = hold_out([item.name for item in normal], fraction, seed)
        train = [item for item in normal if item.name not in held]
        normal = [item for item in normal if item.name in held]
    images = {defect: images_in(path) for defect, path in parts.anomalous.items()}
    everyday = [item.image for item in (*train, *normal) if isinstance(item.image, Path)]
    masks = _masks(parts.masks, images, everyday)
    anomalous = [
        sample(path, label=ANOMALOUS, defect=defect, mask=masks.get(path))
        for defect, paths in images.items()
        for path in paths
    ]
    return Dataset(name="folder", category=category, train=tuple(train), test=(*normal, *anomalous))


def _masks(
    masks: Path | None, images: dict[str, list[Path]], normal: list[Path]
) -> dict[Path, Path]:
    """Masks in `<masks>/<defect>/`, or for classes without such a folder directly in `<masks>`."""
    if masks is None:
        return {}
    inner = {path.name: path for path in folders_in(masks)}
    for name, path in inner.items():
        if name not in images and name.lower() not in NORMAL_NAMES and files_in(path):
            raise DataError(f"{path}: masks without images, found no defect class {name}")
    pairs: dict[Path, Path] = {}
    for defect, paths in images.items():
        if defect in inner:
            pairs |= pair_masks(paths, inner[defect])
    flat = [path for defect, paths in images.items() if defect not in inner for path in paths]
    return pairs | pair_masks(flat, masks, normal=normal)


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
