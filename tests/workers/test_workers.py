import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustad.errors import InputError, MissingDependencyError, StateError
from robustad.workers import Workers, crew
from robustad.workers.base import Word
from robustad.workers.local import LocalCrew

# A job that keeps a file for every time a piece was done; in a module, as workers import it.
JOB = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Piece:
    name: str
    value: int = 0

@dataclass(frozen=True)
class Job:
    out: str
    start_by: str = "starting"
    gpu: bool = False

    def start(self, threads):
        if self.start_by == "raising":
            raise OSError("no such weights")
        if self.start_by == "dying":
            os._exit(3)
        if self.start_by == "at the third try" and len(list(Path(self.out).glob("try-*"))) % 3 < 2:
            self.mark("try", "")
            os._exit(3)
        self.mark("try", "")
        self.mark("started", os.getpid())
        return lambda piece: self.do(piece, threads)

    def mark(self, what, value):
        Path(self.out, f"{what}-{time.monotonic_ns()}-{os.getpid()}").write_text(str(value))

    def do(self, piece, threads):
        if piece.name == "slow":
            self.mark("slow", piece.value)
            time.sleep(60)
        if piece.name.startswith("bad"):
            raise KeyError(piece.name)
        if piece.name == "deadly" or (
            piece.name.startswith("once") and not list(Path(self.out).glob(piece.name + "-*"))
        ):
            self.mark(piece.name, piece.value)
            os.kill(os.getpid(), signal.SIGKILL)
        print("what libraries print")
        self.mark("done", piece.value)
        return {"pid": os.getpid(), "square": piece.value**2, "threads": threads,
                "omp": os.environ.get("OMP_NUM_THREADS")}
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The module with the job."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "toy_job.py").write_text(JOB)
    monkeypatch.syspath_prepend(folder)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    import toy_job

    yield toy_job
    del sys.modules["toy_job"]


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def pieces_of(toy, count, **renamed):
    names = [renamed.get(f"p{i}", f"p{i}") for i in range(count)]
    return [toy.Piece(name, i) for i, name in enumerate(names)]


def marks(out, what):
    return [path.read_text() for path in sorted(out.glob(f"{what}-*"))]


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_every_piece_is_done_once_by_workers_that_stay(toy, out, engine, ray_stand_in):
    ray = ray_stand_in()
    pieces = pieces_of(toy, 12)
    with crew(toy.Job(str(out)), Workers(2, engine=engine, threads=1)) as hands:
        first = list(hands.run(pieces[:6]))
        second = list(hands.run(pieces[6:]))
        assert list(hands.run([])) == []
    assert sorted(piece.value for piece, _ in first) == list(range(6))
    assert sorted(piece.value for piece, _ in second) == list(range(6, 12))
    for piece, answer in first + second:
        assert answer["square"] == piece.value**2
        assert answer["threads"] == 1
    assert sorted(map(int, marks(out, "done"))) == list(range(12))
    assert 1 <= len(marks(out, "started")) <= 2
    if engine == "ray":
        assert len(ray.started) == ray.killed == 2
        assert not ray.up
    else:
        assert {answer["omp"] for _, answer in first} == {"1"}
        assert {str(answer["pid"]) for _, answer in second} <= set(marks(out, "started"))


def test_a_worker_for_each_piece_at_most(toy, out):
    with crew(toy.Job(str(out)), Workers(8)) as hands:
        assert hands.hands == []
        list(hands.run(pieces_of(toy, 1)))
        assert len(hands.hands) == 1
        process = hands.hands[0].process
    assert process.poll() == -signal.SIGKILL


def test_a_killed_workers_piece_is_given_to_another(toy, out):
    pieces = pieces_of(toy, 6, p1="once-a", p4="once-b")
    with crew(toy.Job(str(out)), Workers(2)) as hands:
        found = {piece.value: answer["square"] for piece, answer in hands.run(pieces)}
    assert found == {i: i**2 for i in range(6)}
    assert sorted(map(int, marks(out, "done"))) == list(range(6))


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_pieces_that_fail_are_named_and_the_others_done(toy, out, engine, ray_stand_in):
    ray_stand_in(deaths=["p0"] * 3)
    names = {f"p{i}": f"bad-{i}" for i in range(2, 8)}
    if engine == "local":
        names["p0"] = "deadly"
    pieces, done = pieces_of(toy, 10, **names), []
    with crew(toy.Job(str(out)), Workers(2, engine=engine)) as hands:
        work = (done.append(piece.value) for piece, _ in hands.run(pieces))
        with pytest.raises(StateError) as caught:
            list(work)
        again = [piece.value for piece, _ in hands.run(pieces[9:])]  # and goes on
    text = str(caught.value)
    assert text.startswith("7 of 10 pieces of work could not be done, the others are finished: ")
    assert text.endswith("; and 2 more")
    assert "bad-2: KeyError: 'bad-2'" in text
    if engine == "local":
        assert "deadly: its worker died 3 times, last with code -9" in text
        assert len(marks(out, "deadly")) == 3
    assert (sorted(done), again) == ([1, 8, 9], [9])


def test_work_that_is_left_is_not_heard_of_later(toy, out):
    with crew(toy.Job(str(out)), Workers(1)) as hands:
        work = hands.run([toy.Piece("p", 1), toy.Piece("slow", 2)])
        assert next(work)[0].value == 1
        work.close()
        assert hands.hands == []
        [(piece, answer)] = hands.run([toy.Piece("q", 3)])
    assert (piece.value, answer["square"]) == (3, 9)


def test_an_idle_worker_that_dies_is_replaced(toy, out):
    with crew(toy.Job(str(out)), Workers(1)) as hands:
        [(_, before)] = hands.run([toy.Piece("p", 1)])
        hands.hands[0].process.kill()
        hands.hands[0].process.wait()
        [(_, after)] = hands.run([toy.Piece("q", 2)])
    assert after["square"] == 4
    assert before["pid"] != after["pid"]


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_workers_that_cannot_start(toy, out, engine, ray_stand_in):
    ray_stand_in()
    workers, message = Workers(2, engine=engine), r"^worker: OSError: no such weights$"
    with (
        crew(toy.Job(str(out), "raising"), workers) as hands,
        pytest.raises(StateError, match=message),
    ):
        list(hands.run(pieces_of(toy, 3)))
    if engine == "local":
        message = r"^worker: died before it was ready, with code 3$"
        with (
            crew(toy.Job(str(out), "dying"), workers) as hands,
            pytest.raises(StateError, match=message),
        ):
            list(hands.run(pieces_of(toy, 3)))


def test_workers_end_with_whoever_gave_them_work(toy, out):
    """The one that gives out work is killed while its worker is busy: that ends at once."""
    program = (
        "import toy_job; from robustad.workers import Workers, crew\n"
        f"with crew(toy_job.Job({str(out)!r}), Workers(1)) as hands:\n"
        "    list(hands.run([toy_job.Piece('slow')]))\n"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", program])
    deadline = time.monotonic() + 30
    while not marks(out, "slow") and time.monotonic() < deadline:
        time.sleep(0.01)
    [pid] = map(int, marks(out, "started"))
    process.kill()
    process.wait()
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":  # ended; nobody here asks for its exit code
            return
        time.sleep(0.01)
    pytest.fail("the worker goes on")


def test_workers_that_die_while_starting_now_and_then_are_started_again(toy, out):
    with crew(toy.Job(str(out), "at the third try"), Workers(1)) as hands:
        for i in range(2):  # four died in all, never three in a row
            [(_, answer)] = hands.run([toy.Piece("p", i)])
            assert answer["square"] == i**2
            hands.hands[0].process.kill()
    assert len(marks(out, "try")) == 6


def test_options():
    assert Workers.of(None) is None
    assert Workers.of(4) == Workers(4)
    assert Workers.of(Workers(2, engine="ray")).engine == "ray"
    for given, message in (
        ({"count": 0}, "workers: expected >= 1, got 0"),
        ({"engine": "slurm"}, "engine: expected one of local, ray, got 'slurm'"),
        ({"threads": 0}, "threads: expected >= 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            Workers(**given)


@pytest.mark.parametrize(
    ("cores", "omp", "count", "threads", "expected"),
    [
        (8, None, 2, None, 4), (8, None, 3, None, 2), (2, None, 8, None, 1), (8, "2", 2, None, 2),
        (8, "64", 2, None, 4), (8, "4,2", 2, None, 4), (8, "1", 2, 3, 3),
    ],
)  # fmt: skip
def test_cores_are_shared_out(monkeypatch, cores, omp, count, threads, expected):
    monkeypatch.setattr("robustad.workers.options._cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert Workers(count, threads=threads).share == expected


def test_without_ray(toy, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"ray is needed .*robustad\[ray\]"):
        crew(toy.Job(str(out)), Workers(2, engine="ray"))


def test_what_a_worker_asks_of_a_cluster(toy, out, monkeypatch, ray_stand_in):
    monkeypatch.setattr("robustad.workers.options._cores", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ray = ray_stand_in(cpus=4, gpus=1)
    with crew(toy.Job(str(out), gpu=True), Workers(2, engine="ray")):
        assert ray.options == {"num_cpus": 4, "num_gpus": 1, "max_restarts": 0}
    ray = ray_stand_in(cpus=4)
    with pytest.raises(InputError, match=r"each needs 8 CPU on one machine .* largest has 4"):
        crew(toy.Job(str(out)), Workers(2, engine="ray", threads=8))
    with pytest.raises(InputError, match=r"each needs 1 GPU on one machine .* largest has 0"):
        crew(toy.Job(str(out), gpu=True), Workers(2, engine="ray"))
    assert not ray.up
    ray.up = True  # somebody else's
    with crew(toy.Job(str(out)), Workers(2, engine="ray", threads=3)):
        assert ray.options["num_cpus"] == 3
    assert ray.up


def test_only_what_can_be_sent_is_taken(out):
    class Here:
        gpu = False

    with pytest.raises((pickle.PicklingError, AttributeError)):
        LocalCrew(Here(), Workers(1))
    assert Word(answer=1) == Word(None, None, 1)


def test_the_last_piece_of_a_dead_worker_goes_to_one_that_is_idle(toy, out):
    """When the dying one is heard of, the other has nothing to do and is not starting either."""
    with crew(toy.Job(str(out)), Workers(2)) as hands:
        list(hands.run(pieces_of(toy, 4)))
        plain = hands._give

        def give(hand, piece):
            if piece.name == "last":
                while len(marks(out, "done")) < 5:  # the other piece is done first
                    time.sleep(0.001)
                hand.process.kill()
                del hands._give
            plain(hand, piece)

        hands._give = give
        found = [piece.value for piece, _ in hands.run([toy.Piece("p", 8), toy.Piece("last", 9)])]
        assert sorted(found) == [8, 9]
        assert len(hands.hands) == 1
