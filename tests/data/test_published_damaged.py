"""Data sets that are not there, not whole or not readable."""

import re
from pathlib import Path

import pytest

from robustad.data import load
from robustad.data.layouts import LAYOUTS
from robustad.errors import DataError, InputError


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_missing_root_says_where_to_get_the_set(name, tmp_path):
    layout = LAYOUTS[name]
    with pytest.raises(InputError) as caught:
        load(name)
    for part in (layout.title, layout.source, layout.licence, layout.expected):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="got no such folder; robustad downloads nothing: get"):
        load(name, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="got a file"):
        load(name, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=re.escape(layout.expected) + ", found no folder"):
        load(name, tmp_path / "empty")


def test_category_errors(tree, mvtec):
    root = tree(*mvtec("screw"), *mvtec("own"))
    with pytest.raises(InputError, match="category: expected one of own, screw, got none"):
        load("mvtec", root)
    with pytest.raises(DataError, match="expected a folder pill, found own, screw"):
        load("mvtec", root, "pill")
    with pytest.raises(InputError, match=r"'scerw' is neither .*\(bottle, .* \(own, screw\)"):
        load("mvtec", root, "scerw")
    with pytest.raises(InputError, match=r"'\.\./own' is neither"):
        load("mvtec", root, "../own")
    with pytest.raises(DataError, match=r"found ground_truth, test, train"):
        load("mvtec", root / "screw", "screw")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda base: (base / "ground_truth/hole/001_mask.png").unlink(),
            r"hole/001\.png: anomalous image without a mask, expected .*hole/001_mask\.png",
        ),
        (
            lambda base: (base / "ground_truth").rename(base / "masks"),
            r"cut/000\.png: anomalous image without a mask, expected .*ground_truth/cut/000_mask",
        ),
        (
            lambda base: (base / "test/hole/001.png").unlink(),
            r"hole/001_mask\.png: mask without an image named 001",
        ),
        (
            lambda base: (base / "test/cut").rename(base / "gone"),
            r"ground_truth/cut: masks without images",
        ),
        (
            lambda base: (base / "test/hole/001.png").rename(base / "test/hole/000.jpg"),
            r"test/hole: expected one file a name, got 000\.jpg and 000\.png",
        ),
        (
            lambda base: (base / "ground_truth/hole/001_mask.png").rename(
                base / "ground_truth/hole/000.png"
            ),
            r"hole: expected one mask an image, got 000\.png and 000_mask\.png",
        ),
        (
            lambda base: (base / "ground_truth/hole/001_mask.png").rename(
                base / "test/hole/001_mask.png"
            ),
            r"001_mask\.png: looks like the mask of 001\.png; expected masks in their own folder",
        ),
        (
            lambda base: [path.unlink() for path in (base / "train/good").iterdir()],
            r"train/good: expected image files \(.*\.png.*\), found none",
        ),
        (
            lambda base: (base / "train/good").rename(base / "train/fine"),
            r"train/good: no such folder",
        ),
        (lambda base: (base / "test").rename(base / "tests"), r"test: no such folder"),
        (
            lambda base: [path.rename(base / path.name) for path in (base / "test").iterdir()],
            r"test: expected a folder a class, found none",
        ),
        (lambda base: (base / "test/new").mkdir(), r"test/new: expected image files"),
        (
            lambda base: (base / "test/good/009.png").symlink_to(base / "gone.png"),
            r"009\.png: expected an image file, got a broken link",
        ),
    ],
)
def test_damaged_categories(tree, mvtec, break_it, message):
    root = tree(*mvtec("screw"))
    break_it(root / "screw")
    with pytest.raises(DataError, match=message):
        load("mvtec", root, "screw")


def test_an_unreadable_folder_is_named(tree, mvtec, monkeypatch):
    root = tree(*mvtec("screw"))
    iterdir = Path.iterdir

    def refuse(path):
        if path.name == "hole":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="test/hole: cannot be read: Permission denied"):
        load("mvtec", root, "screw")
