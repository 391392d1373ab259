import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

import robustad
from robustad.cli import main

VERBS = (
    *("demo", "fit", "evaluate", "calibrate", "predict", "export", "verify"),
    *("watch", "serve", "score"),
)


@pytest.mark.parametrize(
    "verb", [*VERBS, "reproduce fewshot", "reproduce patchguard", "data list", "data check"]
)
def test_every_verb_explains_itself(run, verb):
    code, out, _ = run(*verb.split(), "--help")
    assert code == 0
    assert "Usage" in out
    assert "--help" in out


def test_version(run):
    assert run("--version")[:2] == (0, f"robustad {robustad.__version__}\n")


def test_unknown_option_is_a_usage_error(run):
    assert run("fit", "--nonsense")[0] == 2


def test_fit_a_folder_then_predict(run, category, tmp_path):
    path = tmp_path / "new" / "d.safetensors"
    code, _, err = run(
        "fit", category / "train" / "good", "--backbone", "filters", "--image-size", 64,
        "--out", path, "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert "wrote" in err
    code, out, err = run("predict", path, category / "test" / "good", "--json")
    assert code == 0, err
    records = json.loads(out)
    assert len(records) == 6
    assert {record["verdict"] for record in records} == {"uncalibrated"}
    expected = robustad.load(path).predict(category / "test" / "good").score
    assert [record["score"] for record in records] == pytest.approx(expected.tolist(), abs=1e-6)


def test_fit_takes_the_shots_of_a_data_set(run, surfaces_root, category, tmp_path):
    path = tmp_path / "d.safetensors"
    code, _, err = run(
        "fit", "--dataset", "mvtec", "--data", surfaces_root, "--category", "tray", "--shots", 2,
        "--seed", 1, "--backbone", "filters", "--image-size", 64, "--out", path, "--quiet",
    )  # fmt: skip
    assert code == 0, err
    files = sorted((category / "train" / "good").iterdir())[2:4]
    expected = robustad.AnomalyDINO("filters", image_size=64).fit(files)
    np.testing.assert_array_equal(robustad.load(path).bank, expected.bank)


def test_predict_writes_csv_and_overlays(run, detector, category, tmp_path):
    folder, table = tmp_path / "maps", tmp_path / "scores.csv"
    code, _, err = run(
        "predict", detector, category / "test" / "good", category / "test" / "missing",
        "--maps", folder, "--csv", table,
    )  # fmt: skip
    assert code == 0, err
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 8
    made = sorted(folder.iterdir())
    # two folders hold files of the same name: all of them are written
    assert len(made) == 8
    assert Image.open(made[0]).size == (64, 64)


@pytest.mark.parametrize(("fail_on", "code"), [("never", 0), ("reject", 4), ("defer", 4)])
def test_fail_on_sets_the_exit_code(run, detector, category, fail_on, code):
    loaded = robustad.load(detector)
    loaded.calibrator = robustad.Platt().fit([-2.0, -1.5, -1.6, -1.0], [0, 1, 0, 1])  # rejects all
    loaded.save(detector)
    assert run("predict", detector, category / "test", "--fail-on", fail_on)[0] == 1
    assert run("predict", detector, category / "test" / "good", "--fail-on", fail_on)[0] == code


def test_evaluate_writes_result_and_report(run, detector, surfaces_root, tmp_path):
    out, report = tmp_path / "e.json", tmp_path / "r.html"
    code, printed, err = run(
        "evaluate", detector, "--dataset", "mvtec", "--data", surfaces_root, "--category", "tray",
        "--attack", "fgsm", "--eps", "4/255", "--out", out, "--report", report, "--json", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    result = robustad.Evaluation.load(out)
    assert json.loads(printed) == json.loads(out.read_text())
    assert list(result.conditions) == ["clean", "fgsm", "worst_case"]
    assert result.eps == pytest.approx(4 / 255)
    assert "<html" in report.read_text()


def test_several_values_after_one_option(run, detector, surfaces_root):
    code, out, err = run(
        "evaluate", detector, "--dataset", "mvtec", "--data", surfaces_root, "--category", "tray",
        "--attack", "fgsm_probe", "fgsm", "--json", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert list(json.loads(out)["conditions"]) == ["clean", "fgsm_probe", "fgsm", "worst_case"]


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory):
    """Exported unchecked, once: tracing takes seconds."""
    onnx = tmp_path_factory.mktemp("exported") / "d.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustad.export.verify", None)
        arguments = ["robustad", "export", str(fitted), "--out", str(onnx), "--no-check"]
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return onnx


def test_export_compares_the_file_with_the_detector(
    run, detector, exported, category, tmp_path, monkeypatch
):
    good, onnx = category / "test" / "good", tmp_path / "d.onnx"
    monkeypatch.setattr(
        "robustad.export.export_onnx",
        lambda _, out, **options: out.write_bytes(exported.read_bytes()),
    )
    code, _, err = run("export", detector, "--out", onnx, "--images", good)
    assert code == 0, err
    assert "verified" in err
    assert onnx.exists()


def test_export_verify_predict(run, detector, exported, category):
    onnx, good = exported, category / "test" / "good"
    code, out, _ = run("verify", detector, onnx, "--images", good, "--json")
    assert code == 0
    assert json.loads(out)["passed"] is True
    torch_records = json.loads(run("predict", detector, good, "--json")[1])
    onnx_records = json.loads(run("predict", onnx, good, "--json")[1])
    for one, other in zip(torch_records, onnx_records, strict=True):
        assert one["name"] == other["name"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_verify_exits_with_3_on_another_detector(run, exported, category, tmp_path):
    onnx, other = exported, tmp_path / "other.safetensors"
    files = sorted((category / "train" / "good").iterdir())[:1]
    robustad.AnomalyDINO("filters", image_size=64).fit(files).save(other)
    code, _, err = run("verify", other, onnx)
    assert code == 3
    assert "error" in err


def test_reproduce_resumes_and_prints_tables(run, surfaces_root, tmp_path):
    arguments = (
        "reproduce", "fewshot", "--data", surfaces_root, "--dataset", "mvtec", "--category", "tray",
        "--shots", 1, 2, "--seeds", 1, "--attack", "fgsm", "--backbone", "filters",
        "--image-size", 64, "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "AUROC, published clean" in out
    assert "96.52" in out
    code, again, err = run(*arguments)
    assert code == 0
    assert err.count("on disk") == 2
    assert again == out
    document = json.loads((tmp_path / "run" / "tables.json").read_text())
    assert list(document["figures"]) == ["1", "2"]


def test_data_surfaces_list_and_check(run, tmp_path):
    root = tmp_path / "s"
    code, _, err = run("data", "surfaces", root, "--category", "metal", "--size", 64)
    assert code == 0, err
    code, out, _ = run("data", "list", "--json")
    assert code == 0
    assert "screw" in json.loads(out)["mvtec"]
    code, out, _ = run("data", "check", "--dataset", "mvtec", "--data", root, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["train"] > 0
    assert found["problems"] == []
    code, _, err = run("data", "surfaces", root, "--category", "metal", "--size", 64)
    assert code == 1
    assert "metal" in err


def test_data_check_reports_and_exits_with_1(run, corrupt):
    code, out, _ = run("data", "check", "--data", corrupt)
    assert code == 1
    assert "b.png" in out


def test_demo_makes_everything(run, tmp_path, monkeypatch):
    from robustad.data import surfaces

    small = surfaces.Surfaces(size=64, train=4, test_good=4, per_defect=1)
    monkeypatch.setattr(surfaces, "Surfaces", lambda **_: small)
    tiny = (
        "network.image_size=32", "network.depth=1", "optimiser.epochs=1", "optimiser.repeats=1",
        "attack.steps=1", "validation.every=0",
    )  # fmt: skip
    monkeypatch.setattr("robustad.demo.robust.ATTACKS", ("pgd2", "pgd2_flip"))
    code, out, err = run("demo", "--out", tmp_path / "demo", "--quiet", "--set", *tiny)
    assert code == 0, err
    assert "worst_case" in out
    made = {path.name for path in (tmp_path / "demo").iterdir()}
    assert made == {
        "report.html",
        "detector.onnx",
        "detector.onnx.sha256",
        "detector.safetensors",
        "evaluation.json",
        "verification.json",
        "patchguard",
        "patchguard_clean",
    }
    assert "patchguard, clean-trained: surfaces" in out
    assert json.loads((tmp_path / "demo" / "verification.json").read_text())["passed"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit",), "expected either image paths or --dataset"),
        (("fit", "{corrupt}", "--backbone", "filters", "--quiet"), "b.png: cannot be read"),
        (("fit", "nowhere", "--backbone", "filters", "--quiet"), "nowhere: no such image file"),
        (("fit", "--dataset", "mvtec", "--backbone", "filters"), "--category: expected one of"),
        (
            ("fit", "--dataset", "surfaces", "--category", "tray", "--shots", "some"),
            "--shots: expected a number >= 1 or full, got 'some'",
        ),
        (("predict", "none.safetensors", "{corrupt}"), "none.safetensors: no such detector file"),
        (("predict", "{detector}", "{corrupt}"), "b.png: cannot be read"),
        (("predict", "none.onnx", "{corrupt}"), "none.onnx"),
        (
            ("evaluate", "{detector}", "--data", "{corrupt}", "--quiet"),
            "cannot split: expected at least 2 normal images",
        ),
        (("calibrate", "{detector}"), "expected --normal and --anomalous folders"),
        (("calibrate", "{detector}", "--normal", "{corrupt}"), "expected both --normal"),
        (("export", "{corrupt}/a.png"), "a.png: not a readable safetensors file"),
        (("reproduce", "fewshot"), "--data: expected the folder of mvtec"),
        (("data", "check", "--data", "nowhere"), "nowhere: expected a folder of images"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_1(
    run, detector, corrupt, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    filled = [text.format(detector=detector, corrupt=corrupt) for text in arguments]
    code, _, err = run(*filled)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert err.startswith("robustad: error: ")
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("eps", ["x", "0", "2", "1/0"])
def test_eps_is_checked(run, detector, surfaces_root, eps):
    code, _, err = run(
        "evaluate", detector, "--dataset", "mvtec", "--data", surfaces_root, "--category", "tray",
        "--eps", eps, "--quiet",
    )  # fmt: skip
    assert code == 1
    assert "--eps: expected" in err
