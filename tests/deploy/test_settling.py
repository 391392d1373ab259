import os
import shutil

import pytest

from robustad.deploy import settling as module
from robustad.deploy.seen import SeenKeys
from robustad.deploy.settling import Settling


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    def build(**options):
        options = {"settle": 1.0, "recursive": False, **options}
        return Settling(tmp_path, SeenKeys(), clock=clock, **options)

    return build


def put(path, content="x", mtime=None):
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    if mtime is not None:
        os.utime(path, (mtime, mtime))


def names(candidates):
    return [candidate.name for candidate in candidates]


def test_a_file_has_to_rest(tmp_path, clock, make):
    settling = make()
    put(tmp_path / "a.png")
    assert settling.ready(9) == []
    clock.now = 0.9
    assert settling.ready(9) == []
    put(tmp_path / "a.png", "xx")  # grew
    clock.now = 1.5
    assert settling.ready(9) == []
    clock.now = 2.4
    assert settling.ready(9) == []
    put(tmp_path / "a.png", "yy", mtime=5)  # of the same size
    clock.now = 2.5
    assert settling.ready(9) == []
    clock.now = 3.5
    [found] = settling.ready(9)
    assert (found.name, found.size, found.mtime_ns) == ("a.png", 2, 5 * 10**9)
    settling.done(found)
    assert settling.ready(9) == []
    assert len(settling) == 0
    put(tmp_path / "a.png", "yy", mtime=6)  # written anew: another image
    settling.ready(9)
    clock.now = 5
    assert names(settling.ready(9)) == ["a.png"]


def test_the_oldest_first_and_no_more_than_asked_for(tmp_path, clock, make):
    for name, mtime in {"a": 3, "b": 1, "c": 2, "d": 2}.items():
        put(tmp_path / f"{name}.png", mtime=mtime)
    settling = make(settle=0.0)
    assert names(settling.ready(3)) == ["b.png", "c.png", "d.png"]
    assert names(settling.ready(9)) == ["b.png", "c.png", "d.png", "a.png"]


def test_memory_is_bounded_however_many_wait(tmp_path, clock, make, monkeypatch):
    monkeypatch.setattr(module, "MAX_PENDING", 5)
    for i in range(20):
        put(tmp_path / f"{i:02d}.png", mtime=i + 1)
    settling, taken = make(), []
    for step in range(20):
        clock.now = float(step)
        for found in settling.ready(3):
            settling.done(found)
            taken.append(found.name)
        assert len(settling) <= 5
    assert taken == [f"{i:02d}.png" for i in range(20)]


def test_what_is_left_alone(tmp_path, clock, make):
    put(tmp_path / ".hidden.png")
    put(tmp_path / "a.txt")
    put(tmp_path / "A.PNG")
    put(tmp_path / "inner" / "b.jpg")
    put(tmp_path / ".trash" / "c.jpg")
    (tmp_path / "folder.png").mkdir()
    assert names(make(settle=0.0).ready(9)) == ["A.PNG"]
    assert set(names(make(settle=0.0, recursive=True).ready(9))) == {"A.PNG", "inner/b.jpg"}


def test_what_changed_or_went(tmp_path, clock, make):
    settling = make(settle=0.0)
    put(tmp_path / "a.png", mtime=1)
    [found] = settling.ready(9)
    assert not settling.changed(found)
    put(tmp_path / "a.png", mtime=2)
    assert settling.changed(found)
    (tmp_path / "a.png").unlink()
    assert settling.changed(found)
    assert settling.ready(9) == []
    assert len(settling) == 0


def test_a_folder_that_is_away_for_a_while(tmp_path, clock, make):
    put(tmp_path / "in" / "a.png", mtime=1)
    settling = Settling(tmp_path / "in", SeenKeys(), settle=0.0, recursive=True, clock=clock)
    [found] = settling.ready(9)
    settling.done(found)
    shutil.move(tmp_path / "in", tmp_path / "away")
    assert settling.ready(9) == []
    shutil.move(tmp_path / "away", tmp_path / "in")
    assert settling.ready(9) == []  # and not scored again


def test_another_wait(tmp_path, clock, make):
    settling = make()
    put(tmp_path / "a.png")
    settling.ready(9)
    clock.now = 1.0
    [found] = settling.ready(9)
    assert settling.again(found) == 1
    assert settling.ready(9) == []
    clock.now = 2.0
    assert settling.ready(9) == [found]
    assert settling.again(found) == 2
