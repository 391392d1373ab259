import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnxscript import ir

import robustad.export.onnx as onnx_module
import robustad.export.trace as trace_module
from robustad.calibration import Platt
from robustad.conformal import ConformalScores, p_values
from robustad.conformal.scores import evidence
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError, NotFittedError
from robustad.export import ArtefactMetadata, export_onnx
from robustad.export.trace import MODULE
from robustad.runtime._verdicts import POLICY, VERDICTS
from robustad.runtime.integrity import check_integrity
from robustad.verdict import binary_entropy

OUTPUTS = ["score", "probability", "entropy", "patch_scores", "anomaly_map", "p_value"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def session_of(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session, x, **overrides):
    feeds = {"image": x, **{k: np.array(v, np.float32) for k, v in overrides.items()}}
    return dict(zip(OUTPUTS, session.run(OUTPUTS, feeds), strict=True))


def assert_agrees(detector, session, x):
    """Compare every output with torch; returns torch's patch scores."""
    found = run(session, x)
    with torch.no_grad():
        patch_scores = detector.patch_scores(torch.from_numpy(x))
        score = detector.aggregate(patch_scores).numpy()
        anomaly_map = detector.anomaly_map(patch_scores, x.shape[2:]).numpy()
    probability = detector.probability(score)
    # the file's own scores, as a score's last digit may pass a held-out one
    p_value = detector.evidence(found["score"]).p_value
    np.testing.assert_allclose(found["p_value"], p_value, rtol=0, atol=1e-6)
    known = evidence(found["score"], found["probability"].astype(np.float64), detector.conformal)
    [verdict] = session.run(["verdict"], {"image": x})
    assert verdict.dtype == np.int64
    assert [VERDICTS[code] for code in verdict] == detector.policy.decide(known)
    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(
        OUTPUTS, np.dtype(np.float32)
    )
    np.testing.assert_allclose(found["score"], score, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["patch_scores"], patch_scores.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["anomaly_map"], anomaly_map, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["probability"], probability, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["entropy"], binary_entropy(probability), rtol=0, atol=1e-3)
    return patch_scores.numpy()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 80), (104, 72), (48, 72)])
def test_masked_filters_agree_at_every_batch_and_size(masked, height, width, make_batch):
    session = session_of(masked.path)
    masks = []
    for batch in range(1, 6):
        x = make_batch(batch, height, width, seed=100 + batch)
        masks += list(assert_agrees(masked.detector, session, x) == 0)
    assert 0.05 < np.mean(masks) < 0.95
    assert len({mask.tobytes() for mask in masks}) > 5  # computed for each image, not frozen


@pytest.mark.parametrize(("height", "width"), [(70, 98), (112, 84)])
def test_dinov2_agrees_and_is_not_calibrated(vit, make_batch, height, width):
    session = session_of(vit.path)
    for batch in range(1, 6):
        x = make_batch(batch, height, width, seed=200 + batch)
        assert_agrees(vit.detector, session, x)
        found = run(session, x)
        assert np.isnan(found["probability"]).all()
        assert np.isnan(found["entropy"]).all()


def test_dinov2_agrees_at_the_size_it_was_trained_at(vit, make_batch):
    # There torch takes the position embedding as it is, and the graph resamples it all the same.
    assert_agrees(vit.detector, session_of(vit.path), make_batch(1, 518, 518, seed=5))


def test_square_resnet_has_one_size_and_a_raw_probability(resnet, make_batch):
    session = session_of(resnet.path)
    for batch in range(1, 6):
        x = make_batch(batch, 64, 64, seed=300 + batch)
        assert_agrees(resnet.detector, session, x)
        found = run(session, x)
        np.testing.assert_array_equal(found["probability"], found["score"].clip(0, 1))
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 64]
    assert {entry.domain: entry.version for entry in onnx.load(resnet.path).opset_import} == {
        "": 18
    }


def test_a_detector_the_exporter_does_not_know(contrast, make_batch):
    session = session_of(contrast.path)
    for batch, (height, width) in enumerate([(32, 32), (32, 72), (80, 40)], start=1):
        x = make_batch(batch, height, width, seed=batch)
        assert_agrees(contrast.detector, session, x)


def test_calibration_can_be_overridden_without_a_new_export(masked, vit, resnet, make_batch):
    for exported in (masked, vit, resnet):
        session = session_of(exported.path)
        names = {value.name for value in session.get_overridable_initializers()}
        judged = {"conformal_scores", "conformal_anomalous", *POLICY}
        assert names == {"calibration_slope", "calibration_intercept"} | judged
        edge = 70 if exported is vit else 64
        x = make_batch(3, edge, edge, seed=7)
        found = run(session, x, calibration_slope=3.0, calibration_intercept=-1.0)
        expected = 1 / (1 + np.exp(1.0 - 3.0 * found["score"].astype(np.float64)))
        np.testing.assert_allclose(found["probability"], expected, atol=1e-6)
        np.testing.assert_allclose(found["entropy"], binary_entropy(expected), atol=1e-6)


@pytest.mark.parametrize("count", [1, 4, 10_000])
def test_held_out_scores_can_be_overridden_by_any_number(masked, vit, make_batch, count):
    held_out = np.random.default_rng(0).random(count).astype(np.float32)
    for exported in (masked, vit):  # with held-out scores of its own, and without
        session = session_of(exported.path)
        edge = 70 if exported is vit else 64
        found = run(session, make_batch(3, edge, edge, seed=7), conformal_scores=held_out)
        expected = p_values(found["score"], held_out)
        np.testing.assert_allclose(found["p_value"], expected, rtol=1e-6)


def test_no_held_out_scores_no_p_value(masked, vit, make_batch):
    assert np.isnan(run(session_of(vit.path), make_batch(2, 70, 70, seed=7))["p_value"]).all()
    x = make_batch(2, 64, 64, seed=7)
    found = run(session_of(masked.path), x, conformal_scores=[np.nan])["p_value"]
    assert np.isnan(found).all()


def test_ten_thousand_held_out_scores_take_little_space(tmp_path, contrast_class):
    detector = contrast_class()
    plain = export_onnx(detector, tmp_path / "plain.onnx").stat().st_size
    detector.conformal = ConformalScores(np.random.default_rng(0).random(10_000))
    large = export_onnx(detector, tmp_path / "large.onnx").stat().st_size
    assert 40_000 < large - plain < 250_000  # 40 kB in the graph, the rest as text


def test_entropy_survives_certainty(vit, make_batch):
    x = make_batch(1, 70, 70, seed=7)
    session = session_of(vit.path)
    for intercept in (-300.0, -20.0, -9.0, 9.0, 20.0, 300.0):
        found = run(session, x, calibration_slope=0.0, calibration_intercept=intercept)
        expected = binary_entropy(np.array([1 / (1 + np.exp(-intercept))]))
        np.testing.assert_allclose(found["entropy"], expected, atol=1e-6)


def test_file_is_valid_onnx_and_describes_itself(masked):
    onnx.checker.check_model(str(masked.path), full_check=True)
    model = onnx.load(masked.path)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    assert shapes["image"] == ["batch", 3, "height", "width"]
    kept = [entry for node in model.graph.node for entry in node.metadata_props]
    assert {entry.key for entry in kept} == {MODULE}  # torch keeps source paths too
    assert all(re.fullmatch(r"[\w.]+", entry.value) for entry in kept)
    [text] = [entry.value for entry in model.metadata_props if entry.key == "robustad"]
    metadata = ArtefactMetadata.model_validate_json(text)
    detector = masked.detector
    assert metadata.method == "anomaly_dino"
    assert metadata.config == detector.config().model_dump(mode="json")
    assert metadata.backbone is not None
    assert metadata.backbone.name == "filters"
    assert metadata.backbone.weights_sha256 is None
    assert (metadata.input.height, metadata.input.width) == (None, None)
    assert (metadata.geometry.size, metadata.geometry.multiple) == (64, 8)
    assert metadata.patch_size == 8
    assert metadata.calibration.model_dump() == detector.calibrator.to_dict()
    assert metadata.policy.model_dump(exclude_none=True) == detector.policy.to_dict()
    assert metadata.conformal is not None
    assert metadata.conformal.model_dump() == detector.conformal.to_dict()
    assert (metadata.schema_version, metadata.pixel_threshold) == (3, None)
    assert metadata.verdicts == ["accept", "reject", "defer", "uncalibrated"]
    assert metadata.evaluation.attacks[0]["name"] == "fgsm"
    assert metadata.versions["torch"] == torch.__version__.split("+")[0]
    assert np.isfinite(list(metadata.golden.outputs.values())).all()


def test_weights_and_fixed_size_are_described(resnet, contrast):
    document = json.loads(session_of(resnet.path).get_modelmeta().custom_metadata_map["robustad"])
    assert (document["input"]["height"], document["input"]["width"]) == (64, 64)
    assert document["backbone"]["layers"] == [2, 3]
    assert len(document["backbone"]["weights_sha256"]) == 64
    assert document["calibration"] == {"method": "raw"}
    assert document["evaluation"] == {"attacks": []}
    assert document["schema_version"] == 3
    assert document["conformal"] is None
    other = json.loads(session_of(contrast.path).get_modelmeta().custom_metadata_map["robustad"])
    assert other["backbone"] is None


def test_export_is_quiet_and_leaves_the_detector_as_it_was(
    tmp_path, capfd, recwarn, contrast_class
):
    detector = contrast_class().train()
    part = torch.nn.Identity()
    part.fused_attn = True
    detector.attention = part
    export_onnx(detector, tmp_path / "new" / "model.onnx", image_size=(32, 64), dynamic_size=False)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert detector.training
    assert part.fused_attn
    assert names_in(tmp_path / "new") == ["model.onnx", "model.onnx.sha256"]
    [entry] = session_of(tmp_path / "new" / "model.onnx").get_inputs()
    assert (entry.shape, entry.type) == (["batch", "height", "width", 3], "tensor(uint8)")


def test_a_size_that_cannot_be_free_is_fixed_unless_it_was_asked_for(
    tmp_path, contrast_class, make_batch
):
    detector = contrast_class(branches=True)
    path = export_onnx(detector, tmp_path / "model.onnx", input="float_nchw")
    session = session_of(path)
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    assert_agrees(detector, session, make_batch(2, 32, 32, seed=1))
    with pytest.raises(InputError, match=r"a free height.*<= 3000.*dynamic_size=False"):
        export_onnx(detector, tmp_path / "model.onnx", dynamic_size=True)


@pytest.fixture
def quick(monkeypatch, contrast):
    """Replace tracing, which takes seconds, by a model traced before."""

    def trace(detector, size, *, dynamic, opset, custom_ops=False, bank="float32"):
        return ir.load(contrast.path), True

    monkeypatch.setattr(trace_module, "trace", trace)


def test_large_models_keep_their_tensors_beside_them(tmp_path, monkeypatch, masked, make_batch):
    monkeypatch.setattr(trace_module, "trace", lambda *_, **__: (ir.load(masked.path), True))
    path = tmp_path / "large.onnx"
    monkeypatch.setattr(onnx_module, "EXTERNAL_BYTES", 1000)
    for _ in range(2):  # the second time over the first
        export_onnx(masked.detector, path, input="float_nchw")
        manifest = "large.onnx.sha256"
        assert names_in(tmp_path) == ["large.onnx", "large.onnx.data", manifest]
        assert check_integrity(path) == ["large.onnx", "large.onnx.data"]
        assert path.stat().st_size < masked.path.stat().st_size - 20_000
        x = make_batch(2, 64, 72, seed=9)
        assert_agrees(masked.detector, session_of(path), x)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("large.onnx", "large.onnx.data"):
        shutil.copy(tmp_path / name, moved / name)
    assert_agrees(masked.detector, session_of(moved / "large.onnx"), x)
    monkeypatch.undo()
    monkeypatch.setattr(trace_module, "trace", lambda *_, **__: (ir.load(masked.path), True))
    export_onnx(masked.detector, path)
    assert names_in(tmp_path) == ["elsewhere", "large.onnx", manifest]
    assert check_integrity(path, "require") == ["large.onnx"]


@pytest.mark.parametrize("where", ["trace", "save"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, quick, where, contrast_class):
    path = tmp_path / "model.onnx"
    path.write_text("old")

    def fail(*args, **kwargs):
        if where == "save":
            Path(args[1]).write_text("half")
        raise RuntimeError("no more")

    target = (trace_module, "trace") if where == "trace" else (ir, "save")
    monkeypatch.setattr(*target, fail)
    with pytest.raises(RuntimeError, match="no more"):
        export_onnx(contrast_class(), path)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["model.onnx"]


def test_what_torch_raises_with_a_fixed_size_comes_through(tmp_path, monkeypatch, contrast_class):
    def fail(*args, **kwargs):
        raise ValueError("unsupported operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ValueError, match="unsupported operator"):
        export_onnx(contrast_class(), tmp_path / "model.onnx", dynamic_size=False)
    assert names_in(tmp_path) == []


def test_paths_that_cannot_be_written(tmp_path, quick, contrast_class):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match=r"folder\.onnx: expected a file name.*existing folder"):
        export_onnx(contrast_class(), tmp_path / "folder.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"its parent .*file is not a folder"):
        export_onnx(contrast_class(), tmp_path / "file" / "model.onnx")
    with pytest.raises(InputError, match=r"model\.pt: expected a file name ending in \.onnx"):
        export_onnx(contrast_class(), tmp_path / "model.pt")


def test_a_read_only_folder(tmp_path, monkeypatch, quick, contrast_class):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root writes everywhere

        def refuse(**kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(onnx_module.tempfile, "mkdtemp", refuse)
    with pytest.raises(InputError, match=r"model\.onnx: cannot be written.*Permission denied"):
        export_onnx(contrast_class(), folder / "model.onnx")


def test_options_out_of_range(tmp_path, quick, contrast_class):
    path = tmp_path / "model.onnx"
    with pytest.raises(InputError, match=r"opset: expected one of \(18, 20\), got 17"):
        export_onnx(contrast_class(), path, opset=17)
    for size in ((33, 32), (0, 32), (32, -8)):
        with pytest.raises(InputError, match=r"image_size: expected .* multiples of 8 pixels"):
            export_onnx(contrast_class(), path, image_size=size)
    for evaluation in ({"auroc": float("nan")}, {"when": object()}, {"attacks": "fgsm"}):
        with pytest.raises(InputError, match="evaluation: expected a dict that JSON can hold"):
            export_onnx(contrast_class(), path, evaluation=evaluation)
    assert not path.exists()


def test_detectors_that_cannot_be_exported(tmp_path, contrast_class):
    path = tmp_path / "model.onnx"
    with pytest.raises(NotFittedError, match="memory bank"):
        export_onnx(AnomalyDINO("filters"), path)
    detector = contrast_class()
    detector.calibrator = Platt()
    with pytest.raises(NotFittedError, match="Platt"):
        export_onnx(detector, path)

    class Spline:
        method = "spline"

        def to_dict(self):
            return {"method": "spline"}

    detector.calibrator = Spline()
    with pytest.raises(InputError, match=r"one of beta, .* or none to export, got 'spline'"):
        export_onnx(detector, path)
    with pytest.raises(InputError, match=r"expected float32.* offset is torch\.float64"):
        export_onnx(contrast_class().double(), path)
    assert names_in(tmp_path) == []


def test_a_slope_beyond_float32(tmp_path, contrast_class):
    detector = contrast_class()
    detector.calibrator = Platt.from_dict(
        {
            "method": "platt",
            "slope": 1e39,
            "intercept": 0.0,
            "n_normal": 1,
            "n_anomalous": 1,
            "prevalence": 0.5,
        }
    )
    with pytest.raises(InputError, match=r"calibration_slope 1e\+39 does not fit float32"):
        export_onnx(detector, tmp_path / "model.onnx")


def test_importing_the_package_module_leaves_onnx_alone():
    assert sys.modules["onnx"] is onnx
    assert sys.modules["robustad.export.onnx"] is onnx_module
