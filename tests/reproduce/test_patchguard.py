import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

import robustad.reproduce.patchguard as module
from robustad.data import load, write_mvtec
from robustad.data.surfaces import load_surfaces
from robustad.detectors import PatchGuard
from robustad.errors import DataError, InputError, TrainingError
from robustad.evaluation import Condition, Evaluation, Metrics
from robustad.networks import NetworkConfig
from robustad.reproduce.patchguard import list_patchguard, run_patchguard
from robustad.reproduce.patchguard_plan import PatchGuardStudy, plan
from robustad.reproduce.patchguard_tables import patchguard_tables

STUDY = PatchGuardStudy(tables=("main", "19", "21"), preset="fast", attacks=("pgd2_flip", "pgd2"))
TINY = NetworkConfig(
    body="vit_small_patch16_224", patch_size=8, image_size=32, depth=1, embed_dim=32, num_heads=2
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two generated categories, small, in the layout of MVTec AD."""
    folder = tmp_path_factory.mktemp("data")
    for category in ("cloth", "metal"):
        write_mvtec(load_surfaces(category, size=64, train=3, test_good=2, per_defect=1), folder)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Training that trains nothing and evaluations made up of their arguments; what was called."""
    calls = []

    def train(data, config, *, out, device, progress):
        calls.append(("train", data.category, config, out))
        detector = PatchGuard(TINY)
        detector.save(out / "detector.safetensors")
        return detector

    def evaluate(detector, samples, *, attacks, eps, batch_size, dataset, category, progress):
        calls.append(("evaluate", category, eps, attacks))
        assert isinstance(detector, PatchGuard)
        labels = [sample.label for sample in samples]
        start = {"cloth": 0.9, "metal": 0.6}[category]

        def condition(name, auroc):
            metrics = Metrics(auroc=auroc, ap=0.5, f1_max=0.5, gmean_max=0.5, pixel_auroc=auroc / 2)
            return Condition(name=name, score=[0.0] * len(labels), metrics=metrics)

        conditions = [condition("clean", start)]
        conditions += [condition(name, start - 0.1 * i - eps) for i, name in enumerate(attacks)]
        conditions.append(condition("worst_case", 0.25))
        conditions[-1].metrics.pixel_auroc = None
        return Evaluation(
            method="patchguard", dataset=dataset, category=category, eps=eps, labels=labels,
            names=[s.name for s in samples], defects=[s.defect for s in samples],
            conditions={c.name: c for c in conditions},
        )  # fmt: skip

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "evaluate", evaluate)
    return calls


def run(root, out, study=STUDY, **options):
    said = []
    outcome = run_patchguard(study, [root], out, progress=False, say=said.append, **options)
    return outcome, said


def kinds(calls):
    return [call[0] for call in calls]


def test_models_shared_by_tables_are_planned_once(root):
    runs = plan(STUDY, [root])
    assert [(r.index, r.category) for r in runs] == [
        (1, "cloth"), (2, "metal"), (3, "cloth"), (4, "metal")
    ]  # fmt: skip
    main = [("main", "PatchGuard"), ("19", "with discriminator")]
    radii = [("21", f"l2 eps {n}/255") for n in (16, 32, 64, 128)]
    assert list(runs[0].rows) == main + radii
    assert [c.rows for c in runs[0].checks] == [tuple(main), *((row,) for row in radii)]
    assert [c.eps for c in runs[0].checks] == [8 / 255, *(n / 255 for n in (16, 32, 64, 128))]
    assert {c.attacks for c in runs[0].checks[1:]} == {("pgd2_l2_flip", "pgd2_l2")}
    assert runs[2].rows == (("19", "without discriminator"),)
    assert runs[0].config == runs[1].config
    other = plan(replace(STUDY, tables=("21", "19", "main", "main")), [root])
    assert other == runs  # the order they are named in does not matter


def test_radii_of_table_20_are_trained_and_evaluated_at(root):
    runs = plan(replace(STUDY, tables=("20",)), [root], only=("cloth",))
    assert [r.config.attack.eps for r in runs] == [2 / 255, 4 / 255, 8 / 255]
    assert [[c.eps for c in r.checks] for r in runs] == [[2 / 255], [4 / 255], [8 / 255]]


def test_everything_is_made_once_and_found_again(root, tmp_path, quick):
    outcome, said = run(root, tmp_path)
    assert kinds(quick) == (["train"] + ["evaluate"] * 5) * 2 + ["train", "evaluate"] * 2
    assert [len(found) for found in outcome.results.values()] == [2] * 7
    assert said[0].startswith("1/4 cloth (main: PatchGuard, 19: with discriminator, 21: l2 eps 16")
    assert "AUROC clean 0.900, pgd2_flip 0.869, pgd2 0.769, worst_case 0.250" in said[0]
    tables = (tmp_path / "mvtec" / "tables.md").read_text()
    quick.clear()
    again, said = run(root, tmp_path)
    assert (quick, again.results) == ([], outcome.results)
    assert all("on disk" in line for line in said)
    assert (tmp_path / "mvtec" / "tables.md").read_text() == tables
    # another table that needs the same models trains nothing
    run(root, tmp_path, replace(STUDY, tables=("8",)))
    assert [c for c in quick if c[0] == "train" and c[2].regulariser.delta is None] == []
    assert kinds(quick) == ["train", "evaluate"] * 4


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_together_are_everything(root, tmp_path, quick, count):
    for place in range(1, count + 1):
        run(root, tmp_path / "parts", shard=(place, count))
    trained = [(category, config) for kind, category, config, _ in quick if kind == "train"]
    assert sorted(category for category, _ in trained) == ["cloth"] * 2 + ["metal"] * 2
    quick.clear()
    run(root, tmp_path / "whole")
    parts, whole = (
        (tmp_path / name / "mvtec" / "tables.json").read_text() for name in ("parts", "whole")
    )
    assert parts == whole


def test_a_shard_takes_every_nth(root, tmp_path, quick):
    outcome, said = run(root, tmp_path, shard=(2, 3))
    assert [line.split()[0] for line in said] == ["2/4"]
    assert [done for _, _, done in outcome.runs] == [False, True, False, False]
    assert "1 of 4 runs done" in (tmp_path / "mvtec" / "tables.md").read_text()
    outcome, said = run(root, tmp_path, shard=(9, 9))
    assert said == []
    for shard in ((0, 2), (3, 2)):
        with pytest.raises(InputError, match=r"shard: expected i/n with 1 <= i <= n, got"):
            run(root, tmp_path, shard=shard)


def test_a_killed_study_goes_on(root, tmp_path, quick, monkeypatch):
    real = module.evaluate

    def killed(*arguments, eps, **options):
        if kinds(quick).count("evaluate") == 7:
            raise KeyboardInterrupt
        return real(*arguments, eps=eps, **options)

    monkeypatch.setattr(module, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path)
    listed = list_patchguard(STUDY, [root], tmp_path)
    assert [(folder is not None, done) for _, folder, done in listed] == [
        (True, True), (True, False), (False, False), (False, False)
    ]  # fmt: skip
    assert not list(tmp_path.rglob("*.part*"))
    monkeypatch.setattr(module, "evaluate", real)
    quick.clear()
    outcome, said = run(root, tmp_path)
    # the second model is trained and twice evaluated already
    assert kinds(quick) == ["evaluate"] * 3 + ["train", "evaluate"] * 2
    assert "on disk" in said[0]
    assert [done for _, _, done in outcome.runs] == [True] * 4


def test_files_of_foregrounds_count_by_what_is_in_them(root, tmp_path, quick):
    weights = tmp_path / "first.pth"
    weights.write_bytes(b"one network")
    moved = tmp_path / "moved.pth"
    moved.write_bytes(b"one network")

    def made(path):
        quick.clear()
        given = ("foreground.method=gradcam", f"foreground.weights={path}")
        study = replace(STUDY, tables=("main",), overrides=given)
        run(root, tmp_path / "out", study)
        return kinds(quick)

    assert made(weights) == ["train", "evaluate"] * 2
    assert made(moved) == []
    weights.write_bytes(b"another network")
    assert made(weights) == ["train", "evaluate"] * 2


def test_training_goes_on_in_the_same_folder(root, tmp_path, quick, monkeypatch):
    folders = []

    def stopped(data, config, *, out, **options):
        folders.append(out)
        raise KeyboardInterrupt

    real = module.train
    monkeypatch.setattr(module, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path)
    monkeypatch.setattr(module, "train", real)
    run(root, tmp_path)
    assert quick[0][3] == folders[0]
    assert folders[0].parent == tmp_path / "mvtec" / "cloth"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"attacks": ("pgd3",)}, ["evaluate"]),
        ({"overrides": ("seed=1",)}, ["train", "evaluate"]),
        ({"overrides": ("network.depth=3",)}, ["train", "evaluate"]),
        ({"batch_size": 4}, []),
        ({"overrides": ("seed=0",)}, []),
    ],
)
def test_what_changes_is_made_again(root, tmp_path, quick, change, expected):
    study = replace(STUDY, tables=("main",))
    run(root, tmp_path, study, only=("cloth",))
    quick.clear()
    run(root, tmp_path, replace(study, **change), only=("cloth",))
    assert kinds(quick) == expected
    quick.clear()
    run(root, tmp_path, study, only=("cloth",))
    assert quick == []  # the other way of asking has left this one alone


def test_other_images_and_other_weights_are_other_runs(root, tmp_path, quick):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    study = replace(STUDY, tables=("main",), overrides=(f"weights={weights}",))
    run(root, tmp_path / "out", study, only=("cloth",))
    weights.write_bytes(b"two")
    run(root, tmp_path / "out", study, only=("cloth",))
    other = tmp_path / "data"
    write_mvtec(load_surfaces("cloth", size=64, train=3, test_good=2, per_defect=1, seed=1), other)
    run(other, tmp_path / "out", study)
    assert kinds(quick) == ["train", "evaluate"] * 3


def test_a_failing_run_stops_no_other(root, tmp_path, quick, monkeypatch):
    real = module.train

    def failing(data, config, **options):
        if data.category == "cloth":
            raise TrainingError("the loss is not finite")
        return real(data, config, **options)

    monkeypatch.setattr(module, "train", failing)
    outcome, said = run(root, tmp_path, replace(STUDY, tables=("main",)))
    assert outcome.skipped == ["cloth (main: PatchGuard): the loss is not finite"]
    assert "skipped, the loss is not finite" in said[0]
    assert len(outcome.results["main", "PatchGuard"]) == 1
    assert "Skipped: cloth (main" in (tmp_path / "mvtec" / "tables.md").read_text()
    with pytest.raises(DataError, match="every run failed: cloth"):
        run(root, tmp_path / "other", replace(STUDY, tables=("main",)), only=("cloth",))


def test_the_tables(root, tmp_path, quick):
    outcome, _ = run(root, tmp_path)
    main, by_category, nineteen, l2 = patchguard_tables(outcome.results, STUDY)
    assert main.columns == ["", "published", "clean", "pgd2_flip", "pgd2", "worst case", "of"]
    attacked = 100 * (0.75 - 8 / 255)
    assert main.rows == [
        ["PatchGuard, AD", "88.1 / 71.1", "75.0", f"{attacked:.1f}", f"{attacked - 10:.1f}",
         "25.0", "2"],
        ["PatchGuard, AL", "92.7 / 73.8", "37.5", f"{attacked / 2:.1f}",
         f"{attacked / 2 - 5:.1f}", "-", "2"],
    ]  # fmt: skip
    assert "attacks at 8/255" in main.title
    assert by_category.title.startswith("Table 13 by category")
    assert [row[0] for row in by_category.rows] == [
        "cloth, AD", "cloth, AL", "metal, AD", "metal, AL"
    ]  # fmt: skip
    assert by_category.rows[2][1:3] == ["-", "60.0"]
    assert nineteen.rows[0][1] == "85.9 / 69.5"
    assert l2.columns[3:5] == ["pgd2_l2_flip", "pgd2_l2"]
    assert [row[1] for row in l2.rows[::2]] == [
        "88.1 / 84.3", "88.1 / 82.1", "88.1 / 78.2", "88.1 / 77.2"
    ]  # fmt: skip
    document = json.loads((tmp_path / "mvtec" / "tables.json").read_text())
    assert document["tables"][0]["rows"] == main.rows
    assert document["study"]["attacks"] == ["pgd2_flip", "pgd2"]
    figures = document["figures"]["main"]["PatchGuard"]
    assert figures["categories"] == ["cloth", "metal"]
    assert figures["conditions"]["clean"] == pytest.approx({"auroc": 0.75, "pixel_auroc": 0.375})
    assert figures["conditions"]["worst_case"]["pixel_auroc"] is None
    for entry in document["runs"]:
        assert (tmp_path / "mvtec" / entry["folder"] / "detector.safetensors").is_file()
        assert entry["done"]
    text = (tmp_path / "mvtec" / "tables.md").read_text()
    assert all(table.markdown() in text for table in (main, by_category, nineteen, l2))


def test_without_results_the_published_figures_stand_alone():
    study = replace(STUDY, dataset="btad", tables=("main", "10"))
    main, by_category, ten = patchguard_tables({}, study)
    assert main.rows[0] == ["PatchGuard, AD", "85.3 / 82.1", "-", "-", "-", "-", "0"]
    assert [row[0] for row in by_category.rows[::2]] == ["01, AD", "02, AD", "03, AD"]
    assert ten.rows[3][:2] == ["ResNet-50, AL", "86.0 / 24.7"]
    unknown = patchguard_tables({}, replace(STUDY, dataset="surfaces"))[0]
    assert unknown.rows[0][1] == "-"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": ("3",)}, "table: expected some of main, 7, .* got '3'"),
        ({"attacks": ("flood",)}, "attack: expected one of .* got 'flood'"),
        ({"attacks": ("fgsm_probe",)}, "attack: fgsm_probe needs features to fit a probe on"),
        ({"attacks": ()}, "attack: expected at least one, got none"),
        ({"preset": "slow"}, "preset: expected one of paper"),
        ({"overrides": ("network.size=3",)}, "network.size: there is no such field"),
    ],
)
def test_bad_studies_are_refused_before_anything_runs(root, tmp_path, quick, change, message):
    with pytest.raises(InputError, match=message):
        run(root, tmp_path / "out", replace(STUDY, **change))
    with pytest.raises(InputError, match="category: screw not found in the data given"):
        run(root, tmp_path / "out", only=("screw",))
    assert quick == []
    assert not (tmp_path / "out").exists()


def test_one_table_end_to_end(root, tmp_path):
    """Real training and attacks, a killed run in between, and the same figures both ways."""
    tiny = (
        "network.image_size=32", "network.depth=1", "network.embed_dim=32",
        "network.discriminator_hidden=32", "optimiser.epochs=2", "optimiser.repeats=1",
        "attack.steps=1", "validation.every=0",
    )  # fmt: skip
    study = replace(STUDY, tables=("main",), overrides=tiny)
    outcome, _ = run(root, tmp_path / "a", study, only=("cloth",))
    [found] = outcome.results["main", "PatchGuard"]
    assert list(found.conditions) == ["clean", "pgd2_flip", "pgd2", "worst_case"]
    assert found.names == [sample.name for sample in load("mvtec", root, "cloth").test]
    assert found.calibration is None
    [(_, folder, done)] = outcome.runs
    assert done
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["network"]["embed_dim"] == 32
    aligned = found.conditions["pgd2"]
    sign = np.where(np.array(found.labels) == 0, 1, -1)
    assert (sign * (np.array(aligned.score) - np.array(found.clean.score)) >= 0).all()
    assert aligned.distance == pytest.approx(8 / 255, abs=1e-6)
    # trained already, evaluated not: only the latter is made
    for name in ("detector.safetensors", "config.yaml"):
        target = tmp_path / "b" / folder.relative_to(tmp_path / "a") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((folder / name).read_bytes())
    again, _ = run(root, tmp_path / "b", study, only=("cloth",))
    assert again.results["main", "PatchGuard"][0].scores().tolist() == found.scores().tolist()
