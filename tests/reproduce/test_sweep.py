import sys
import threading
from dataclasses import replace

import pytest

from robustad.data import write_mvtec
from robustad.data.surfaces import load_surfaces
from robustad.errors import InputError, MissingDependencyError, StateError
from robustad.reproduce import CalibrationStudy, Study, run_calibration, run_fewshot
from robustad.reproduce.defences import DefenceStudy, run_defences
from robustad.reproduce.patchguard import run_patchguard
from robustad.reproduce.patchguard_plan import PatchGuardStudy
from robustad.workers import Workers
from robustad.workers.local import LocalCrew

pytestmark = pytest.mark.filterwarnings("ignore:(Platt|Isotonic|Temperature|Beta)")
RAY = Workers(2, engine="ray", threads=1)  # a stand-in that works in this process
SMALL = {"dataset": "mvtec", "attacks": ("fgsm",), "backbone": "filters", "image_size": 64}
FEWSHOT = Study(**SMALL, shots=(1, 2, 9), seeds=2, preprocessing="none", calibration=0.4)
TINY = (
    "network.image_size=32", "network.depth=1", "network.embed_dim=32",
    "network.discriminator_hidden=32", "optimiser.epochs=1", "optimiser.repeats=1",
    "attack.steps=1", "validation.every=0",
)  # fmt: skip
STUDIES = {
    "fewshot": (run_fewshot, FEWSHOT),
    "calibration": (
        run_calibration,
        CalibrationStudy(
            **SMALL, shots=(1, "full"), preprocessing="none", calibration=0.4, splits=3
        ),
    ),
    "defences": (
        run_defences,
        DefenceStudy(
            **(SMALL | {"image_size": 32}), defences=("none", "bootstrap3"), shots=2, images=4,
            eps=(1 / 255,), calibration=0.4,
        ),
    ),
    "patchguard": (
        run_patchguard,
        PatchGuardStudy(
            tables=("main", "19"), preset="fast", attacks=("pgd2",), overrides=TINY
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two generated categories, small, in the layout of MVTec AD."""
    folder = tmp_path_factory.mktemp("data")
    for category in ("cloth", "metal"):
        made = load_surfaces(category, size=64, train=4, test_good=6, per_defect=1)
        write_mvtec(made, folder)
    return folder


def run(kind, root, out, **options):
    function, study = STUDIES[kind]
    said = []
    outcome = function(study, [root], out, progress=False, say=said.append, **options)
    return outcome, said


def tables(out):
    """Without how long it took, where that is written."""
    [path] = out.rglob("tables.md")
    return path.read_text()


@pytest.fixture(scope="module")
def alone(root, tmp_path_factory):
    """The few-shot study as one process makes it: outcome, what was said, tables."""
    out = tmp_path_factory.mktemp("alone")
    return (*run("fewshot", root, out), tables(out))


def scores(outcome):
    return {
        (k, e.category, i): {name: c.score for name, c in e.conditions.items()}
        for k, found in outcome.results.items()
        for i, e in enumerate(found)
    }


def test_killed_workers_change_no_bit(root, alone, tmp_path, monkeypatch):
    expected, lines, text = alone
    plain, given = LocalCrew._give, []

    def give(self, hand, one):
        plain(self, hand, one)
        given.append(one.name)
        if len(given) == 3:
            threading.Timer(0.02, hand.process.kill).start()

    monkeypatch.setattr(LocalCrew, "_give", give)
    outcome, said = run("fewshot", root, tmp_path, workers=Workers(2, threads=1))
    assert len(set(given)) == 12
    assert scores(outcome) == scores(expected)
    assert outcome.skipped == expected.skipped  # 9 shots of 4 images, in the study's order
    assert len(outcome.skipped) == 4
    assert tables(tmp_path) == text
    assert sorted(line.split(":")[0] for line in said) == sorted(
        line.split(":")[0] for line in lines
    )


@pytest.mark.parametrize("kind", ["calibration", "defences", "patchguard"])
def test_actors_make_what_one_process_makes(kind, root, tmp_path, ray_stand_in):
    _, lines = run(kind, root, tmp_path / "alone")
    ray = ray_stand_in(deaths=["cloth"])
    outcome, said = run(kind, root, tmp_path / "shared", workers=RAY)
    assert len(said) == len(lines) == 4
    assert (ray.deaths, len(ray.started)) == ([], 3)
    assert tables(tmp_path / "shared") == tables(tmp_path / "alone")
    again, said = run(kind, root, tmp_path / "shared", workers=RAY)
    assert all("on disk" in line for line in said)
    assert len(ray.started) == 3  # no worker for nothing
    if kind != "patchguard":
        assert again == outcome


def test_an_interrupted_sweep_goes_on(root, alone, tmp_path, ray_stand_in, monkeypatch):
    ray, got = ray_stand_in(), []
    plain = ray.get

    def get(task):
        got.append(plain(task))
        if sum("answer" in one for one in got) == 3:
            raise KeyboardInterrupt
        return got[-1]

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(KeyboardInterrupt):
        run("fewshot", root, tmp_path, workers=RAY)
    assert not ray.up
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(made) >= 2
    monkeypatch.setattr(ray, "get", plain)
    outcome, said = run("fewshot", root, tmp_path, workers=RAY)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert sum("on disk" in line for line in said) == len(made)
    assert scores(outcome) == scores(alone[0])
    assert tables(tmp_path) == alone[2]


def test_a_run_that_fails_is_named(root, tmp_path, ray_stand_in, monkeypatch):
    ray_stand_in()
    module, plain = "robustad.reproduce.fewshot.evaluate", run_fewshot.__globals__["evaluate"]

    def failing(detector, samples, *, category, **options):
        if category == "metal":
            raise InputError("the light went out")
        return plain(detector, samples, category=category, **options)

    monkeypatch.setattr(module, failing)
    study = replace(FEWSHOT, shots=(1,))
    message = (
        "2 of 4 pieces of work could not be done, the others are finished: "
        r"metal 1-shot seed \d: the light went out; metal 1-shot seed \d: the light went out"
    )
    with pytest.raises(StateError, match=message):
        run_fewshot(study, [root], tmp_path, workers=RAY, progress=False)
    assert len(list(tmp_path.rglob("shots*.json"))) == 2


@pytest.mark.parametrize("kind", [*STUDIES])
def test_refused(kind, root, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="workers: expected >= 1, got 0"):
        run(kind, root, tmp_path, workers=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"ray is needed .*robustad\[ray\]"):
        run(kind, root, tmp_path, workers=RAY)
    assert not list(tmp_path.rglob("*.json"))
