"""The choice of a precision: what passes, what is refused, and what is left on disk."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from robustad import runtime
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError, MissingDependencyError, RobustadError, VerificationError
from robustad.export import candidates, export_fastest, verify
from robustad.export.candidates import TARGETS, Search
from robustad.export.metadata import ArtefactMetadata
from robustad.export.onnx import parity_file
from robustad.export.parity import Reference

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture(scope="module")
def images(make_images):
    return make_images(3, 64, 80, seed=20) + make_images(3, 64, 80, seed=21, defect=True)


@pytest.fixture
def quick(monkeypatch, resnet, vit):
    """Trace a detector once for all: it takes seconds, and is tested elsewhere."""
    known = {id(resnet.detector): resnet.path, id(vit.detector): vit.path}

    def copy(detector, path, **options):
        Path(path).write_bytes(known[id(detector)].read_bytes())
        return Path(path)

    monkeypatch.setattr("robustad.export.target.export_onnx", copy)


@pytest.fixture
def fake_times(monkeypatch):
    """Milliseconds by the start of a candidate's name, whatever the machine is doing."""
    taken = {"float32": 100.0, "int8": 40.0}

    def times(self, files, *, batch_size, threads):
        found = {}
        for name in files:
            [found[name]] = [taken[key] for key in sorted(taken) if name == key] or [
                taken[max((key for key in taken if name.startswith(key)), key=len)]
            ]
        return found, 120.0

    monkeypatch.setattr(Reference, "times", times)
    return taken


def test_a_cnn_becomes_int8(quick, resnet, images, fake_times, tmp_path):
    path = tmp_path / "a.onnx"
    said = []
    report = export_fastest(
        resnet.detector, path, target="cpu", images=images, max_score_error=0.05, threads=1,
        batch_size=2, progress=said.append,
    )  # fmt: skip
    assert report.chosen.precision == "int8"
    assert [one.name for one in report.candidates] == ["float32", "int8, extremes", "int8, clipped"]
    assert report.eager_milliseconds == 120.0
    assert (report.images, report.calibration_images, report.batch_size) == (6, 3, 2)
    assert report.providers == ["CPUExecutionProvider"]
    assert said[0] == "tracing"
    assert said[-1] == "timing"
    # what was promised holds for the file that was written, by a separate comparison
    file = runtime.load(path, threads=1, integrity="require")
    expected = resnet.detector.predict(images).score
    worst = np.abs(file.predict(images).score - expected).max()
    assert worst == pytest.approx(report.chosen.parity.score_error, rel=0.2)
    assert worst <= 0.05
    assert {tensor.data_type for tensor in onnx.load(path).graph.initializer} >= {
        onnx.TensorProto.INT8
    }
    # its own golden outputs, not the detector's
    own = runtime.load(resnet.path, threads=1).metadata["golden"]["outputs"]
    assert file.check_golden(tolerance=1e-6) <= 1e-6
    assert file.metadata["golden"]["outputs"] != own
    target = ArtefactMetadata.model_validate(file.metadata).target
    assert target.model_dump() == {
        "engine": "onnxruntime", "target": "cpu", "precision": "int8", "weight_bits": 7,
        "float32_blocks": [], "max_score_error": 0.05,
        "score_error": report.chosen.parity.score_error,
        "map_error": max(report.chosen.parity.map_error, report.chosen.parity.patch_error),
        "images": 6,
    }  # fmt: skip
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "a.onnx", "a.onnx.parity.json", "a.onnx.sha256",
    ]  # fmt: skip
    written = json.loads(parity_file(path).read_text())
    assert written["target"] == json.loads(json.dumps(report.to_dict()))
    assert written["target"]["chosen"] == report.chosen.name
    # verify takes its tolerances from the file
    result = verify(resnet.detector, path, images=images, threads=1)
    result.raise_if_failed()
    assert result.tolerances["score"] == pytest.approx(0.05)
    strict = verify(resnet.detector, path, images=images, threads=1, score_tolerance=1e-6)
    assert not strict.passed


def test_the_gate_decides_not_the_speed(quick, resnet, images, fake_times, tmp_path):
    report = export_fastest(
        resnet.detector, tmp_path / "a.onnx", target="cpu", images=images, max_score_error=2e-6,
        threads=1,
    )  # fmt: skip
    assert report.chosen.name == "float32"
    refused = [one for one in report.candidates if one.refused is not None]
    assert {one.name for one in refused} >= {"int8, extremes", "int8, clipped"}
    assert all("allowed 2.00e-06" in one.refused for one in refused)
    # Only what may be used is timed, and JSON has no word for the rest.
    for one, told in zip(report.candidates, report.to_dict()["candidates"], strict=True):
        assert math.isnan(one.milliseconds) == (one.refused is not None)
        assert (told["milliseconds"] is None) == (one.refused is not None)
    # a plain float32 file keeps the strict tolerances
    result = verify(resnet.detector, report.path, images=images, threads=1)
    result.raise_if_failed()
    assert result.tolerances["score"] == pytest.approx(1e-5)


def test_blocks_are_left_out_until_the_gate_holds(quick, resnet, images, fake_times, tmp_path):
    options = {"target": "cpu", "images": images, "threads": 1}
    path = tmp_path / "a.onnx"
    full = export_fastest(resnet.detector, path, max_score_error=1.0, **options).candidates
    bound = 0.8 * min(one.parity.score_error for one in full[1:])
    report = export_fastest(resnet.detector, path, max_score_error=bound, **options)
    rungs = [one for one in report.candidates if one.float32_blocks]
    assert [len(one.float32_blocks) for one in rungs] == list(candidates.LADDER)[: len(rungs)]
    assert all(one.refused for one in rungs[:-1])  # it stops at the first that passes
    for shorter, longer in itertools.pairwise(rungs):
        assert longer.float32_blocks[: len(shorter.float32_blocks)] == shorter.float32_blocks
    allowed = [one for one in report.candidates if one.refused is None]
    assert all(one.parity.score_error <= bound for one in allowed)
    assert report.chosen in allowed
    assert report.chosen.milliseconds == min(one.milliseconds for one in allowed)


def test_a_vit_is_tried_with_dynamic_ranges_too(quick, vit, make_images, fake_times, tmp_path):
    fake_times["int8, dynamic"] = 20.0
    images = make_images(4, 70, 98, seed=5) + make_images(2, 98, 70, seed=6)
    report = export_fastest(
        vit.detector, tmp_path / "a.onnx", target="cpu", images=images, max_score_error=0.05,
        threads=1,
    )  # fmt: skip
    assert report.chosen.name == "int8, dynamic"
    assert report.chosen.precision == "int8_dynamic"
    verify(vit.detector, report.path, images=images, threads=1).raise_if_failed()


def test_equally_fast_means_the_more_exact(quick, resnet, images, fake_times, tmp_path):
    fake_times["int8"] = 98.0
    report = export_fastest(
        resnet.detector, tmp_path / "a.onnx", target="cpu", images=images, max_score_error=0.05,
        threads=1,
    )  # fmt: skip
    assert report.chosen.name == "float32"


def test_maps_may_be_bounded_too(quick, resnet, images, fake_times, tmp_path):
    report = export_fastest(
        resnet.detector, tmp_path / "a.onnx", target="cpu", images=images, max_score_error=1.0,
        max_map_error=1e-5, threads=1,
    )  # fmt: skip
    assert report.chosen.name == "float32"
    assert "map or patch score differs by" in report.candidates[1].refused


def test_a_detector_without_a_network_stays_float32(masked, make_images, fake_times, tmp_path):
    images = make_images(3, 64, 80, seed=8)
    report = export_fastest(
        masked.detector, tmp_path / "a.onnx", target="cpu", images=images, threads=1,
        input="uint8_nhwc", bank="int8",
    )  # fmt: skip
    assert [one.name for one in report.candidates] == ["float32"]
    assert report.chosen.parity.probability_error is not None
    file = runtime.load(report.path, threads=1)
    assert file.metadata["bank"] == "int8"
    assert file.input_form == "uint8_nhwc"
    verify(masked.detector, report.path, images=images, threads=1).raise_if_failed()


def test_nothing_near_enough_writes_nothing(quick, resnet, images, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"earlier")
    with pytest.raises(
        VerificationError,
        match=r"a.onnx: no precision is near enough .* for target cpu; the best, float32, was "
        r"refused: score differs by .*e-0[5-9], allowed 0.00e\+00; nothing was written",
    ):
        export_fastest(
            resnet.detector, path, target="cpu", images=images, max_score_error=0.0, threads=1
        )
    assert [one.name for one in tmp_path.iterdir()] == ["a.onnx"]
    assert path.read_bytes() == b"earlier"


def test_float16_on_a_gpus_target(quick, resnet, images, fake_times, tmp_path, monkeypatch):
    """The recipe is that of CUDA, the arithmetic the CPU's: no GPU is needed to test it."""
    on_cpu = dataclasses.replace(TARGETS["cuda"], providers=("cpu",), needs="CPUExecutionProvider")
    monkeypatch.setitem(TARGETS, "cuda", on_cpu)
    fake_times["float16"] = 10.0
    report = export_fastest(
        resnet.detector, tmp_path / "a.onnx", target="cuda", images=images, threads=1
    )
    assert [one.name for one in report.candidates] == ["float32", "float16"]
    assert report.chosen.name == "float16"
    assert 0 < report.chosen.parity.score_error <= 1e-3
    verify(resnet.detector, report.path, images=images, threads=1).raise_if_failed()


@pytest.mark.parametrize(
    ("target", "needs"),
    [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")],
)
def test_a_missing_provider_is_told(resnet, images, tmp_path, target, needs, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match=f"target {target} needs .* with {needs}, the"):
        export_fastest(resnet.detector, tmp_path / "a.onnx", target=target, images=images)
    assert not list(tmp_path.iterdir())


def test_a_provider_that_does_not_start_is_told(quick, resnet, images, tmp_path, monkeypatch):
    monkeypatch.setattr("robustad.export.target.check_target", lambda name, custom_ops: None)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(MissingDependencyError, match="installed but did not start; running on CPU"),
    ):
        export_fastest(resnet.detector, tmp_path / "a.onnx", target="cuda", images=images)
    assert not list(tmp_path.iterdir())


def test_openvino(quick, resnet, images, fake_times, tmp_path):
    pytest.importorskip("openvino")
    report = export_fastest(
        resnet.detector, tmp_path / "a.onnx", target="openvino", images=images,
        max_score_error=0.05, threads=1,
    )  # fmt: skip
    assert report.engine == "openvino"
    assert report.chosen.precision == "int8"
    file = runtime.load(report.path, threads=1)
    assert file.engine == "openvino"  # as the file says
    assert file.check_golden(tolerance=1e-5) <= 1e-5
    verify(resnet.detector, report.path, images=images, threads=1).raise_if_failed()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tpu"}, "target: expected one of cpu, cuda, tensorrt, openvino, got 'tpu'"),
        ({"max_score_error": -1e-3}, "max_score_error: expected a number >= 0, got -0.001"),
        ({"max_score_error": math.nan}, "max_score_error: expected a number >= 0, got nan"),
        ({"max_map_error": -1.0}, "max_map_error: expected a number >= 0, got -1.0"),
        ({"batch_size": 0}, "batch_size: expected >= 1, got 0"),
        ({"threads": 0}, "threads: expected >= 1, got 0"),
        ({"images": []}, "images: expected at least .* got (none|0)"),
        ({"images": [np.zeros((64, 80, 3), np.uint8)]}, "images: expected at least 2, .* got 1"),
        ({"images": [np.zeros((64, 80), np.complex64)] * 2}, "image 0"),
    ],
)
def test_what_is_refused(quick, resnet, images, tmp_path, options, message):
    arguments = {"target": "cpu", "images": images, "threads": 1, **options}
    with pytest.raises(InputError, match=message):
        export_fastest(resnet.detector, tmp_path / "a.onnx", **arguments)
    assert not list(tmp_path.iterdir())


def test_names_images_and_operators_that_do_not_fit(quick, resnet, images, tmp_path):
    with pytest.raises(InputError, match=r"a.bin: expected a file name ending in .onnx"):
        export_fastest(resnet.detector, tmp_path / "a.bin", target="cpu", images=images)
    (tmp_path / "in").mkdir()
    Image.fromarray(images[0]).save(tmp_path / "in" / "0.png")
    (tmp_path / "in" / "1.png").write_bytes(b"no image")
    with pytest.raises(RobustadError, match=r"1\.png"):
        export_fastest(
            resnet.detector, tmp_path / "a.onnx", target="cpu", images=tmp_path / "in", threads=1
        )
    pytest.importorskip("openvino")
    with pytest.raises(InputError, match="custom_ops: expected False with target openvino"):
        export_fastest(
            resnet.detector, tmp_path / "a.onnx", target="openvino", images=images, custom_ops=True
        )
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_images_of_other_sizes_than_a_fixed_file_takes(means, make_images, tmp_path):
    detector = AnomalyDINO(means(), image_size=48).fit(make_images(2, 48, 48, seed=1))
    images = make_images(2, 48, 48, seed=2) + make_images(1, 48, 96, seed=3)
    with pytest.raises(InputError, match=r"image 2: prepared to 48 x 96 .* takes \(48, 48\) only"):
        export_fastest(
            detector, tmp_path / "a.onnx", target="cpu", images=images, dynamic_size=False
        )
    assert not list(tmp_path.iterdir())


def test_blocks_that_help_most_come_first(quick, resnet, images, tmp_path, monkeypatch):
    errors = iter([0.1, 0.7, math.nan, 0.2, 0.3, 0.0, 0.5])
    path = tmp_path / "a.onnx"
    path.write_bytes(resnet.path.read_bytes())
    search = Search(resnet.detector, path, "cpu", images, 1e-3, None, 1, lambda said: None)
    monkeypatch.setattr(Reference, "spread", lambda *_: next(errors))
    monkeypatch.setattr(Search, "open", lambda *_: None)
    monkeypatch.setattr(Search, "_int8_model", lambda self, *_: self._model)
    order = search._worst_first({}, 7)
    assert [block.split("model.")[1] for block in order] == [
        "layer3.0", "bn1", "layer2.0", "layer2.1", "layer3.1", "layer1.0", "layer1.1",
    ]  # fmt: skip


@pytest.mark.skipif(
    not (SHARED / "weights/resnet18_layers1to3.safetensors").exists(),
    reason="needs the real trunk in ../shared",
)
def test_a_real_trunk_on_real_images(tmp_path):
    folder = SHARED / "data/hazelnut_toy/hazelnut"
    good = sorted((folder / "train/good").iterdir())[:2]
    test = sorted((folder / "test").glob("*/*"))[::3]
    weights = SHARED / "weights/resnet18_layers1to3.safetensors"
    detector = AnomalyDINO("resnet18", weights, image_size=128).fit(good)
    report = export_fastest(
        detector, tmp_path / "a.onnx", target="cpu", images=test, max_score_error=5e-3, threads=1
    )
    quantised = [one for one in report.candidates if one.precision == "int8"]
    assert any(one.refused is None for one in quantised)
    assert report.chosen.parity.score_error <= 5e-3
    labels = [one.parent.name != "good" for one in test]
    before = roc_auc_score(labels, detector.predict(test).score)
    after = roc_auc_score(labels, runtime.load(report.path, threads=1).predict(test).score)
    assert abs(before - after) <= 0.05


def test_bigger_than_2_gb_in_small(resnet, images, tmp_path, monkeypatch, fake_times):
    """Tensors beside the file stay there, whichever precision is chosen."""
    monkeypatch.setattr("robustad.export.onnx.EXTERNAL_BYTES", 1000)
    path = tmp_path / "a.onnx"
    report = export_fastest(
        resnet.detector, path, target="cpu", images=images, max_score_error=0.05, threads=1
    )
    assert report.chosen.precision == "int8"
    assert (tmp_path / "a.onnx.data").exists()
    runtime.load(path, threads=1, integrity="require").check_golden(tolerance=1e-6)
    verify(resnet.detector, path, images=images, threads=1).raise_if_failed()
