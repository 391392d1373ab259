import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from robustad import runtime
from robustad.conformal import ConformalScores
from robustad.errors import InputError, MissingDependencyError, StateError, VerificationError
from robustad.verdict import Policy, Verdict


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_predicts_what_the_detector_predicts(exported, model, mixed, batch_size):
    expected = exported.detector.predict(mixed)
    found = model.predict(mixed, batch_size=batch_size)
    assert found.names == expected.names == [f"image {i}" for i in range(len(mixed))]
    assert found.verdict == expected.verdict
    assert {Verdict.ACCEPT, Verdict.REJECT} <= set(found.verdict)
    assert type(found) is type(expected)
    assert found.score.dtype == expected.score.dtype
    assert found.probability.dtype == expected.probability.dtype
    np.testing.assert_allclose(found.score, expected.score, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.probability, expected.probability, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.p_value, expected.p_value)
    assert found.pixel_threshold == expected.pixel_threshold == 0.25
    for i, size in enumerate(image.shape[:2] for image in mixed):
        assert found.patch_scores[i].shape == expected.patch_scores[i].shape
        np.testing.assert_allclose(
            found.patch_scores[i], expected.patch_scores[i], rtol=0, atol=1e-4
        )
        assert found.anomaly_map[i].shape == size
        np.testing.assert_allclose(found.anomaly_map[i], expected.anomaly_map[i], rtol=0, atol=1e-4)


def test_files_on_disk(exported, model, mixed, tmp_path):
    for i, image in enumerate(mixed):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    found = model.predict(tmp_path)
    assert found.names == [str(tmp_path / f"{i}.png") for i in range(len(mixed))]
    np.testing.assert_array_equal(found.score, model.predict(mixed).score)


def test_arrays_in_and_out(exported, model, mixed):
    x = np.stack([exported.detector.geometry.apply(image / np.float32(255)) for image in mixed[:2]])
    x = x.transpose(0, 3, 1, 2)  # not contiguous
    found = model.run(x)
    np.testing.assert_array_equal(model.score(x), found["score"])
    np.testing.assert_array_equal(model.patch_scores(x), found["patch_scores"])
    assert found["patch_scores"].shape == (2, np.prod(model.patch_grid(*x.shape[2:])))
    assert found["anomaly_map"].shape == (2, *x.shape[2:])
    np.testing.assert_allclose(found["score"], model.predict(mixed[:2]).score, atol=1e-6)


def test_files_of_the_version_before_p_values(exported, mixed, tmp_path):
    stored = onnx.load(exported.path)
    [place] = [i for i, out in enumerate(stored.graph.output) if out.name == "p_value"]
    del stored.graph.output[place]
    [entry] = stored.metadata_props
    document = json.loads(entry.value)
    document["schema_version"] = 1
    document["policy"] = {"threshold": 0.3, "entropy_threshold": 0.65}
    del document["conformal"], document["pixel_threshold"]
    entry.value = json.dumps(document)
    onnx.save(stored, tmp_path / "old.onnx")
    old = runtime.load(tmp_path / "old.onnx", threads=1)
    found = old.predict(mixed)
    assert old.policy == Policy(threshold=0.3, entropy_threshold=0.65)
    assert found.verdict == old.policy.decide(found.probability)
    assert np.isnan(found.p_value).all()
    assert found.pixel_threshold is None
    assert "p_value" not in old.run(np.zeros((1, 3, 48, 48), np.float32))
    with pytest.raises(InputError, match=r"outputs: expected some of score, .*, got \['p_value'\]"):
        old.run(np.zeros((1, 3, 48, 48), np.float32), ["p_value"])
    old.conformal = ConformalScores([0.1, 0.2, 0.3])  # also without the file's help
    assert not np.isnan(old.predict(mixed).p_value).any()


def test_describes_itself(exported, model):
    assert model.metadata["method"] == "anomaly_dino"
    assert model.geometry == exported.detector.geometry
    assert model.policy == exported.detector.policy
    assert model.image_size is None
    assert model.calibration is None
    assert model.providers == ["CPUExecutionProvider"]


def test_golden_outputs(model, with_metadata):
    assert model.check_golden() < 1e-5

    def change(document):
        document["golden"]["outputs"]["patch_scores_max"] *= 1.5

    path = with_metadata(change)
    with pytest.raises(VerificationError, match=r"golden output patch_scores_max is .*, expected"):
        runtime.load(path, threads=1).check_golden()
    for golden in ({"recipe": "quadratic-256"}, 3, None):
        path = with_metadata(lambda document, golden=golden: document.update(golden=golden))
        with pytest.raises(StateError, match="no golden outputs in its metadata"):
            runtime.load(path, threads=1).check_golden()
    path = with_metadata(lambda document: document["golden"].update(recipe="noise"))
    with pytest.raises(StateError, match="recipe 'noise', this version knows 'quadratic-256'"):
        runtime.load(path, threads=1).check_golden()


def test_a_file_of_one_size_refuses_others(with_metadata, mixed):
    path = with_metadata(lambda document: document["input"].update(height=48, width=64))
    fixed = runtime.load(path, threads=1)
    assert fixed.image_size == (48, 64)
    assert len(fixed.predict(mixed[:2])) == 2
    with pytest.raises(InputError, match=r"image 2: prepared to 48 x 48 .* takes \(48, 64\) only"):
        fixed.predict(mixed)
    with pytest.raises(InputError, match=r"takes \(48, 64\) pixels only, got \(1, 3, 48, 48\)"):
        fixed.run(np.zeros((1, 3, 48, 48), np.float32))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 3, 48, 48)), "float32 array .* of float64"),
        (np.zeros((3, 48, 48), np.float32), r"float32 array .*got \(3, 48, 48\)"),
        (np.zeros((1, 48, 48, 3), np.float32), r"float32 array .*got \(1, 48, 48, 3\)"),
        ([[0.0]], "got list"),
        (np.zeros((1, 3, 48, 50), np.float32), "whole multiples of 8"),
        (np.zeros((0, 3, 48, 48), np.float32), "at least one image"),
        (np.full((1, 3, 48, 48), 255, np.float32), r"values in \[0, 1\], got 255..255"),
        (np.full((1, 3, 48, 48), np.nan, np.float32), r"values in \[0, 1\], got nan"),
    ],
)
def test_inputs_that_do_not_fit(model, x, message):
    with pytest.raises(InputError, match=message):
        model.run(x)


def test_images_that_do_not_fit(model, tmp_path):
    with pytest.raises(InputError, match="at least one image, got none"):
        model.predict([])
    with pytest.raises(InputError, match="batch_size: expected >= 1, got 0"):
        model.predict(np.zeros((48, 48), np.uint8), batch_size=0)
    with pytest.raises(InputError, match=r"x\.png: no such image"):
        model.predict(tmp_path / "x.png")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_files_that_cannot_be_loaded(exported, tmp_path, engine):
    pytest.importorskip(engine)
    with pytest.raises(InputError, match=r"missing\.onnx: no such ONNX file"):
        runtime.load(tmp_path / "missing.onnx", engine=engine)
    with pytest.raises(InputError, match="expected an ONNX file, got a folder"):
        runtime.load(tmp_path, engine=engine)
    content = exported.path.read_bytes()
    for name, wrong in {
        "text": b"not a model\n" * 20,
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "nearly": content[:-7],
    }.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(wrong)
        with pytest.raises(StateError, match=rf"{name}\.onnx: not an ONNX file that can be run"):
            runtime.load(path, engine=engine)


def test_tensors_missing_beside_the_file(exported, tmp_path):
    path = tmp_path / "large.onnx"
    onnx.save(
        onnx.load(exported.path),
        path,
        save_as_external_data=True,
        location="large.onnx.data",
        size_threshold=100,
    )
    runtime.load(path)
    (tmp_path / "large.onnx.data").write_bytes(b"")
    with pytest.raises(StateError, match=r"large\.onnx: not an ONNX file that can be run"):
        runtime.load(path)
    (tmp_path / "large.onnx.data").unlink()
    with pytest.raises(StateError, match=r"large\.onnx: not an ONNX file that can be run"):
        runtime.load(path)


def lacks(*keys):
    def edit(document):
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (None, "not one exported by robustad"),
        (lambda document: "{", "is no JSON"),
        (lambda document: "[]", "has no schema_version"),
        (lacks("schema_version"), "has no schema_version"),
        (lambda d: d.update(schema_version=4), r"written by a newer robustad .*version 4.*upgrade"),
        (lacks("policy", "threshold"), "lacks 'threshold'"),
        (lambda d: d["policy"].update(limit=1), "damaged: policy: expected threshold"),
        (lambda d: d.update(conformal={"normal": [1.0]}), "damaged: conformal: expected"),
        (lambda d: d["conformal"].update(normal=[]), "damaged: conformal: normal: expected"),
        (lambda d: d["pixel_threshold"].update(n=0), "damaged: risk control: damaged"),
        (lacks("geometry", "size"), "lacks 'size'"),
        (lacks("policy"), "lacks 'policy'"),
        (lacks("patch_size"), "lacks 'patch_size'"),
        (lambda d: d.update(patch_size="8"), "damaged: patch_size is '8'"),
        (lambda d: d.update(policy=3), "damaged"),
        (lambda d: d["policy"].update(threshold=2.0), "damaged: threshold"),
        (lambda d: d["input"].update(height="48"), "damaged: input.height is '48'"),
    ],
)
def test_metadata_that_cannot_be_used(with_metadata, edit, message):
    path = with_metadata(edit)
    with pytest.raises(StateError, match=message) as caught:
        runtime.load(path, threads=1)
    assert str(path) in str(caught.value)


def test_a_graph_with_other_outputs(exported, tmp_path):
    stored = onnx.load(exported.path)
    del stored.graph.output[0]
    onnx.save(stored, tmp_path / "model.onnx")
    with pytest.raises(StateError, match=r"expected the input 'image' and the outputs score"):
        runtime.load(tmp_path / "model.onnx")


def test_warm_up(model, monkeypatch, with_metadata):
    shapes = []
    run = model.run
    monkeypatch.setattr(model, "run", lambda x: shapes.append(x.shape) or run(x))
    assert 0 < model.warm_up([1, 3]) < 60
    assert shapes == [(1, 3, 48, 48), (3, 3, 48, 48), (3, 3, 48, 48)]
    for wrong in ([], [0]):
        with pytest.raises(InputError, match=r"batch_sizes: expected sizes >= 1, got \["):
            model.warm_up(wrong)


def test_without_onnxruntime(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"robustad\[cpu\]'.*robustad\[gpu\]'"):
        runtime.load(exported.path)


def run_python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_predicts_where_nothing_else_is_installed(exported, model, mixed, tmp_path):
    code = """
import json, sys
for name in ("torch", "torchvision", "timm", "pydantic", "onnx", "onnxscript", "scipy",
             "sklearn", "safetensors", "typer", "rich"):
    sys.modules[name] = None
import robustad.runtime
model = robustad.runtime.load(sys.argv[1], threads=1)
print(json.dumps(model.predict(sys.argv[2]).to_records()))
"""
    path = tmp_path / "part.png"
    Image.fromarray(mixed[0]).save(path)
    [record] = json.loads(run_python(code, exported.path, path))
    [expected] = model.predict(path).to_records()
    assert record == pytest.approx(expected)
