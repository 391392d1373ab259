"""The viewer's folder."""

import json
import shutil
from pathlib import Path

import pytest

from robustad.errors import InputError, MissingDependencyError, StateError
from robustad.viewer import write_viewer
from robustad.viewer.write import PACKAGE, PACKAGE_VERSION, RUNTIME_FILES

SOURCE = Path(__file__).resolve().parents[2] / "robustad" / "viewer"


@pytest.fixture
def package(tmp_path):
    """A folder with the names of onnxruntime-web's."""

    def make(place=tmp_path / "node_modules" / PACKAGE, version=PACKAGE_VERSION):
        (place / "dist").mkdir(parents=True)
        for name in RUNTIME_FILES:
            (place / "dist" / name).write_text(f"{name} of {version}")
        (place / "package.json").write_text(json.dumps({"name": PACKAGE, "version": version}))
        return place

    return make


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_all_it_needs(package, exported, tmp_path):
    out = tmp_path / "viewer"
    assert write_viewer(out, model=exported.floats, runtime_dir=package()) == out
    page = {path.name for path in (SOURCE / "page").iterdir()}
    runtime = {f"runtime/{name}" for name in RUNTIME_FILES.values()}
    own = {"viewer.json", "floats.onnx", "floats.onnx.sha256"}
    assert names(out) == page | runtime | own
    settings = json.loads((out / "viewer.json").read_text())
    assert settings["model"] == "floats.onnx"
    assert settings[PACKAGE] == PACKAGE_VERSION
    assert (out / "floats.onnx").read_bytes() == exported.floats.read_bytes()
    text = (out / "index.html").read_text()
    assert "default-src 'self'" in text
    assert "http" not in text.replace("http-equiv", "").replace("http.server", "").replace(
        "http://localhost:8000", ""
    )


def test_a_viewers_own_folder_is_replaced_and_no_other(package, exported, tmp_path):
    runtime = package()
    out = write_viewer(tmp_path / "viewer", model=exported.floats, runtime_dir=runtime)
    write_viewer(out, runtime_dir=runtime)
    assert "floats.onnx" not in names(out)
    assert json.loads((out / "viewer.json").read_text())["model"] is None
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"other: expected a new or empty folder"):
        write_viewer(other, runtime_dir=runtime)
    assert names(other) == {"thesis.txt"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("place", [".", "package", "node_modules/onnxruntime-web"])
def test_the_engine_is_found_where_it_may_be(package, tmp_path, place):
    package(tmp_path / "given" / place)
    out = write_viewer(tmp_path / "viewer", runtime_dir=tmp_path / "given")
    text = (out / "runtime" / "ort.wasm.min.js").read_text()
    assert text == f"ort.wasm.min.mjs of {PACKAGE_VERSION}"


def test_the_engine_is_looked_for_above(package, tmp_path, monkeypatch):
    package()
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert "runtime/ort.wasm.min.js" in names(write_viewer("viewer"))


def test_a_missing_engine_is_told(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDependencyError, match=rf"npm install {PACKAGE}@{PACKAGE_VERSION}"):
        write_viewer("viewer")
    with pytest.raises(InputError, match=r"nowhere: expected the npm package onnxruntime-web"):
        write_viewer("viewer", runtime_dir="nowhere")
    with pytest.raises(InputError, match=r"onnxruntime-web 1\.9\.2, expected 1\.20 or newer"):
        write_viewer("viewer", runtime_dir=package(tmp_path / "old", "1.9.2"))
    assert not (tmp_path / "viewer").exists()


def test_models_that_a_browser_cannot_run_are_refused(package, exported, tmp_path):
    import onnx

    runtime, out = package(), tmp_path / "viewer"
    with pytest.raises(InputError, match=r"none\.onnx: no such ONNX file"):
        write_viewer(out, model=tmp_path / "none.onnx", runtime_dir=runtime)
    changed = tmp_path / "changed.onnx"
    shutil.copyfile(exported.floats, changed)
    shutil.copyfile(f"{exported.floats}.sha256", f"{changed}.sha256")
    lines = Path(f"{changed}.sha256").read_text().replace("floats.onnx", "changed.onnx")
    Path(f"{changed}.sha256").write_text(lines)
    with changed.open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(StateError, match=r"changed"):
        write_viewer(out, model=changed, runtime_dir=runtime)
    model = onnx.load(exported.floats)
    model.opset_import.append(onnx.helper.make_opsetid("robustad", 1))
    onnx.save(model, tmp_path / "custom.onnx")
    with pytest.raises(InputError, match=r"custom\.onnx: uses operators of robustad's own"):
        write_viewer(out, model=tmp_path / "custom.onnx", runtime_dir=runtime)
    onnx.save(onnx.load(exported.floats), tmp_path / "large.onnx")
    (tmp_path / "large.onnx.data").touch()
    with pytest.raises(InputError, match=r"large\.onnx: has a \.data file beside it"):
        write_viewer(out, model=tmp_path / "large.onnx", runtime_dir=runtime)
    assert not out.exists()


def test_the_tested_version_is_the_one_that_is_named():
    wanted = json.loads((SOURCE / "package.json").read_text())["dependencies"]
    assert wanted == {PACKAGE: PACKAGE_VERSION}
    locked = json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    assert locked[f"node_modules/{PACKAGE}"]["version"] == PACKAGE_VERSION


def test_the_verb(package, exported, tmp_path, capsys, monkeypatch):
    import sys

    from robustad import cli

    arguments = ["viewer", "--out", tmp_path / "viewer", "--model", exported.floats]
    arguments += ["--runtime-dir", package()]
    monkeypatch.setattr(sys, "argv", ["robustad", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "python3 -m http.server --bind 127.0.0.1" in capsys.readouterr().err
    assert "floats.onnx" in names(tmp_path / "viewer")
