import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from robustad.data import write_mvtec
from robustad.data.surfaces import Surfaces
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError, MissingDependencyError, StateError
from robustad.evaluation import evaluate, evaluate_shard
from robustad.evaluation.store import Store
from robustad.workers import Workers
from robustad.workers.local import LocalCrew
from robustad.workers.on_ray import RayCrew

pytestmark = pytest.mark.filterwarnings("ignore:Platt slope is negative")
OPTIONS = {"attacks": ("fgsm_probe", "pgd2"), "eps": (0.03, 0.01), "batch_size": 3}
RAY = Workers(2, engine="ray", threads=1)  # a stand-in that works in this process


@pytest.fixture(scope="module")
def data():
    return Surfaces(size=64, train=4, test_good=6, per_defect=2).load("tray")


@pytest.fixture(scope="module")
def detector(data):
    return AnomalyDINO("filters", image_size=32).fit([sample.image for sample in data.train])


@pytest.fixture(scope="module")
def halves(data):
    """Images to calibrate on and to evaluate, both of either class."""
    return data.test[::2], data.test[1::2]


@pytest.fixture(scope="module")
def alone(detector, halves):
    """What one process finds."""
    return without_times(evaluate(detector, halves[1], calibration=halves[0], **OPTIONS))


def without_times(evaluation):
    document = evaluation.model_dump()
    for condition in document["conditions"].values():
        condition.pop("seconds")
    return document


def units(halves, cases=4):
    return -(-len(halves[1]) // OPTIONS["batch_size"]) * (1 + cases)


def test_killed_workers_change_no_bit_and_nothing_is_kept_twice(
    detector, halves, alone, tmp_path, monkeypatch
):
    plain, given = LocalCrew._give, []

    def give(self, hand, unit):
        plain(self, hand, unit)
        given.append(unit.name)
        if len(given) in (2, 5):
            threading.Timer(0.005, hand.process.kill).start()

    monkeypatch.setattr(LocalCrew, "_give", give)
    found = evaluate(
        detector, halves[1], calibration=halves[0], store=tmp_path,
        workers=Workers(2, threads=1), **OPTIONS,
    )  # fmt: skip
    assert without_times(found) == alone
    assert len(set(given)) == len(Store(tmp_path)) == units(halves)
    assert len(given) <= units(halves) + 2
    assert {len(path.name) for path in tmp_path.iterdir()} == {2}  # units, and no copy left


def test_what_a_killed_evaluation_has_kept_is_used(detector, halves, alone, tmp_path, ray_stand_in):
    """Killed together with its workers, and finished by others."""
    detector.save(tmp_path / "detector.safetensors")
    store = tmp_path / "store"
    program = f"""
from robustad import evaluate, load
from robustad.data.surfaces import Surfaces
test = Surfaces(size=64, train=4, test_good=6, per_defect=2).load("tray").test
detector = load({str(tmp_path / "detector.safetensors")!r})
evaluate(detector, test[1::2], calibration=test[::2], store={str(store)!r}, workers=1, **{OPTIONS})
"""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: rounding depends on it
    process = subprocess.Popen([sys.executable, "-P", "-c", program], env=one_thread)
    while len(Store(store)) < 5 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    time.sleep(0.1)  # for its worker to notice
    kept = {path: path.stat().st_mtime_ns for path in store.glob("??/*.safetensors")}
    assert 5 <= len(kept) < units(halves)
    ray_stand_in()
    found = evaluate(
        detector, halves[1], calibration=halves[0], store=store, workers=RAY, **OPTIONS
    )
    assert without_times(found) == alone
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(Store(store)) == units(halves)


@pytest.mark.parametrize("given", [{"surrogates": 1}, {"skip_beaten": True}, {"resume": False}])
def test_actors_find_what_one_process_finds(
    detector, halves, given, tmp_path, ray_stand_in, monkeypatch
):
    """Clean units, attacks and those that depend on earlier ones; on Ray, as far as it is here."""
    options = {"calibration": halves[0], **OPTIONS, **given}
    if given == {"surrogates": 1}:
        # an attack that needs a threshold, which only the clean scores give, and starts from others
        attacks = ("hopskipjump40", "transfer2")
        options |= {"attacks": attacks, "eps": 0.03, "calibration": (), "surrogates": [detector]}
    expected = evaluate(detector, halves[1], **options)
    ray = ray_stand_in(deaths=["clean of images 3", "pgd2 of images 0"])
    told = []
    monkeypatch.setattr(
        "robustad.evaluation.run._steps", lambda count, total: lambda: told.append(total)
    )
    found = evaluate(detector, halves[1], store=tmp_path, workers=RAY, **options)
    assert without_times(found) == without_times(expected)
    assert found.settings.get("skipped") == expected.settings.get("skipped")
    assert len(ray.started) == 4 - len(ray.deaths)  # those that died were replaced
    if "skip_beaten" not in given:
        assert len(told) == told[0] == len(Store(tmp_path))  # every unit once
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("??/*")}
    evaluate(detector, halves[1], store=tmp_path, workers=RAY, **options)
    same = {path: path.stat().st_mtime_ns for path in files} == files
    assert same is given.get("resume", True)


def test_shards_may_have_workers(detector, halves, alone, tmp_path, ray_stand_in):
    ray_stand_in()
    options = {"calibration": halves[0], "store": tmp_path, **OPTIONS}
    done = [
        evaluate_shard(detector, halves[1], shard=(i, 2), workers=RAY, **options) for i in (1, 2)
    ]
    assert sum(done) == len(Store(tmp_path)) == units(halves)
    assert without_times(evaluate(detector, halves[1], **options)) == alone


def test_what_is_damaged_or_missing_afterwards_is_made_here(
    detector, halves, alone, tmp_path, ray_stand_in, monkeypatch
):
    """As where a cluster's disk is slow to show what another machine wrote."""
    ray = ray_stand_in()
    plain = ray.get

    def get(task):
        answer = plain(task)
        for path in sorted(tmp_path.glob("??/*.safetensors"))[::3]:
            path.unlink()
        return answer

    monkeypatch.setattr(ray, "get", get)
    found = evaluate(
        detector, halves[1], calibration=halves[0], store=tmp_path, workers=RAY, **OPTIONS
    )
    assert without_times(found) == alone


def test_images_of_several_sizes_are_batched_as_in_one_process(tmp_path, ray_stand_in, sample):
    ray_stand_in()
    sizes = [16, 16, 24, 16, 24, 24, 24]
    made = [sample(i, i % 2, size=size) for i, size in enumerate(sizes)]
    wide = [
        type(one)(image=one.image[:, :12], mask=None, label=one.label, name="wide " + one.name)
        for one in made[:3]
    ]
    samples = [made[0], *wide, *made[1:]]
    detector = AnomalyDINO("filters", image_size=32).fit([made[0].image])
    options = {"attacks": ("pgd2",), "batch_size": 2}
    expected = evaluate(detector, samples, **options)
    found = evaluate(detector, samples, store=tmp_path, workers=RAY, **options)
    assert without_times(found) == without_times(expected)


def test_a_unit_that_fails_is_named(data, detector, tmp_path, ray_stand_in, monkeypatch):
    write_mvtec(data, tmp_path / "data")
    from robustad.data import load

    samples = load("mvtec", tmp_path / "data", "tray").test
    ray_stand_in()
    bad, plain = samples[4].image, RayCrew._give

    def give(self, hand, unit):
        if unit.case is not None and 4 in unit.places:
            bad.rename(bad.with_name("moved"))
        plain(self, hand, unit)

    monkeypatch.setattr(RayCrew, "_give", give)
    options = {"attacks": ("pgd2",), "batch_size": 3, "store": tmp_path / "store"}
    message = (
        r"1 of \d pieces of work could not be done, the others are finished: pgd2 of images 3 to 5 "
        rf"\({re.escape(samples[3].name)} to {re.escape(samples[5].name)}\): .*{bad.name}"
    )
    with pytest.raises(StateError, match=message):
        evaluate(detector, samples, workers=RAY, **options)
    bad.with_name("moved").rename(bad)
    monkeypatch.setattr(RayCrew, "_give", plain)
    before = len(Store(tmp_path / "store"))
    evaluate(detector, samples, workers=RAY, **options)
    assert len(Store(tmp_path / "store")) == before + 1


def test_refused(detector, redness, halves, tmp_path, monkeypatch, ray_stand_in):
    def run(made=detector, **options):
        return evaluate(made, halves[1], **{"attacks": (), "store": tmp_path, **options})

    with pytest.raises(InputError, match="workers: expected >= 1, got 0"):
        run(workers=0)
    with pytest.raises(InputError, match="detector: workers load a saved copy of it, and a Redne"):
        run(redness(), workers=2)

    class Other(AnomalyDINO):
        """Of the same method, but not what a file gives back."""

    other = Other("filters", image_size=32).fit(halves[1][0].image)
    with pytest.raises(InputError, match="a Other cannot be loaded from a file, only detectors of"):
        run(other, workers=2)
    with pytest.raises(InputError, match="surrogates: workers load a saved copy of it, and a Red"):
        run(workers=2, attacks=("transfer2",), surrogates=[redness()])
    ray = ray_stand_in()
    with pytest.raises(InputError, match="store: expected a folder that all machines of the Ray"):
        run(workers=RAY, store=None)
    assert not ray.up
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"ray is needed .*robustad\[ray\]"):
        run(workers=RAY)
    assert len(Store(tmp_path)) == 0


def test_a_copy_that_is_another_detector_is_not_evaluated(
    data, detector, halves, tmp_path, ray_stand_in, monkeypatch
):
    """As where its weights are found by a name, and another machine has others of that name."""
    ray_stand_in()
    other = AnomalyDINO("filters", image_size=32).fit(data.train[0].image)
    monkeypatch.setattr("robustad.evaluation.given_out.load", lambda path: other)
    with pytest.raises(StateError, match=r"worker: .*saved copy is not the detector that was give"):
        evaluate(detector, halves[1], attacks=(), store=tmp_path, workers=RAY)


@pytest.mark.slow
def test_ray_actors_and_their_deaths(detector, halves, alone, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    from robustad.workers import on_ray

    marks = tmp_path / "marks"
    marks.mkdir()

    class Mortal(on_ray.Actor):
        def do(self, unit):
            mark = marks / unit.name.replace("/", "-")
            if unit.places[0] == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().do(unit)

    monkeypatch.setattr(on_ray, "Actor", Mortal)
    store = tmp_path / "store"
    found = evaluate(
        detector, halves[1], calibration=halves[0], store=store, workers=RAY, **OPTIONS
    )
    assert without_times(found) == alone
    assert len(list(marks.iterdir())) == 1 + 4  # the clean unit, and each attack at each radius
    assert len(Store(store)) == units(halves)
    assert not list(store.glob("handed-*"))
    assert not ray.is_initialized()
