"""Listing folders of images and finding the mask of each; every loader goes through here."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from robustad.errors import DataError
from robustad.images import SUFFIXES

MASK_ENDING = "_mask"


def entries_in(folder: Path) -> list[Path]:
    """Visible entries of `folder`, sorted by name; `.`-files and `__MACOSX` are ignored."""
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no such folder") from error
    except NotADirectoryError as error:
        raise DataError(f"{folder}: expected a folder, got a file") from error
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    return [path for path in entries if not path.name.startswith((".", "__MACOSX"))]


def folders_in(folder: Path) -> list[Path]:
    """Visible subfolders of `folder`, sorted by name."""
    return [path for path in entries_in(folder) if path.is_dir()]


def files_in(folder: Path) -> list[Path]:
    """Image files directly in `folder`, sorted by name; other files are ignored."""
    files = []
    for path in entries_in(folder):
        if path.suffix.lower() not in SUFFIXES or path.is_dir():
            continue
        if not path.is_file():  # left out silently, a set of links would shrink unnoticed
            raise DataError(f"{path}: expected an image file, got a broken link")
        files.append(path)
    return files


def images_in(folder: Path) -> list[Path]:
    """Image files directly in `folder`, sorted by name; at least one.

    Raises
    ------
    DataError
        If it is missing, unreadable or empty, two files differ in their suffix alone, or a mask
        lies among the images.
    """
    files = files_in(folder)
    if not files:
        raise DataError(
            f"{folder}: expected image files ({', '.join(sorted(SUFFIXES))}), found none"
        )
    stems: dict[str, Path] = {}
    for path in files:
        if path.stem in stems:
            raise DataError(
                f"{folder}: expected one file a name, got {stems[path.stem].name} and {path.name}"
            )
        stems[path.stem] = path
    for stem, path in stems.items():
        owner = stems.get(stem.removesuffix(MASK_ENDING))
        if owner is not None and owner is not path:
            raise DataError(
                f"{path}: looks like the mask of {owner.name}; expected masks in their own folder"
            )
    return files


def pair_masks(
    images: Sequence[Path], folder: Path, *, normal: Iterable[Path] = ()
) -> dict[Path, Path]:
    """Find the mask of each image in a folder of masks.

    Parameters
    ----------
    images : sequence of Path
        Anomalous images.
    folder : Path
        Folder with masks named `<stem>_mask` or `<stem>`, with any image suffix.
    normal : iterable of Path
        Normal images, which may have a mask too; it is ignored.

    Returns
    -------
    dict of Path to Path
        Image to mask; an image without one is left out.

    Raises
    ------
    DataError
        If a mask fits no image, or two masks or two images fit each other.
    """
    masks: dict[str, Path] = {}
    for path in files_in(folder):
        stem = path.stem.removesuffix(MASK_ENDING)
        if stem in masks:
            raise DataError(
                f"{folder}: expected one mask an image, got {masks[stem].name} and {path.name}"
            )
        masks[stem] = path
    pairs: dict[Path, Path] = {}
    owners: dict[str, Path] = {}
    for image in images:
        if image.stem in masks:
            if image.stem in owners:
                raise DataError(
                    f"{masks[image.stem]}: fits both {owners[image.stem]} and {image}; "
                    "expected a folder of masks for each defect"
                )
            owners[image.stem] = image
            pairs[image] = masks[image.stem]
    ignored = {path.stem for path in normal}
    for stem, mask in masks.items():
        if stem not in owners and stem not in ignored:
            raise DataError(f"{mask}: mask without an image named {stem}")
    return pairs
