"""`robustad calibrate`: probabilities, verdicts and what they are worth."""

import csv
import json

import pytest

import robustad


def test_calibrate_on_folders_then_verdicts(run, detector, category):
    code, out, err = run(
        "calibrate", detector, "--normal", category / "test" / "good", "--anomalous",
        category / "test" / "missing", "--json",
    )  # fmt: skip
    assert code == 0, err
    state = json.loads(out)
    assert state["calibration"]["method"] == "platt"
    assert state["calibration"]["n_normal"] == 6
    code, out, _ = run("predict", detector, category / "test" / "missing", "--json")
    assert code == 0
    assert {record["verdict"] for record in json.loads(out)} <= {"accept", "reject", "defer"}


def test_calibrate_on_a_data_set_reports_on_the_other_images(run, detector, surfaces_root):
    code, _, err = run(
        "calibrate", detector, "--dataset", "mvtec", "--data", surfaces_root, "--category", "tray",
        "--fraction", 0.5, "--defect-rate", 0.01,
    )  # fmt: skip
    assert code == 0, err
    assert "before calibration" in err
    assert "after calibration" in err
    assert "measured at the images' own share of defects; the saved curve assumes 0.01" in err
    saved = robustad.load(detector).calibrator
    assert saved is not None
    assert saved.to_dict()["prevalence"] == pytest.approx(0.01)
    assert saved.before is saved.after is None  # they no longer hold


def test_calibrate_saves_and_prints_measures_with_intervals(run, detector, surfaces_root):
    arguments = ("--dataset", "mvtec", "--data", surfaces_root, "--category", "tray")
    code, out, err = run("calibrate", detector, *arguments, "--fraction", 0.5, "--json")
    assert code == 0, err
    document = json.loads(out)
    saved = robustad.load(detector).calibrator
    assert document["calibration"] == saved.to_dict()
    held_out = robustad.data.load("mvtec", surfaces_root, "tray").test
    assert document["measures"]["images"] == f"{len(held_out) // 2} other images"
    for when in ("before", "after"):
        part = document["measures"][when]
        assert {name: one["value"] for name, one in part.items()} == getattr(saved, when)
        assert all(one["low"] <= one["high"] for one in part.values())
        assert {"ece_positive", "ece_adaptive", "nll", "brier", "risk_at_90"} <= set(part)
    low, high = saved.predict_interval([saved.score_at(0.5)])
    assert low[0] <= 0.5 <= high[0]


@pytest.mark.filterwarnings("ignore:Isotonic")
@pytest.mark.parametrize("method", ["beta", "isotonic", "auto"])
def test_calibrate_by_other_methods(run, detector, category, method):
    folders = ("--normal", category / "test" / "good", "--anomalous", category / "test" / "missing")
    code, out, err = run("calibrate", detector, *folders, "--method", method, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["calibration"]["method"] == ("platt" if method == "auto" else method)
    assert document["measures"]["images"] == "the same 8 images, 5-fold cross-validation"
    assert ("cross_validated_nll" in document) == (method == "auto")
    code, _, err = run("calibrate", detector, *folders, "--method", method, "--bootstrap", 0)
    assert code == 0, err
    assert "95% bootstrap intervals over them" in err
    assert ("cross-validated negative log-likelihood: platt " in err) == (method == "auto")
    assert robustad.load(detector).calibrator.band is None


def test_calibrate_refuses_what_does_not_suit_the_scores(run, detector, category):
    folders = ("--normal", category / "test" / "good", "--anomalous", category / "test" / "missing")
    before = detector.read_bytes()
    for method, message in (
        ("temperature", "no finite temperature fits"),
        ("spline", "method: expected one of platt, temperature, beta, isotonic, auto"),
    ):
        code, _, err = run("calibrate", detector, *folders, "--method", method)
        assert code == 1
        assert message in err
        assert detector.read_bytes() == before


def test_calibrate_with_a_single_anomaly_has_no_interval(run, detector, category, tmp_path):
    (tmp_path / "bad").mkdir()
    file = next((category / "test" / "missing").iterdir())
    (tmp_path / "bad" / file.name).write_bytes(file.read_bytes())
    code, _, err = run(
        "calibrate", detector, "--normal", category / "test" / "good", "--anomalous",
        tmp_path / "bad",
    )  # fmt: skip
    assert code == 0, err
    assert "no interval of the probability" in err
    assert "before calibration" not in err


def test_pixels_get_a_probability(run, detector, surfaces_root, category, tmp_path):
    images = category / "test" / "missing"
    code, _, err = run("predict", detector, images, "--maps", tmp_path, "--map-kind", "probability")
    assert code == 1
    assert "--map-kind probability: the detector's pixels are not calibrated" in err
    code, out, err = run(
        "calibrate", detector, "--dataset", "mvtec", "--data", surfaces_root, "--category", "tray",
        "--fraction", 0.5, "--pixels", "--defect-rate", 0.1, "--json",
    )  # fmt: skip
    assert code == 0, err
    pixel = json.loads(out)["pixel_calibration"]
    assert pixel == robustad.load(detector).pixel_calibrator.to_dict()
    share = pixel["n_anomalous"] / (pixel["n_normal"] + pixel["n_anomalous"])
    assert pixel["prevalence"] == pytest.approx(share * 0.1 / pixel["anomalous_images"])
    code, _, err = run("predict", detector, images, "--maps", tmp_path, "--map-kind", "probability")
    assert code == 0, err
    assert len(list(tmp_path.glob("*.png"))) == 2
    code, _, err = run(
        "calibrate", detector, "--normal", category / "test" / "good", "--anomalous", images,
        "--pixels",
    )  # fmt: skip
    assert code == 1
    assert "expected anomalous images with masks, got none" in err


def test_predict_shows_the_interval(run, detector, category, tmp_path):
    good, bad = category / "test" / "good", category / "test" / "missing"
    assert run("calibrate", detector, "--normal", good, "--anomalous", bad)[0] == 0
    code, out, _ = run("predict", detector, bad, "--csv", tmp_path / "s.csv")
    assert code == 0
    assert "probability, interval" in out
    [row, _] = csv.DictReader((tmp_path / "s.csv").open())
    low, p, high = (float(row[f"probability{end}"]) for end in ("_low", "", "_high"))
    assert low <= p <= high
    assert f"{p:.3f} [{low:.3f}, {high:.3f}]" in out
