import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import robustad.reproduce.defences as module
from robustad.certificates import SmoothedDetector
from robustad.data import write_mvtec
from robustad.data.surfaces import Surfaces
from robustad.detectors import AnomalyDINO, BankEnsemble
from robustad.errors import InputError
from robustad.reproduce.defence_kinds import DEFAULT_DEFENCES, Parts, defence
from robustad.reproduce.defences import DefenceStudy, run_defences

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
STUDY = DefenceStudy(
    dataset="mvtec",
    defences=("none", "prune20", "bootstrap3"),
    shots=2,
    attacks=("pgd2",),
    eps=(2 / 255, 1 / 255),
    backbone="filters",
    image_size=32,
    images=4,
    calibration=0.4,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defences")
    write_mvtec(Surfaces(size=64, train=4, test_good=6, per_defect=3).load("tray"), folder)
    return folder


def run(root, out, study=STUDY):
    said = []
    outcome = run_defences(study, [root], out, progress=False, say=said.append)
    return outcome, said


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return (*run(root, out), out)


def test_every_defence_faces_the_same_images(finished):
    outcome, said, _ = finished
    found = outcome.results["tray"]
    assert [*found] == ["none", "prune20", "bootstrap3"]
    evaluations = [done.evaluation for done in found.values()]
    assert len({tuple(one.names) for one in evaluations}) == 1
    assert len({one.hashes["data"] for one in evaluations}) == 1
    assert len({one.hashes["detector"] for one in evaluations}) == 3
    for one in evaluations:
        assert one.conditions["worst_case"].metrics.auroc <= one.clean.metrics.auroc
        assert one.conditions["worst_case"].metrics.fpr is not None
    assert sum(evaluations[0].labels) <= 4
    assert found["none"].spread is None
    spread = found["bootstrap3"].spread
    assert 0 <= spread["flag_auroc"] <= 1
    assert spread["clean"] > 0
    assert len(said) == 3


def test_tables_and_numbers_are_written(finished):
    outcome, _, out = finished
    text = (out / "tables.md").read_text()
    assert "none: nearest neighbour in the whole bank" in text
    assert "AUROC at 2/255 | AUROC at 1/255" in text
    document = json.loads((out / "tables.json").read_text())
    figures = document["figures"]["tray"]["prune20"]
    done = outcome.results["tray"]["prune20"]
    assert figures["conditions"]["clean"]["auroc"] == done.evaluation.clean.metrics.auroc
    assert set(figures["conditions"]) == {
        "clean", "pgd2", "worst_case", "pgd2@1/255", "worst_case@1/255",
    }  # fmt: skip
    assert document["study"]["backbone"] == "filters"


def test_what_is_on_disk_is_not_run_again(finished, root, tmp_path, monkeypatch):
    outcome, _, out = finished
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(module, "evaluate", None)
    again, said = run(root, tmp_path)
    assert again.results == outcome.results
    assert all("on disk" in line for line in said)
    fewer, _ = run(root, tmp_path, replace(STUDY, defences=("prune20",)))
    assert [*fewer.results["tray"]] == ["prune20"]
    robust, _ = run(root, tmp_path, replace(STUDY, robust="robustbench/Salman2020Do_R18"))
    assert robust.results == outcome.results  # changes the defence `robust` alone
    (tmp_path / "tray" / "none.json").write_text("{}")
    with pytest.raises(TypeError):
        run(root, tmp_path)
    with pytest.raises(TypeError):
        run(root, tmp_path, replace(STUDY, defences=("prune20",), eps=(1 / 255,)))


def test_it_is_rendered(finished, monkeypatch, tmp_path):
    _, _, out = finished
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    results, render = (importlib.import_module(m) for m in ("render_results", "render_defences"))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.add("defences_small", [out])
    document = json.loads((tmp_path / "defences_small.json").read_text())
    text = "\n\n".join(render.defences("defences_small", document))
    assert "`prune20`: without the 20% of the bank" in text
    assert "(3 normal, 3 anomalous images), pgd2" in text or "normal" in text
    assert "robustad reproduce defences --dataset mvtec" in text
    assert "--eps 2/255 1/255" in text
    assert text in results.page()
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(lines) == 3
    assert lines[0].count("| - |") >= 1  # nothing is gained over itself
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("name", "kind", "check"),
    [
        ("none", AnomalyDINO, lambda d: d.config().prune == 0),
        ("prune5", AnomalyDINO, lambda d: d.config().prune == 0.05),
        ("density20", AnomalyDINO, lambda d: d.config().prune_by == "density"),
        ("k3", AnomalyDINO, lambda d: (d.k, d.config().reduce) == (3, "mean")),
        ("k9max", AnomalyDINO, lambda d: (d.k, d.config().reduce) == (9, "max")),
        ("bootstrap8", BankEnsemble, lambda d: d.members == 8),
        ("smooth12", SmoothedDetector, lambda d: (d.sigma, d.draws) == (0.12, 16)),
        ("filters", BankEnsemble, lambda d: d.members == 2),
        ("layers", BankEnsemble, lambda d: d.views[1].backbone.config.layers == (3,)),
        ("robust", AnomalyDINO, lambda d: d.backbone.config.name == "filters"),
    ],
)  # fmt: skip
def test_names_build_what_they_say(name, kind, check):
    from robustad.backbones import create

    backbone = create("resnet18", "random")

    def plain(backbone=backbone, **options):
        return AnomalyDINO(backbone, image_size=64, **options)

    parts = Parts(
        plain=plain, backbone=backbone, weights="random", robust=lambda: create("filters")
    )
    found = defence(name)
    made = found.build(parts)
    assert isinstance(made, kind)
    assert check(made)
    assert found.name == name
    assert found.summary


def test_all_defaults_are_known():
    assert [defence(name).name for name in DEFAULT_DEFENCES] == [*DEFAULT_DEFENCES]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defences": ("moat",)}, "defence: expected none, prune<percent>.* got 'moat'"),
        ({"defences": ("prune0",)}, "got 'prune0'"),
        ({"defences": ()}, "defences: expected at least one, each once"),
        ({"defences": ("none", "none")}, "defences: expected at least one, each once"),
        ({"attacks": ()}, "attacks: expected at least one, each once"),
        ({"attacks": ("flood",)}, "attack: expected one of"),
        ({"images": 1}, "images: expected at least 2 of each class, got 1"),
        ({"defences": ("robust",)}, "robust: expected the name of a robust backbone"),
        ({"defences": ("layers",)}, "defence 'layers': expected a CNN with several, got filters"),
        ({"defences": ("filters",)}, "defence 'filters': expected another backbone"),
    ],
)
def test_bad_studies(root, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        run(root, tmp_path, replace(STUDY, **change))
