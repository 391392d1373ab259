import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from robustad.deploy import score
from robustad.deploy.shards import Job, Shard, finished, gather, plan
from robustad.errors import InputError, MissingDependencyError, StateError
from robustad.workers import Workers, crew
from robustad.workers.local import LocalCrew


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_images):
    """Forty images in two folders, one of them damaged."""
    root = tmp_path_factory.mktemp("data")
    write_images(root / "a", 20)
    paths = write_images(root / "b" / "deep", 20, seed=1)
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    write_images(root / ".hidden", 1)
    return root


@pytest.fixture
def job(data, exported, tmp_path):
    return Job(data=str(data), model=str(exported.path), out=str(tmp_path / "out"))


def test_every_image_once(data, exported, model, tmp_path):
    seen = []
    done = score(
        data, exported.path, tmp_path / "out", shard_size=7,
        told=lambda *counts: seen.append(counts),
    )  # fmt: skip
    assert (done.scored, done.failed, done.shards, done.computed) == (39, 1, 6, 6)
    assert seen == [(i, 6) for i in range(7)]
    lines = lines_of(done.results)
    paths = [line["path"] for line in lines]
    assert paths == sorted(paths)
    assert len(paths) == 40
    good = [line for line in lines if "error" not in line]
    expected = model.predict([data / line["path"] for line in good])
    np.testing.assert_allclose([line["score"] for line in good], expected.score, atol=1e-6)
    assert [line["verdict"] for line in good] == [str(verdict) for verdict in expected.verdict]
    [bad] = [line for line in lines if "error" in line]
    assert bad["path"] == "b/deep/part_003.png"
    assert "cannot be read as an image" in bad["error"]
    for line in lines:
        content = (data / line["path"]).read_bytes()
        assert line["sha256"] == hashlib.sha256(content).hexdigest()
    for line in (tmp_path / "out" / "results.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert digest == hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()


def test_only_what_is_missing_damaged_or_changed_is_done_again(exported, tmp_path, write_images):
    data, out = tmp_path / "data", tmp_path / "out"
    paths = write_images(data, 12)
    first = score(data, exported.path, out, shard_size=3, workers=1)
    before = first.results.read_bytes()
    assert score(data, exported.path, out, shard_size=3).computed == 0
    shards = sorted((out / "shards").iterdir())
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-30])
    content = shards[2].read_bytes()
    shards[2].write_bytes(content.replace(b"accept", b"reject").replace(b"0.1", b"0.2"))
    again = score(data, exported.path, out, shard_size=3, workers=1)
    assert again.computed == 3
    assert again.results.read_bytes() == before
    os.utime(paths[0], (1, 1))
    assert score(data, exported.path, out, shard_size=3, workers=1).computed == 1
    other = score(data, exported.path, out, shard_size=6, workers=1, threshold=0.9)
    assert other.computed == 2
    assert [line["score"] for line in lines_of(other.results)] == pytest.approx(
        [json.loads(line)["score"] for line in before.splitlines()], abs=1e-6
    )


def test_outcomes_do_not_depend_on_who_made_them(job, data, exported, tmp_path):
    one = score(data, exported.path, tmp_path / "one", workers=1, shard_size=8)
    three = score(data, exported.path, tmp_path / "three", workers=3, shard_size=8)
    assert one.results.read_bytes() == three.results.read_bytes()


def test_killed_workers_cost_nothing(data, exported, tmp_path, monkeypatch):
    """Each worker but the last few is killed soon after it has got a shard."""
    plain, killed = LocalCrew._give, []

    def give(self, hand, shard):
        plain(self, hand, shard)
        if len(killed) < 3:
            killed.append(hand.process.pid)
            threading.Timer(0.002 * len(killed), hand.process.kill).start()

    monkeypatch.setattr("robustad.workers.base.ATTEMPTS", 9)
    monkeypatch.setattr(LocalCrew, "_give", give)
    done = score(data, exported.path, tmp_path / "out", workers=2, shard_size=5)
    assert len(killed) == 3
    assert (done.scored, done.failed, done.computed) == (39, 1, 8)
    assert set(Counter(line["path"] for line in lines_of(done.results)).values()) == {1}
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 8  # and nothing half-written


def test_the_whole_command_may_be_killed(data, exported, tmp_path):
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-P", "-m", "robustad", "score", "--data", str(data), "--quiet"),
        *("--model", str(exported.path), "--out", str(out), "--shard-size", "2"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("shards/*.jsonl"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert (summary["scored"], summary["failed"], summary["shards"]) == (39, 1, 20)
    assert summary["computed"] <= 17
    assert len(lines_of(out / "results.jsonl")) == 40
    assert "scored 39 images, 1 failed" in done.stderr


def test_a_shard_that_kills_its_workers_is_given_up(data, exported, tmp_path, monkeypatch):
    plain = LocalCrew._give

    def give(self, hand, shard):
        if shard.index == 1:
            hand.process.kill()
        plain(self, hand, shard)

    monkeypatch.setattr(LocalCrew, "_give", give)
    message = r"1 of 2 pieces of work could not .*: shard 1 \(b/deep/part_000.png to .*died 3 times"
    with pytest.raises(StateError, match=message):
        score(data, exported.path, tmp_path / "out", workers=1, shard_size=20)
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 1
    monkeypatch.undo()
    assert score(data, exported.path, tmp_path / "out", workers=1, shard_size=20).computed == 1


def test_refused(data, exported, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="engine: expected one of local, ray, got 'slurm'"):
        score(data, exported.path, out, engine="slurm")
    with pytest.raises(InputError, match="workers: expected >= 1, got 0"):
        score(data, exported.path, out, workers=0)
    with pytest.raises(InputError, match="shard_size: expected >= 1, got 0"):
        score(data, exported.path, out, shard_size=0)
    with pytest.raises(InputError, match="no such ONNX file"):
        score(data, tmp_path / "x.onnx", out)
    with pytest.raises(InputError, match="expected a folder of images, found none"):
        score(tmp_path / "nowhere", exported.path, out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected image files in it or its folders"):
        score(tmp_path / "empty", exported.path, out)
    with pytest.raises(InputError, match="threshold: expected a probability"):
        score(data, exported.path, out, threshold=2.0)


def test_a_model_that_workers_cannot_load(job, monkeypatch):
    shards = plan(job, 20)
    wrong = Job(**{**vars(job), "model": "/nowhere.onnx"})
    message = r"worker: /nowhere\.onnx: no such ONNX file"
    with crew(wrong, Workers(1)) as hands, pytest.raises(StateError, match=message):
        list(hands.run(shards))
    with pytest.raises(StateError, match=r"expected a finished shard, found none"):
        gather(shards, Path(job.out))


def test_a_shard_of_other_contents_is_not_finished(job, tmp_path):
    shard = Shard(0, "0" * 64, ["a.png"])
    assert finished(shard, tmp_path) is None
    shard.path(tmp_path).parent.mkdir()
    for content in (b"", b"\n", b"[]\n", b'{"end": 3}\n', b'{"end": {}}\n', b"\xff\n"):
        shard.path(tmp_path).write_bytes(content)
        assert finished(shard, tmp_path) is None


def test_without_ray(data, exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"ray is needed .*robustad\[ray\]"):
        score(data, exported.path, tmp_path / "out", engine="ray")


def test_the_ray_engine_against_a_stand_in(data, exported, tmp_path, ray_stand_in):
    ray = ray_stand_in(deaths=["shard 0", "shard 3", "shard 3"])
    options = {"engine": "ray", "workers": 2, "shard_size": 8}
    found = score(data, exported.path, tmp_path / "ray", **options)
    expected = score(data, exported.path, tmp_path / "local", shard_size=8)
    assert found.computed == 5
    assert found.results.read_bytes() == expected.results.read_bytes()
    assert (ray.deaths, ray.up) == ([], False)
    assert ray.options == {"num_cpus": 1, "num_gpus": 0, "max_restarts": 0}
    assert len(ray.started) == ray.killed == 2 + 3
    ray_stand_in(deaths=["shard 1"] * 3)
    message = r"1 of 5 pieces of work could not be .*shard 1 \(.*: its worker died 3 times"
    with pytest.raises(StateError, match=message):
        score(data, exported.path, tmp_path / "again", **options)
    assert len(list((tmp_path / "again" / "shards").iterdir())) == 4
    assert score(data, exported.path, tmp_path / "again", **options).computed == 1


@pytest.mark.slow
def test_ray_actors_and_their_deaths(data, exported, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    from robustad.workers import on_ray

    marks = tmp_path / "marks"
    marks.mkdir()

    class Mortal(on_ray.Actor):
        def do(self, shard):
            mark = marks / str(shard.index)
            if shard.index % 3 == 0 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().do(shard)

    monkeypatch.setattr(on_ray, "Actor", Mortal)
    expected = score(data, exported.path, tmp_path / "local", shard_size=8)
    found = score(data, exported.path, tmp_path / "ray", engine="ray", workers=2, shard_size=8)
    assert found.computed == 5
    assert len(list(marks.iterdir())) == 2
    assert found.results.read_bytes() == expected.results.read_bytes()
    assert not ray.is_initialized()
