import os
import stat
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustad._files import write_text, written_aside
from robustad.errors import InputError


@pytest.fixture
def umask():
    """Set the process's umask for one test."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_in_utf_8(tmp_path):
    write_text(tmp_path / "a" / "b" / "result.json", "größer\n")
    assert (tmp_path / "a" / "b" / "result.json").read_bytes() == "größer\n".encode()
    write_text(str(tmp_path / "a" / "b" / "result.json"), "again")
    assert (tmp_path / "a" / "b" / "result.json").read_text() == "again"
    assert names(tmp_path / "a" / "b") == ["result.json"]


@pytest.mark.parametrize(
    "name", ["model.onnx", "a.tar.gz", "noend", ".hidden", "x" * 240 + ".json"]
)
def test_the_path_aside_is_a_hidden_neighbour_of_the_same_suffix(tmp_path, name):
    final = tmp_path / name
    with written_aside(final) as aside:
        assert aside.parent == tmp_path
        assert aside.suffix == (final.suffix or ".part")
        assert aside.name.startswith(".")
        assert not final.exists()
        aside.write_bytes(b"whole")
    assert names(tmp_path) == [name]
    assert final.read_bytes() == b"whole"


@pytest.mark.parametrize("call", ["mkdir", "touch"])
def test_a_place_that_cannot_be_written_to_is_named(tmp_path, monkeypatch, call):
    def refused(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, call, refused)
    with pytest.raises(InputError, match=r"result\.json: cannot be written: Permission denied"):
        write_text(tmp_path / "new" / "result.json", "text")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    final = tmp_path / "result.json"
    final.write_text("old")

    def fail(path):
        with written_aside(path) as aside:
            aside.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail(final)
    with pytest.raises(error):
        fail(tmp_path / "new.json")
    assert final.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_block_that_removes_its_file_leaves_the_old_one(tmp_path):
    final = tmp_path / "result.json"
    final.write_text("old")
    with pytest.raises(FileNotFoundError), written_aside(final) as aside:
        aside.unlink()
    assert final.read_text() == "old"


def test_readers_see_the_old_or_the_new_text_and_never_a_part(tmp_path):
    final = tmp_path / "result.json"
    texts = {letter * 300_000 for letter in "ab"}
    write_text(final, "a" * 300_000)
    done = threading.Event()
    seen, torn = set(), []

    def read():
        while not done.is_set():
            text = final.read_text()
            seen.add(text[:1])
            if text not in texts:
                torn.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        write_text(final, sorted(texts)[turn % 2])
    done.set()
    reader.join()
    assert torn == []
    assert seen


def test_two_writers_do_not_meet(tmp_path):
    final = tmp_path / "result.json"
    with written_aside(final) as first, written_aside(final) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert final.read_text() == "first"  # the outer block ends last
    assert names(tmp_path) == ["result.json"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_the_umask_decides_who_may_read(tmp_path, umask, mask, mode):
    umask(mask)
    write_text(tmp_path / "result.json", "x")
    with written_aside(tmp_path / "model.safetensors") as aside:
        save_file({"x": torch.ones(2)}, aside)
    for name in ("result.json", "model.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
    assert load_file(tmp_path / "model.safetensors")["x"].tolist() == [1.0, 1.0]


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        InputError, match=r"runs: expected a file name to write to, got an existing folder$"
    ):
        write_text(tmp_path / "runs", "x")
    assert names(tmp_path) == ["runs"]
    assert names(tmp_path / "runs") == []


@pytest.mark.parametrize("name", ["file/result.json", "file/deeper/result.json"])
def test_a_file_is_no_folder(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=rf"{name}: its parent .*file.* is not a folder$"):
        write_text(tmp_path / name, "y")
    assert (tmp_path / "file").read_text() == "x"
