"""Verbs that give their work out: evaluate and reproduce with --workers, --engine, --threads."""

import json
import sys

import pytest

from robustad.cli import common
from robustad.errors import InputError
from robustad.workers import ENGINES, Workers

# Actors of a stand-in that works in this process: quick, and the options go the whole way.
RAY = ("--engine", "ray", "--workers", 2, "--threads", 1)
STUDY = ("--category", "tray", "--attack", "fgsm", "--quiet", "--json")
SMALL = (*STUDY, "--backbone", "filters", "--image-size", 64)
STUDIES = {
    "fewshot": (*SMALL, "--shots", 1, 2, "--seeds", 1),
    "calibration": (*SMALL, "--shots", 1, "--splits", 2),
    "defences": (*SMALL, "--shots", 2, "--images", 4, "--defence", "none", "prune20"),
    "patchguard": (
        *STUDY, "--preset", "fast", "--table", "19", "--set", "network.image_size=32",
        "network.depth=1", "network.embed_dim=32", "network.discriminator_hidden=32",
        "optimiser.epochs=1", "optimiser.repeats=1", "attack.steps=1", "validation.every=0",
    ),
}  # fmt: skip


def untimed(text):
    """A study's or evaluation's document, without how long it took and what was typed."""

    def kept(value):
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if k not in ("seconds", "command")}
        return [kept(v) for v in value] if isinstance(value, list) else value

    return kept(json.loads(text))


def test_evaluate(run, detector, surfaces_root, tmp_path, ray_stand_in):
    base = (
        "evaluate", detector, "--dataset", "mvtec", "--data", surfaces_root, "--category", "tray",
        "--attack", "fgsm", "--batch-size", 4, "--quiet", "--json",
    )  # fmt: skip
    code, alone, err = run(*base)
    assert code == 0, err
    ray = ray_stand_in(deaths=["fgsm of images 4"])
    code, shared, err = run(*base, *RAY, "--store", tmp_path / "store")
    assert code == 0, err
    assert untimed(shared) == untimed(alone)
    assert len(ray.started) == 3
    code, _, err = run(*base, *RAY)
    assert code == 1
    assert "store: expected a folder that all machines" in err.replace("\n", " ")
    code, _, err = run(*base, "--threads", 2)
    assert code == 1
    assert "--threads: expected --workers or --engine with it, got neither" in err


@pytest.mark.parametrize("kind", [*STUDIES])
def test_reproduce(run, kind, surfaces_root, tmp_path, ray_stand_in):
    base = ("reproduce", kind, "--dataset", "mvtec", "--data", surfaces_root, *STUDIES[kind])
    code, alone, err = run(*base, "--out", tmp_path / "alone")
    assert code == 0, err
    ray = ray_stand_in()
    code, shared, err = run(*base, *RAY, "--out", tmp_path / "shared")
    assert code == 0, err
    assert ray.started
    assert ray.options["num_cpus"] == 1
    assert untimed(shared) == untimed(alone)


def test_refused(run, detector, surfaces_root, tmp_path, monkeypatch):
    data = ("--dataset", "mvtec", "--data", surfaces_root, "--category", "tray", "--quiet")
    for verb in (("evaluate", detector), *(("reproduce", kind) for kind in STUDIES)):
        assert run(*verb, *data, "--workers", 0)[0] == 2
        code, _, err = run(*verb, *data, "--engine", "slurm")
        assert code == 2
        assert "slurm" in err
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run("evaluate", detector, *data, *RAY, "--store", tmp_path / "store")
    assert code == 1
    assert "ray is needed for workers with --engine ray" in err.replace("\n", " ")


def test_options_become_workers():
    ray = common.Engine.RAY
    assert [one.value for one in common.Engine] == [*ENGINES]
    assert common.parse_workers(None, None, None) is None
    assert common.parse_workers(3, None, None) == Workers(3)
    assert common.parse_workers(None, ray, None) == Workers(2, engine="ray")
    assert common.parse_workers(4, ray, 2) == Workers(4, engine="ray", threads=2)
    with pytest.raises(InputError, match="--threads: expected --workers or --engine with it"):
        common.parse_workers(None, None, 2)
