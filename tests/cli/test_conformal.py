import json

import numpy as np
import pytest
from PIL import Image

import robustad
from robustad.conformal import ConformalScores


@pytest.fixture
def folder(tmp_path):
    """Enough normal images for a rate of 10%, of the shots' size."""
    made = tmp_path / "normal"
    made.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 60, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(made / f"{i:02}.png")
    return made


@pytest.mark.parametrize("verb", ["conformal", "screen"])
def test_the_verbs_explain_themselves(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "Usage" in out


def test_normal_images_alone(run, detector, folder):
    code, out, err = run(
        "conformal", detector, "--normal", folder, "--fpr", 0.1, "--defer", 0.3, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["policy"]["p_value_threshold"] == pytest.approx(1 / 13)
    assert found["policy"]["p_value_defer"] == pytest.approx(3 / 13)
    assert (found["method"], found["normal"], found["anomalous"]) == ("split", 12, 0)
    assert any("at most 10% of normal images are called anomalous" in s for s in found["promises"])
    records = json.loads(run("predict", detector, folder, "--json")[1])
    assert {record["verdict"] for record in records} <= {"accept", "reject", "defer"}
    # a held-out image is its own neighbour in rank: none has the smallest p-value
    assert min(record["p_value"] for record in records) == pytest.approx(2 / 13)
    assert sum(record["verdict"] == "defer" for record in records) == 2


def test_promises_in_words(run, detector, folder, tmp_path):
    out = tmp_path / "other.safetensors"
    code, _, err = run(
        "conformal", detector, "--normal", folder, "--fpr", 0.25, "--confidence", 0.9, "--out", out
    )
    assert code == 0, err
    said = " ".join(err.split())
    assert "p-values from 12 normal images" in said
    assert "with 90% confidence in these 12 held-out images" in said
    assert "none of this holds under drift or attack" in said
    assert robustad.load(detector).conformal is None
    assert len(robustad.load(out).conformal) == 12


def test_the_shots_themselves(run, detector, category):
    shots = category / "train" / "good"
    code, out, err = run("conformal", detector, "--shots", shots, "--fpr", 0.3, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["method"], found["monotone"], found["normal"]) == ("leave_one_out", False, 4)
    assert found["promises"] == [f"p-values: {robustad.load(detector).conformal.guarantee}"]
    code, out, err = run(
        "conformal", detector, "--shots", shots, "--folds", 2, "--fpr", 0.3, "--json"
    )
    assert json.loads(out)["method"] == "cross", err


def test_a_data_set_with_anomalies_and_masks(run, detector, surfaces_root):
    code, out, err = run(
        "conformal", detector, "--dataset", "mvtec", "--data", surfaces_root, "--category", "tray",
        "--fraction", 0.5, "--fpr", 0.4, "--fnr", 0.5, "--pixel-miss", 0.5, "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert (found["normal"], found["anomalous"]) == (3, found["pixel_threshold"]["n"])
    assert found["pixel_threshold"]["loss"] == "pixel_miss"
    assert "anomaly_threshold" in found["policy"]
    assert len(found["promises"]) == 4


def test_masks_of_a_pixel_threshold(run, detector, folder, tmp_path):
    code, _, err = run(
        "conformal", detector, "--normal", folder, "--fpr", 0.1, "--pixel-false-alarm", 0.1
    )
    assert code == 0, err
    code, _, err = run("predict", detector, folder, "--masks", tmp_path / "masks")
    assert code == 0, err
    made = sorted((tmp_path / "masks").iterdir())
    assert len(made) == 12
    shares = [np.asarray(Image.open(one)).mean() for one in made]
    assert (sum(shares) + 1) / 13 <= 0.1


def test_screening_a_batch(run, detector, folder, tmp_path):
    assert run("conformal", detector, "--normal", folder, "--fpr", 0.1)[0] == 0
    batch = tmp_path / "batch"
    batch.mkdir()
    for i in range(4):
        pixels = np.random.default_rng(50 + i).integers(0, 60, (64, 64, 3), np.uint8)
        if i < 3:
            pixels[20:40, 20:40] = 255
        Image.fromarray(pixels).save(batch / f"{i}.png")
    code, out, err = run("screen", detector, batch, "--fdr", 0.2, "--json")
    assert code == 0, err
    assert "of such choices 20% are wrong at most" in " ".join(err.split())
    records = json.loads(out)
    assert [record["chosen"] for record in records] == [True, True, True, False]
    assert records[0]["p_value"] == pytest.approx(1 / 13)
    assert records[0]["adjusted"] == pytest.approx(4 / 39)
    cautious = json.loads(run("screen", detector, batch, "--any-dependence", "--json")[1])
    assert cautious[0]["adjusted"] == pytest.approx(4 / 39 * (1 + 1 / 2 + 1 / 3 + 1 / 4))
    storey = json.loads(run("screen", detector, batch, "--storey", "--json")[1])
    assert storey[0]["adjusted"] <= records[0]["adjusted"]


def test_screening_by_the_shots(run, detector, category):
    shots = category / "train" / "good"
    bad = category / "test" / "missing"
    code, out, err = run("screen", detector, bad, "--shots", shots, "--json")
    assert code == 0, err
    assert {record["p_value"] for record in json.loads(out)} <= {i / 5 for i in range(1, 6)}
    code, out, err = run("screen", detector, bad, "--shots", shots, "--folds", 2)
    assert code == 0, err
    assert "p-value" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("conformal", "{d}"), "expected one of --normal, --shots or --data"),
        (("conformal", "{d}", "--normal", "{f}", "--shots", "{f}"), "got several"),
        (("conformal", "{d}", "--normal", "{f}", "--folds", "2"), "--folds: goes with --shots"),
        (("conformal", "{d}", "--normal", "{f}"), "fpr: 0.05 cannot be promised from 12"),
        (("conformal", "{d}", "--normal", "{f}", "--fpr", "0"), "fpr: expected a number in (0, 1)"),
        (
            ("conformal", "{d}", "--normal", "{f}", "--fpr", "0.1", "--fnr", "0.1"),
            "fnr: needs scores of held-out anomalous images",
        ),
        (
            ("conformal", "{d}", "--normal", "{f}", "--fpr", "0.1", "--pixel-miss", "0.1"),
            "--pixel-miss: needs a data set with masks",
        ),
        (
            (
                *("conformal", "{d}", "--normal", "{f}", "--pixel-miss", "0.1"),
                *("--pixel-false-alarm", "0.1"),
            ),
            "--pixel-miss: goes without --pixel-false-alarm",
        ),
        (("screen", "{d}", "{f}"), "has no held-out scores for p-values"),
        (("screen", "{d}", "{f}", "--folds", "2"), "--folds: goes with --shots"),
        (("screen", "no.onnx", "{f}", "--shots", "{f}"), "--shots: needs a .safetensors detector"),
        (("predict", "{d}", "{f}", "--masks", "{f}/m"), "pixel_threshold: expected a number"),
    ],
)
def test_bad_input_is_one_clear_line(run, detector, folder, arguments, message):
    before = detector.read_bytes()
    code, _, err = run(*[text.format(d=detector, f=folder) for text in arguments])
    assert code == 1
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert detector.read_bytes() == before


def test_a_false_discovery_rate_out_of_range(run, detector, folder):
    loaded = robustad.load(detector)
    loaded.conformal = ConformalScores([0.1, 0.2, 0.3])
    loaded.save(detector)
    code, _, err = run("screen", detector, folder, "--fdr", "1")
    assert (code, "--fdr: expected a number in (0, 1), got 1.0" in err) == (1, True)
