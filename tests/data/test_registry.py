import sys
from types import ModuleType

import pytest

from robustad.data import Dataset, categories, load, names
from robustad.errors import InputError


@pytest.fixture
def surfaces(monkeypatch):
    """A stand-in for the generated set, to see what is passed on."""
    module = ModuleType("robustad.data.surfaces")
    module.CATEGORIES = ("metal", "cloth")
    module.load_surfaces = lambda category: Dataset(
        name="surfaces", category=category, train=(), test=()
    )
    monkeypatch.setitem(sys.modules, "robustad.data.surfaces", module)


def test_surfaces_are_passed_on(surfaces):
    assert load("surfaces", category="cloth").category == "cloth"
    assert categories("surfaces") == ["cloth", "metal"]
    with pytest.raises(InputError, match="category: expected one of cloth, metal, got none"):
        load("surfaces")
    with pytest.raises(InputError, match="root: expected none, `surfaces` is generated; got /data"):
        load("surfaces", "/data", "cloth")
    with pytest.raises(InputError, match="root: expected none"):
        categories("surfaces", "/data")


def test_folders_by_name(tree):
    root = tree("parts/good/0.png", "parts/good/1.png", "parts/bad/0.png") / "parts"
    assert categories("folder", root) == ["parts"]
    assert load("folder", root) == load("folder", root, "parts")
    with pytest.raises(InputError, match=r"category: expected parts or none for .*, got 'part'"):
        load("folder", root, "part")
    with pytest.raises(InputError, match="root: expected the folder with your images, got none"):
        load("folder")


@pytest.mark.parametrize("call", [load, categories])
def test_unknown_names_list_the_known_ones(call):
    with pytest.raises(InputError, match=r"name: expected one of mvtec, visa, .*, got 'mvtex'"):
        call("mvtex")
    assert {"mvtec", "headct", "folder", "surfaces"} <= set(names())
