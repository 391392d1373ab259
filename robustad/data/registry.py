"""All data sets by name."""

from pathlib import Path

from robustad.data.dataset import Dataset
from robustad.data.folder import folder
from robustad.data.layouts import LAYOUTS
from robustad.data.published import load_published, published_categories
from robustad.errors import InputError


def names() -> list[str]:
    """Names that `load` takes: the published sets, `folder` and `surfaces`.

    Examples
    --------
    >>> "mvtec" in names(), "surfaces" in names()
    (True, True)
    """
    return [*LAYOUTS, "folder", "surfaces"]


def categories(name: str, root: str | Path | None = None) -> list[str]:
    """Categories of a data set.

    Parameters
    ----------
    name : str
        One of `names()`.
    root : str or Path or None, default None
        With None the official categories, else those found there.

    Returns
    -------
    list of str
        Sorted by name.

    Raises
    ------
    InputError
        If `name` is unknown, or `root` is missing for `folder` or given for `surfaces`.
    DataError
        If `root` does not hold the data set.

    Examples
    --------
    >>> categories("btad")
    ['01', '02', '03']
    """
    _check(name, root)
    if name == "surfaces":
        from robustad.data.surfaces import CATEGORIES

        return sorted(CATEGORIES)
    if name == "folder":
        return [folder(_given(root)).category]
    return published_categories(name, root)


def load(name: str, root: str | Path | None = None, category: str | None = None) -> Dataset:
    """Load a category of a data set.

    Parameters
    ----------
    name : str
        One of `names()`: a published set, `folder` for your own images (see `folder` for more
        options), or `surfaces`, which is generated.
    root : str or Path or None, default None
        Folder with the unpacked set. Nothing is downloaded: with None the error says where to get
        it. `surfaces` takes none.
    category : str or None, default None
        One of `categories(name, root)`; may be left out where there is only one. Categories found
        on disk beside the official ones are taken too.

    Returns
    -------
    Dataset
        File names only; images are decoded when they are read.

    Raises
    ------
    InputError
        If `name` or `category` is unknown or missing, or `root` is None for a set on disk.
    DataError
        If the folder is missing, laid out differently, or incomplete: an empty class, a missing
        mask, a mask without an image, two files of one name.
    """
    _check(name, root)
    if name == "surfaces":
        from robustad.data.surfaces import CATEGORIES, load_surfaces

        if category is None:
            raise InputError(f"category: expected one of {', '.join(sorted(CATEGORIES))}, got none")
        return load_surfaces(category)
    if name == "folder":
        dataset = folder(_given(root))
        if category not in (None, dataset.category):
            raise InputError(
                f"category: expected {dataset.category} or none for the folder {root}, "
                f"got {category!r}"
            )
        return dataset
    return load_published(name, root, category)


def _check(name: str, root: str | Path | None) -> None:
    if name not in names():
        raise InputError(f"name: expected one of {', '.join(names())}, got {name!r}")
    if name == "surfaces" and root is not None:
        raise InputError(f"root: expected none, `surfaces` is generated; got {root}")


def _given(root: str | Path | None) -> str | Path:
    if root is None:
        raise InputError("root: expected the folder with your images, got none")
    return root
