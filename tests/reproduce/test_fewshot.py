import json
from dataclasses import replace

import numpy as np
import pytest

import robustad.reproduce.fewshot as module
from robustad.data import categories, load, write_mvtec
from robustad.data.surfaces import load_surfaces
from robustad.errors import DataError, InputError
from robustad.reproduce import Study, run_fewshot

# Twelve images of 64 pixels are few to calibrate on.
pytestmark = pytest.mark.filterwarnings("ignore:Platt slope is negative")

STUDY = Study(
    dataset="mvtec",
    shots=(1, 2),
    seeds=2,
    attacks=("fgsm_probe", "fgsm"),
    backbone="filters",
    image_size=64,
    preprocessing="none",
    calibration=0.4,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two generated categories, small, in the layout of MVTec AD."""
    folder = tmp_path_factory.mktemp("data")
    for category in ("cloth", "metal"):
        made = load_surfaces(category, size=64, train=4, test_good=4, per_defect=1)
        write_mvtec(made, folder)
    return folder


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A study that ran through, and its folder."""
    out = tmp_path_factory.mktemp("out")
    said = []
    outcome = run_fewshot(STUDY, [root], out, progress=False, say=said.append)
    return outcome, out, said


def unseen(*arguments, **options):
    raise AssertionError("evaluated again")


def run(root, out, study=STUDY, **options):
    said = []
    outcome = run_fewshot(study, [root], out, progress=False, say=said.append, **options)
    return outcome, said


def copied(out, to):
    """The finished runs, elsewhere."""
    for path in out.rglob("*.json"):
        target = to / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return to


def scores(outcome):
    return {
        (k, e.category, i): {name: c.score for name, c in e.conditions.items()}
        for k, found in outcome.results.items()
        for i, e in enumerate(found)
    }


def test_every_run_is_made_and_told(finished, root):
    outcome, out, said = finished
    assert {k: len(v) for k, v in outcome.results.items()} == {1: 4, 2: 4}
    names = {str(p.relative_to(out)) for p in out.rglob("*.json")}
    assert names == {"tables.json"} | {
        f"{category}/shots-{k}_seed-{seed}.json"
        for category in ("cloth", "metal")
        for k in (1, 2)
        for seed in (0, 1)
    }
    assert len(said) == 8
    assert said[0].startswith("cloth 1-shot seed 0: ")
    assert "AUROC clean 0." in said[0] or "AUROC clean 1." in said[0]
    assert categories("mvtec", root) == ["cloth", "metal"]


def test_runs_keep_to_the_split(finished, root):
    outcome, _, _ = finished
    test = {sample.name for sample in load("mvtec", root, "cloth").test}
    for e in outcome.results[1][:2]:
        assert set(e.names) | set(e.calibration.names) == test
        assert not set(e.names) & set(e.calibration.names)
        assert e.settings["detector"]["rotations"] == 1
    first, second = outcome.results[1][:2]
    assert first.calibration.names != second.calibration.names


def test_a_finished_study_is_not_run_again(finished, root, tmp_path, monkeypatch):
    outcome, out, _ = finished
    copied(out, tmp_path)
    monkeypatch.setattr(module, "evaluate", unseen)
    monkeypatch.setattr("robustad.reproduce.sweep_categories.create", unseen)
    again, said = run(root, tmp_path)
    assert again.results == outcome.results
    assert all("on disk" in line for line in said)
    assert (tmp_path / "tables.md").read_text() == (out / "tables.md").read_text()
    fewer, _ = run(root, tmp_path, replace(STUDY, shots=(2,), seeds=1))
    assert [len(v) for v in fewer.results.values()] == [2]


def test_an_interrupted_study_goes_on(finished, root, tmp_path, monkeypatch):
    outcome, out, _ = finished
    real, calls = module.evaluate, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path)
    assert len(list(tmp_path.rglob("*.json"))) == 2
    assert not list(tmp_path.rglob("*.part*"))
    again, said = run(root, tmp_path)
    assert len(calls) == 3 + 6
    assert ["on disk" in line for line in said] == [True] * 2 + [False] * 6
    assert scores(again) == scores(outcome)
    assert (tmp_path / "tables.md").read_text() == (out / "tables.md").read_text()


@pytest.mark.parametrize(
    "change",
    [{"eps": 0.01}, {"attacks": ()}, {"image_size": 56}, {"calibration": 0.5}, {"mask": True}],
)
def test_other_options_are_run_again(finished, root, tmp_path, monkeypatch, change):
    copied(finished[1], tmp_path)
    monkeypatch.setattr(module, "evaluate", unseen)
    with pytest.raises(AssertionError, match="evaluated again"):
        run(root, tmp_path, replace(STUDY, **change))


def test_other_images_are_run_again(finished, root, tmp_path, monkeypatch):
    copied(finished[1], tmp_path / "out")
    other = load_surfaces("cloth", size=64, train=4, test_good=4, per_defect=1, seed=1)
    write_mvtec(other, tmp_path / "data")
    monkeypatch.setattr(module, "evaluate", unseen)
    with pytest.raises(AssertionError, match="evaluated again"):
        run(tmp_path / "data", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"fingerprint": "x"}'])
def test_a_damaged_file_is_run_again(finished, root, tmp_path, monkeypatch, content):
    outcome, out, _ = finished
    copied(out, tmp_path)
    damaged = tmp_path / "metal" / "shots-2_seed-1.json"
    damaged.write_bytes(content)
    real, calls = module.evaluate, []
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: calls.append(1) or real(*a, **k))
    again, _ = run(root, tmp_path)
    assert len(calls) == 1
    assert scores(again) == scores(outcome)
    assert json.loads(damaged.read_bytes())["evaluation"]["category"] == "metal"


def test_runs_without_enough_images_are_noted(finished, root, tmp_path):
    copied(finished[1], tmp_path)
    outcome, said = run(root, tmp_path, replace(STUDY, shots=(2, 16), seeds=3))
    assert list(outcome.results) == [2]
    assert len(outcome.results[2]) == 4
    assert len(outcome.skipped) == 2 * (1 + 3)
    assert outcome.skipped[0].startswith("cloth 2-shot seed 2: mvtec/cloth: 2 shots with seed 2")
    assert sum(": skipped, " in line for line in said) == 8
    text = (tmp_path / "tables.md").read_text()
    assert text.count("Skipped: ") == 8
    with pytest.raises(DataError, match="too few images for every run: cloth 16-shot"):
        run(root, tmp_path, replace(STUDY, shots=(16,)))


def test_a_category_too_small_to_split_stops_no_other(root, tmp_path):
    small = load_surfaces("print", size=64, train=4, test_good=1, per_defect=1)
    write_mvtec(small, tmp_path / "data")
    study = replace(STUDY, shots=(1,), seeds=1, attacks=())
    said = []
    outcome = run_fewshot(
        study, [tmp_path / "data", root], tmp_path / "out", progress=False, say=said.append
    )
    assert len(outcome.results[1]) == 2
    [line] = outcome.skipped
    assert line.startswith("print 1-shot seed 0: ")
    assert "expected at least 2 normal images" in line


def test_full_shots_may_be_reduced(root, tmp_path):
    study = replace(STUDY, shots=("full", 2), seeds=1, attacks=(), full_coreset=50)
    outcome, _ = run(root, tmp_path, study, only=("cloth",))
    assert outcome.results["full"][0].settings["detector"]["coreset"] == 50
    assert outcome.results[2][0].settings["detector"]["coreset"] is None
    assert (tmp_path / "cloth" / "shots-full_seed-0.json").is_file()
    assert "| full | 2-shot |" in (tmp_path / "tables.md").read_text()


def test_categories_are_checked_before_anything_runs(root, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "evaluate", unseen)
    with pytest.raises(InputError, match="category: screw not found in the data given"):
        run(root, tmp_path, only=("cloth", "screw"))
    assert not list(tmp_path.iterdir())


def test_one_category_may_be_chosen(finished, root, tmp_path, monkeypatch):
    copied(finished[1], tmp_path)
    monkeypatch.setattr(module, "evaluate", unseen)
    outcome, said = run(root, tmp_path, only=("metal",))
    assert {e.category for e in outcome.results[1]} == {"metal"}
    assert len(said) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds: expected >= 1, got 0"),
        ({"shots": (0,)}, "shots: expected numbers >= 1 or 'full', got 0"),
        ({"shots": ("all",)}, "shots: expected numbers >= 1 or 'full', got 'all'"),
        ({"shots": (1.5,)}, r"shots: expected numbers >= 1 or 'full', got 1\.5"),
        ({"attacks": ("flood",)}, r"attack: expected one of .* got 'flood'"),
    ],
)
def test_bad_studies(root, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        run(root, tmp_path, replace(STUDY, **change))


def test_the_tables_are_written(finished):
    outcome, out, _ = finished
    document = json.loads((out / "tables.json").read_text())
    assert document["study"]["shots"] == [1, 2]
    titles = [table["title"] for table in document["tables"]]
    assert [title.split(".")[0] for title in titles] == ["Table 1", "Table 2", "Table 3"]
    text = (out / "tables.md").read_text()
    for table in outcome.tables("mvtec"):
        assert table.markdown() in text
    assert "Calibration and thresholds come from 40%" in text


def test_means_over_categories_of_means_over_seeds(finished):
    outcome, _, _ = finished
    table = outcome.tables("mvtec")[0]
    assert table.columns == ["", "1-shot", "2-shot"]
    rows = {row[0]: row[1:] for row in table.rows}
    for condition in ("clean", "fgsm_probe", "fgsm", "worst_case"):
        expected = [
            np.mean(
                [
                    np.mean(
                        [
                            e.conditions[condition].metrics.auroc
                            for e in outcome.results[k]
                            if e.category == category
                        ]
                    )
                    for category in ("cloth", "metal")
                ]
            )
            for k in (1, 2)
        ]
        assert rows[f"AUROC, {condition}"] == [f"{100 * value:.2f}" for value in expected]
    assert rows["AUROC, published clean"] == ["96.52", "96.73"]
