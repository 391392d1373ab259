import sys

import numpy as np
import pytest
from PIL import Image

from robustad.cli import main
from robustad.data import write_mvtec
from robustad.data.surfaces import Surfaces


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line; gives (exit code, standard output, standard error)."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["robustad", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = 0 if stop.code is None else stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def surfaces_root(tmp_path_factory):
    """A small data set on disk in MVTec layout, one category."""
    root = tmp_path_factory.mktemp("surfaces")
    write_mvtec(Surfaces(size=64, train=4, test_good=6, per_defect=2).load("tray"), root)
    return root


@pytest.fixture(scope="session")
def category(surfaces_root):
    return surfaces_root / "tray"


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, category):
    from robustad import AnomalyDINO

    path = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    AnomalyDINO("filters", image_size=64).fit(category / "train" / "good").save(path)
    return path


@pytest.fixture
def detector(fitted, tmp_path):
    """A copy that a test may rewrite."""
    path = tmp_path / "detector.safetensors"
    path.write_bytes(fitted.read_bytes())
    return path


@pytest.fixture
def corrupt(tmp_path):
    folder = tmp_path / "corrupt"
    folder.mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    return folder
