"""Published data sets, read from the folders their authors publish. Nothing is downloaded."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from robustad.data._scan import MASK_ENDING, files_in, folders_in, images_in, pair_masks
from robustad.data._tables import (
    HEADCT_TABLE,
    VISA_TABLE,
    read_headct,
    read_visa,
    visa_categories,
)
from robustad.data.dataset import ANOMALOUS, NORMAL, Dataset, Sample
from robustad.data.layouts import LAYOUTS, Layout
from robustad.errors import DataError, InputError


def published_categories(name: str, root: str | Path | None = None) -> list[str]:
    """Categories of a published set: the official ones, or with `root` those found there."""
    layout = LAYOUTS[name]
    if root is None:
        return list(layout.categories)
    return _found(layout, _base(layout, _root(layout, root)))


def load_published(
    name: str, root: str | Path | None = None, category: str | None = None
) -> Dataset:
    """Read a category of a published set; see `robustad.data.load`."""
    layout = LAYOUTS[name]
    base = _base(layout, _root(layout, root))
    category = _category(layout, base, category)
    if name == "visa" and _table(layout, base):
        return read_visa(base, category)
    if name == "headct" and _table(layout, base):
        return read_headct(base)
    return _read_folders(layout, base if layout.single else base / category, category)


def _root(layout: Layout, root: str | Path | None) -> Path:
    advice = (
        f"robustad downloads nothing: get {layout.title} from {layout.source} "
        f"(licence: {layout.licence}), unpack it and pass the folder that holds {layout.expected}"
    )
    if root is None:
        raise InputError(f"root: expected the folder with {layout.title}, got none; {advice}")
    path = Path(root).expanduser()
    if not path.is_dir():
        got = "a file" if path.exists() else "no such folder"
        raise DataError(f"{path}: expected the folder with {layout.title}, got {got}; {advice}")
    return path


def _table(layout: Layout, base: Path) -> bool:
    tables = {"visa": VISA_TABLE, "headct": HEADCT_TABLE}
    # Folders win: a set reorganised in place keeps its table.
    return (
        layout.name in tables
        and not _in_folders(layout, base)
        and (base / tables[layout.name]).is_file()
    )


def _in_folders(layout: Layout, base: Path) -> bool:
    if layout.single:
        return (base / "train").is_dir()
    return any((folder / "train").is_dir() for folder in folders_in(base))


def _base(layout: Layout, root: Path) -> Path:
    """Find the folder around the categories: `root`, or one the archive put inside it."""
    for base in (root, *(root / wrapper for wrapper in layout.wrappers)):
        if base.is_dir() and (_in_folders(layout, base) or _table(layout, base)):
            return base
    raise DataError(
        f"{root}: expected {layout.title} with {layout.expected}, found "
        f"{_listing(path.name for path in folders_in(root)) or 'no folder'}"
    )


def _found(layout: Layout, base: Path) -> list[str]:
    if layout.single:
        return list(layout.categories)
    if layout.name == "visa" and _table(layout, base):
        return visa_categories(base)
    return [folder.name for folder in folders_in(base) if (folder / "train").is_dir()]


def _category(layout: Layout, base: Path, category: str | None) -> str:
    found = _found(layout, base)
    if category is None and layout.single:
        return layout.categories[0]
    if category in found:
        return category
    if category is None:
        raise InputError(f"category: expected one of {_listing(found)}, got none")
    if category in layout.categories:
        raise DataError(f"{base}: expected a folder {category}, found {_listing(found)}")
    raise InputError(
        f"category: {category!r} is neither a category of {layout.title} "
        f"({_listing(layout.categories)}) nor a folder in {base} ({_listing(found)})"
    )


def _read_folders(layout: Layout, folder: Path, category: str) -> Dataset:
    def name(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    train = tuple(
        Sample(image=path, label=NORMAL, name=name(path))
        for path in _images(layout, folder / "train" / layout.normal)
    )
    classes = {path.name: path for path in folders_in(folder / "test")}
    if not classes:
        raise DataError(f"{folder / 'test'}: expected a folder a class, found none")
    test: list[Sample] = []
    for defect, class_folder in classes.items():
        images = _images(layout, class_folder)
        if defect == layout.normal:
            test += [Sample(image=path, label=NORMAL, name=name(path)) for path in images]
            continue
        masks = _masks(layout, folder, class_folder, images)
        test += [
            Sample(
                image=path,
                label=ANOMALOUS,
                name=name(path),
                defect=defect,
                mask=masks.get(path),
            )
            for path in images
        ]
    _no_stray_masks(layout, folder, classes)
    return Dataset(name=layout.name, category=category, train=train, test=tuple(test))


def _images(layout: Layout, class_folder: Path) -> list[Path]:
    nested = class_folder / layout.image_folder
    return images_in(nested if nested.is_dir() else class_folder)


def _masks(
    layout: Layout, folder: Path, class_folder: Path, images: list[Path]
) -> dict[Path, Path]:
    """Mask of each image; where the set publishes masks, one missing is an error."""
    expected = folder / "ground_truth" / class_folder.name
    for inner in layout.mask_folders:
        if (class_folder / inner).is_dir():
            expected = class_folder / inner
            break
    else:
        if layout.mask_folders and not expected.is_dir():
            expected = class_folder / layout.mask_folders[0]
    masks = pair_masks(images, expected) if expected.is_dir() else {}
    if layout.masks:
        for path in images:
            if path not in masks:
                raise DataError(
                    f"{path}: anomalous image without a mask, expected "
                    f"{expected / f'{path.stem}{MASK_ENDING}.png'} (or the same without "
                    f"{MASK_ENDING}, in any image format)"
                )
    return masks


def _no_stray_masks(layout: Layout, folder: Path, classes: Mapping[str, Path]) -> None:
    truth = folder / "ground_truth"
    if not truth.is_dir():
        return
    for masks in folders_in(truth):
        if masks.name not in classes and masks.name != layout.normal and files_in(masks):
            raise DataError(f"{masks}: masks without images, expected {folder / 'test'} to match")


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names)
