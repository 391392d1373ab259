import json

import pytest


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory):
    """The detector as an ONNX file."""
    import robustad

    path = tmp_path_factory.mktemp("exported") / "part.onnx"
    return robustad.export_onnx(robustad.load(fitted), path, input="float_nchw")


def test_watch_once(run, exported, category, tmp_path):
    out = tmp_path / "out"
    arguments = (
        "watch", category / "test" / "good", "--model", exported, "--out", out, "--once",
        "--settle", "0.02", "--poll", "0.02", "--require-manifest", "--json",
    )  # fmt: skip
    code, printed, err = run(*arguments)
    assert code == 0, err
    lines = [json.loads(line) for line in printed.splitlines()]
    assert len(lines) == 6
    assert {line["verdict"] for line in lines} == {"uncalibrated"}
    assert "scored 6 images, 0 failed, 0 were done before" in err
    assert len(list((out / "overlays").iterdir())) == 6
    code, _, err = run(*arguments)
    assert code == 0
    assert "scored 0 images, 0 failed, 6 were done before" in err


def test_score(run, exported, category, tmp_path):
    code, printed, err = run(
        "score", "--model", exported, "--data", category / "test" / "good", "--out",
        tmp_path / "out", "--workers", 1, "--json", "--quiet", "--threshold", 0.9,
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(printed)["scored"] == 6
    assert "computed 1 of 1 shards" in err


def test_another_engine(run, exported, fitted, category, tmp_path):
    pytest.importorskip("openvino")
    good = category / "test" / "good"
    chosen = ("--runtime", "openvino")
    code, printed, err = run("predict", exported, good, "--json", *chosen)
    assert code == 0, err
    scores = [record["score"] for record in json.loads(printed)]
    code, printed, _ = run("predict", exported, good, "--json", "--runtime", "onnxruntime")
    assert scores == pytest.approx([one["score"] for one in json.loads(printed)], abs=1e-5)
    out = tmp_path / "out"
    arguments = (
        "score", "--model", exported, "--data", good, "--out", out, "--workers", 1, "--quiet",
    )  # fmt: skip
    code, _, err = run(*arguments, *chosen)
    assert code == 0, err
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == pytest.approx(scores, abs=1e-6)
    assert "computed 1 of 1" in run(*arguments)[2]  # another engine's outcomes are not these
    assert "computed 0 of 1" in run(*arguments, *chosen)[2]
    code, printed, _ = run(
        "watch", good, "--model", exported, "--out", tmp_path / "watched", "--once", "--json",
        "--settle", "0.02", "--poll", "0.02", "--no-overlays", "--provider", "cpu", *chosen,
    )  # fmt: skip
    assert code == 0
    lines = [json.loads(line) for line in printed.splitlines()]
    assert sorted(line["score"] for line in lines) == pytest.approx(sorted(scores), abs=1e-6)
    code, printed, _ = run("verify", fitted, exported, "--json", *chosen)
    assert code == 0
    assert json.loads(printed)["providers"] == ["OpenVINO:CPU"]
    code, _, err = run("predict", exported, good, "--runtime", "tvm")
    assert code == 2
    assert "--runtime" in err
    code, _, err = run("watch", ".", "--model", exported, "--out", out, "--provider", "x", *chosen)
    assert code == 1
    assert "expected OpenVINO's devices cpu, gpu" in err


def test_triton(run, exported, fitted, tmp_path):
    repository = tmp_path / "models"
    code, _, err = run(
        "export", exported, "--triton", repository, "--name", "tray", "--version", 3,
        "--max-batch", 4, "--kind", "cpu", "--instances", 2,
    )  # fmt: skip
    assert code == 0, err
    assert (repository / "tray" / "3" / "model.onnx").is_file()
    config = (repository / "tray" / "config.pbtxt").read_text()
    assert "max_batch_size: 4" in config
    assert "kind: KIND_CPU" in config
    out = tmp_path / "new.onnx"
    code, _, err = run("export", fitted, "--out", out, "--no-check", "--triton", repository)
    assert code == 0, err
    assert (repository / "new" / "1" / "model.onnx").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "{model}"), "is exported already; expected --triton, got none"),
        (("serve", "{model}", "{model}"), "two models are called part; give one as NAME=FILE"),
        (("serve", "a/b={model}"), "expected a name without slashes"),
        (("serve", "nowhere.onnx"), "nowhere.onnx: no such ONNX file"),
        (("serve", "{model}", "--body", "0"), "body_bytes: expected a positive number"),
        (
            ("watch", "nowhere", "--model", "{model}", "--out", "{out}"),
            "expected a folder to watch",
        ),
        (
            ("score", "--model", "{model}", "--data", "nowhere", "--out", "{out}"),
            "of images, found",
        ),
        (
            ("watch", ".", "--model", "{model}", "--out", "{out}", "--threshold", "2"),
            "threshold: expected a probability in",
        ),
    ],
)
def test_refused(run, exported, tmp_path, arguments, message):
    names = {"model": exported, "out": tmp_path / "out"}
    code, _, err = run(*(text.format(**names) for text in arguments))
    assert code == 1
    assert message in err


def test_a_missing_manifest(run, exported, tmp_path):
    path = tmp_path / "part.onnx"
    path.write_bytes(exported.read_bytes())
    code, _, err = run("serve", path, "--require-manifest")
    assert code == 1
    assert "expected its SHA-256 manifest part.onnx.sha256" in err


def test_export_for_a_target(run, fitted, category, tmp_path):
    out = tmp_path / "part.onnx"
    code, _, err = run(
        "export", fitted, "--out", out, "--target", "cpu", "--images", category / "test" / "good",
        "--max-score-error", "1e-3", "--threads", 1,
    )  # fmt: skip
    assert code == 0, err
    assert "candidate" in err
    assert "chose float32" in err  # the filter bank has no network to quantise
    assert "verified" in err
    report = json.loads((tmp_path / "part.onnx.parity.json").read_text())
    assert report["target"]["chosen"] == "float32"
    assert report["target"]["images"] == 6
    assert report["verification"]["passed"] is True


def test_what_a_target_refuses(run, fitted, category, tmp_path):
    out, good = tmp_path / "part.onnx", category / "test" / "good"
    for arguments, expected, message in (
        ((), 1, "--target: expected --images"),
        (("--images", tmp_path), 1, "image"),
        (("--images", good, "--max-score-error", "-1"), 1, "max_score_error: expected a number"),
        (("--images", good, "--max-score-error", "0"), 3, "nothing was written"),
    ):
        code, _, err = run("export", fitted, "--out", out, "--target", "cpu", *arguments)
        assert code == expected, err
        assert message in " ".join(err.split())
        assert not out.exists()
