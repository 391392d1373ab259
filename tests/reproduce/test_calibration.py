import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import robustad.reproduce.calibration as module
from robustad.calibration import Platt, repeated_splits
from robustad.data import write_mvtec
from robustad.data.surfaces import load_surfaces
from robustad.errors import DataError, InputError
from robustad.evaluation import Condition, Evaluation, Metrics
from robustad.metrics import ece_positive, flag_auroc, nll, risk_at_coverage
from robustad.reproduce import CalibrationStudy, run_calibration
from robustad.reproduce.calibration_splits import pooled, split_figures, summary
from robustad.verdict import binary_entropy

pytestmark = pytest.mark.filterwarnings("ignore:(Platt|Isotonic|Temperature|Beta)")

STUDY = CalibrationStudy(
    dataset="mvtec",
    shots=(1, "full"),
    attacks=("fgsm",),
    backbone="filters",
    image_size=64,
    preprocessing="none",
    calibration=0.4,
    splits=6,
)
METHODS = ["raw", "platt", "temperature", "beta", "isotonic"]


def evaluation_of(seed=0, size=60, logits=False):
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) % 3 > 0).astype(int)
    clean = rng.normal(0.3 + 0.15 * labels, 0.1).clip(0.01, 1.9)
    clean = clean - 0.4 if logits else clean
    attacked = clean + rng.normal(0.1, 0.05, size) * (1 - 2 * labels)

    def condition(name, score):
        metrics = Metrics(auroc=0.5, ap=0.5, f1_max=0.5, gmean_max=0.5)
        return Condition(name=name, score=score.tolist(), metrics=metrics)

    return Evaluation(
        method="m", dataset="d", category="c",
        names=[str(i) for i in range(size)], defects=["x"] * size, labels=labels.tolist(),
        eps=8 / 255,
        conditions={"clean": condition("clean", clean), "pgd10": condition("pgd10", attacked)},
    )  # fmt: skip


def test_each_split_fits_on_one_part_and_measures_on_the_other():
    evaluation = evaluation_of()
    found = split_figures(evaluation, ["platt"], splits=5, score_range=(0.0, 2.0))
    labels = np.array(evaluation.labels)
    clean, attacked = evaluation.scores("clean"), evaluation.scores("pgd10")
    for i, (fitted, measured) in enumerate(repeated_splits(labels, repeats=5)):
        platt = Platt().fit(clean[fitted], labels[fitted])
        p = platt.predict_proba(clean[measured])
        assert found["platt"]["nll"][i] == nll(p, labels[measured])
        assert found["platt"]["ece_positive"][i] == ece_positive(p, labels[measured])
        assert found["platt"]["risk_at_90"][i] == risk_at_coverage(p, labels[measured])
        entropies = (binary_entropy(platt.predict_proba(s[measured])) for s in (clean, attacked))
        assert found["platt"]["flag_pgd10"][i] == flag_auroc(*entropies)
        raw = clean[measured].clip(0, 1)
        assert found["raw"]["nll"][i] == nll(raw, labels[measured])


def test_splits_that_cannot_be_fitted_are_counted():
    evaluation = evaluation_of()
    found = split_figures(evaluation, METHODS[1:], splits=4, score_range=(0.0, 2.0))
    assert all(len(found[name]["nll"]) == 4 for name in ("raw", "platt", "beta", "isotonic"))
    # Two thirds of the images are anomalous, all scores positive: a temperature is found.
    assert len(found["temperature"]["nll"]) == 4
    evaluation.labels = (np.arange(60) % 3 == 0).astype(int).tolist()
    found = split_figures(evaluation, METHODS[1:], splits=4, score_range=(0.0, 2.0))
    assert found["temperature"] == {}
    made = summary(found, 4)
    assert made["temperature"] == {"splits": 0, "failed": 4}
    assert (made["platt"]["splits"], made["platt"]["failed"]) == (4, 0)


def test_means_and_quantiles_of_pooled_runs():
    runs = [split_figures(evaluation_of(seed), ["platt"], splits=3) for seed in (0, 1)]
    found = pooled(runs)
    values = runs[0]["platt"]["nll"] + runs[1]["platt"]["nll"]
    assert found["platt"]["nll"] == values
    made = summary(found, 6)["platt"]["nll"]
    assert made["mean"] == pytest.approx(np.mean(values))
    assert (made["low"], made["high"]) == pytest.approx(np.quantile(values, [0.025, 0.975]))
    with pytest.raises(InputError, match="method: expected one of"):
        split_figures(evaluation_of(), ["spline"], splits=1)
    assert split_figures(evaluation_of(logits=True), ["temperature"], splits=2)["temperature"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_mvtec(load_surfaces("cloth", size=64, train=4, test_good=8, per_defect=2), folder)
    return folder


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    said = []
    outcome = run_calibration(STUDY, [root], out, progress=False, say=said.append)
    return outcome, out, said


def test_a_study_runs_and_is_written(finished):
    outcome, out, said = finished
    assert len(said) == 2
    assert said[0].startswith("cloth 1-shot seed 0: ")
    document = json.loads((out / "tables.json").read_text())
    assert document["figures"] == outcome.figures
    assert list(outcome.figures["cloth"]) == ["1", "full"]
    one = outcome.figures["cloth"]["full"]
    assert (one["runs"], one["images"]) == (1, [8, 10])
    assert list(one["methods"]) == METHODS
    assert one["methods"]["platt"]["splits"] == 6
    assert set(one["auroc"]) == {"clean", "fgsm", "worst_case"}
    text = (out / "tables.md").read_text()
    for table in outcome.tables(STUDY.attacks):
        assert table.markdown() in text
    assert "| raw | " in text
    assert "Means over 6 splits of the test images, 40% of each label" in text


def test_a_finished_study_is_calibrated_anew_but_not_attacked_again(
    finished, root, tmp_path, monkeypatch
):
    _, out, _ = finished
    for path in out.rglob("shots*.json"):
        target = tmp_path / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())

    def unseen(*arguments, **options):
        raise AssertionError("evaluated again")

    monkeypatch.setattr(module, "evaluate", unseen)
    study = replace(STUDY, splits=3, methods=("platt",))
    again = run_calibration(study, [root], tmp_path, progress=False)
    assert list(again.figures["cloth"]["1"]["methods"]) == ["raw", "platt"]
    assert again.figures["cloth"]["1"]["methods"]["platt"]["splits"] == 3
    with pytest.raises(AssertionError, match="evaluated again"):
        run_calibration(replace(STUDY, eps=0.01), [root], tmp_path, progress=False)


def test_the_attacker_knows_a_calibrator(finished):
    _, out, _ = finished
    done = json.loads((out / "cloth" / "shots-1_seed-0.json").read_text())
    report = done["evaluation"]["calibration"]
    assert report["calibrator"]["method"] == "platt"
    assert report["calibrator"]["n_normal"] == 8
    assert report["names"] == []


def test_bad_studies(root, tmp_path):
    for change, message in (
        ({"methods": ("spline",)}, "methods: expected some of platt, .* got 'spline'"),
        ({"splits": 0}, "splits: expected >= 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            run_calibration(replace(STUDY, **change), [root], tmp_path)
    with pytest.raises(DataError, match="too few images for every run: cloth 16-shot"):
        run_calibration(replace(STUDY, shots=(16,)), [root], tmp_path, progress=False)


def test_results_are_rendered(finished, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from render_calibration import calibration

    _, out, _ = finished
    run = json.loads((out / "tables.json").read_text())
    document = {
        "machine": {"cpu": "some"},
        "date": "2026-01-01",
        "sets": {"cloth": {key: run[key] for key in ("study", "figures", "notes")}},
    }
    text = "\n\n".join(calibration("calibration_test", document))
    mean = run["figures"]["cloth"]["full"]["methods"]["beta"]["brier"]["mean"]
    assert f"{mean:.3f} [" in text
    assert "### cloth: 8 normal and 10 anomalous test images" in text
    assert "| full, temperature | " in text
    assert "flag, fgsm" in text
    assert "robustad reproduce calibration --dataset mvtec --data DATA/cloth --backbone fi" in text
    assert "render_calibration" in sys.modules
