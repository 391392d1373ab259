import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxscript import ir

from robustad import runtime
from robustad.calibration import PixelPlatt
from robustad.detectors import AnomalyDINO
from robustad.errors import InputError
from robustad.export import export_onnx, verify, write_triton
from robustad.export.prepare import take_bytes
from robustad.geometry import Geometry
from robustad.runtime import batches

SHARED = Path(__file__).parents[2] / ".." / "shared"
RESNET = SHARED / "weights" / "resnet18_layers1to3.safetensors"
HAZELNUTS = SHARED / "data" / "hazelnut_toy" / "hazelnut"
COOKIES = SHARED / "data" / "aws_cookies" / "cookie"
SIZES = [(64, 80), (100, 70), (31, 50), (64, 64), (200, 131), (9, 7)]


def loaded(path_or_bytes):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path_or_bytes, options, providers=["CPUExecutionProvider"])


def shell(geometry):
    """A model that gives its input back, and one colour plane of it as the map."""
    image = ir.Value(
        name="image",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(["batch", 3, "height", "width"]),
    )
    tape = ir.tape.Tape()
    seen = tape.op("Identity", [image])
    place = tape.op("Constant", [], {"value": ir.tensor(np.array(1))})
    plane = tape.op("Gather", [image, place], {"axis": 1})
    for value, name in ((seen, "seen"), (plane, "anomaly_map")):
        value.name, value.dtype = name, ir.DataType.FLOAT
    seen.shape, plane.shape = ir.Shape(["b", 3, "h", "w"]), ir.Shape(["b", "h", "w"])
    graph = ir.Graph([image], [seen, plane], nodes=tape.nodes, opset_imports={"": 20}, name="shell")
    model = ir.Model(graph, ir_version=10)
    take_bytes(model, geometry)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return loaded(proto.SerializeToString())


GEOMETRIES = [
    Geometry(size=48, multiple=8),
    Geometry(size=51, multiple=7),
    Geometry(size=40, multiple=8, square=True),
    Geometry(size=33, multiple=1),
]
SHELLS = {}


@pytest.mark.parametrize("which", range(len(GEOMETRIES)))
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 160),
    width=st.integers(1, 160),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_pixels_and_maps_are_those_of_the_geometry(which, height, width, batch, seed):
    geometry = GEOMETRIES[which]
    session = SHELLS.setdefault(which, shell(geometry))
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    seen, restored = session.run(None, {"image": images})
    for image, pixels, one in zip(images, seen, restored, strict=True):
        expected = geometry.apply(image / np.float32(255))
        assert pixels.shape == (3, *expected.shape[:2])
        np.testing.assert_allclose(pixels.transpose(1, 2, 0), expected, rtol=0, atol=2e-6)
        whole = geometry.restore(np.ascontiguousarray(expected[..., 1]), height, width)
        np.testing.assert_allclose(one, whole, rtol=0, atol=4e-6)


@pytest.fixture(scope="module")
def taking_bytes(masked, tmp_path_factory):
    """The masked detector again, as a file that takes uint8 images."""
    path = tmp_path_factory.mktemp("bytes") / "bytes.onnx"
    return export_onnx(masked.detector, path)


@pytest.fixture(scope="module")
def model(taking_bytes):
    return runtime.load(taking_bytes, threads=1)


def test_predicts_what_the_detector_predicts(masked, model, make_images):
    """Foreground masks are those of each image, at every size and batch."""
    images = [image for i, size in enumerate(SIZES) for image in make_images(i + 1, *size, seed=i)]
    expected = masked.detector.predict(images)
    for batch_size in (1, 5):
        found = model.predict(images, batch_size=batch_size)
        assert found.verdict == expected.verdict
        np.testing.assert_allclose(found.score, expected.score, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.probability, expected.probability, rtol=0, atol=1e-3)
        for i in range(len(images)):
            assert found.patch_scores[i].shape == expected.patch_scores[i].shape
            np.testing.assert_allclose(
                found.patch_scores[i], expected.patch_scores[i], rtol=0, atol=1e-4
            )
            assert found.anomaly_map[i].shape == images[i].shape[:2]
            np.testing.assert_allclose(
                found.anomaly_map[i], expected.anomaly_map[i], rtol=0, atol=1e-4
            )
    assert len({(grid == 0).tobytes() for grid in found.patch_scores}) > 5


def test_another_engine(taking_bytes, engines_agree):
    engines_agree(taking_bytes, [(90, 77), (64, 80), (31, 50)], (1, 3))


def test_verifies(masked, taking_bytes, make_images):
    result = verify(masked.detector, taking_bytes, threads=1)
    result.raise_if_failed()
    assert {shape[0] for shape in result.shapes} == {1, 2, 3, 4, 5}
    assert len({shape[1:] for shape in result.shapes}) == 2
    images = make_images(2, 90, 77, seed=5) + make_images(1, 40, 60, seed=6)
    result = verify(masked.detector, taking_bytes, images=images, batch_sizes=[2], threads=1)
    result.raise_if_failed()
    assert {shape[1:] for shape in result.shapes} == {(90, 77), (40, 60)}


def test_another_geometry_in_the_graph_fails(taking_bytes, masked, tampered, make_images):
    def edit(proto):
        [entry] = proto.metadata_props
        document = json.loads(entry.value)
        document["geometry"]["size"] = 72
        entry.value = json.dumps(document)

    result = verify(masked.detector, tampered(taking_bytes, edit), batch_sizes=[1], threads=1)
    assert any(text.startswith("metadata: geometry") for text in result.failures)


def test_the_file_describes_itself_and_is_valid(taking_bytes, model):
    onnx.checker.check_model(str(taking_bytes), full_check=True)
    [entry] = loaded(str(taking_bytes)).get_inputs()
    assert (entry.name, entry.type) == ("image", "tensor(uint8)")
    assert entry.shape == ["batch", "height", "width", 3]
    assert model.input_form == "uint8_nhwc"
    contract = model.metadata["input"]
    assert (contract["layout"], contract["dtype"], contract["range"]) == ("NHWC", "uint8", [0, 255])
    assert model.image_size is None
    assert model.check_golden() < 1e-4
    golden = model.metadata["golden"]
    assert (golden["height"], golden["width"]) == (83, 86)  # has to be resized
    assert model.warm_up((1, 2)) > 0


def test_inputs_that_do_not_fit(model):
    for x, got in (
        (np.zeros((1, 64, 64, 3), np.float32), r"\(1, 64, 64, 3\) of float32"),
        (np.zeros((1, 3, 64, 64), np.uint8), r"\(1, 3, 64, 64\) of uint8"),
        (np.zeros((1, 64, 64, 4), np.uint8), r"\(1, 64, 64, 4\) of uint8"),
        (np.zeros((64, 64, 3), np.uint8), r"\(64, 64, 3\) of uint8"),
        ([0], "list"),
    ):
        with pytest.raises(InputError, match=rf"expected a uint8 array \(B, H, W, 3\), got {got}"):
            model.run(x)
    with pytest.raises(InputError, match="at least one image with pixels"):
        model.run(np.zeros((0, 64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="batch_size: expected >= 1, got 0"):
        model.predict(np.zeros((64, 64), np.uint8), batch_size=0)
    with pytest.raises(InputError, match="would be resized to about"):
        model.run(np.zeros((1, 1, 100_000, 3), np.uint8))


def test_more_than_eight_bits_are_rounded_with_a_warning(model):
    x = np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64)
    with pytest.warns(UserWarning, match=r"image 0: has more than 8 bits .* input='float_nchw'"):
        found = model.predict([x, x])
    rounded = np.rint(x / 257).astype(np.uint8)
    np.testing.assert_array_equal(found.score, model.predict([rounded, rounded]).score)


def test_large_images_are_scored_one_by_one(model, monkeypatch, make_images):
    monkeypatch.setattr(batches, "MAX_BYTE_PIXELS", 64 * 80 * 2)
    shapes = []
    run = model.run
    monkeypatch.setattr(model, "run", lambda x, names: shapes.append(len(x)) or run(x, names))
    assert len(model.predict(make_images(5, 64, 80, seed=1))) == 5
    assert shapes == [2, 2, 1]


def test_a_file_of_one_size(tmp_path, contrast_class, make_images):
    detector = contrast_class()
    path = export_onnx(detector, tmp_path / "fixed.onnx", image_size=(32, 48), dynamic_size=False)
    verify(detector, path, batch_sizes=[1, 2], threads=1).raise_if_failed()
    model = runtime.load(path, threads=1)
    assert model.image_size == (32, 48)
    images = make_images(2, 60, 90, seed=1)
    found, expected = model.predict(images), detector.predict(images)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-5)
    with pytest.raises(InputError, match=r"image 0: prepared to 32 x 32 pixels, but .*fixed.onnx"):
        model.predict(make_images(1, 60, 60, seed=1))
    with pytest.raises(InputError, match=r"to \(32, 48\) pixels only, got \(1, 60, 60, 3\)"):
        model.run(np.zeros((1, 60, 60, 3), np.uint8))
    with pytest.raises(InputError, match=r"image_size: expected one that images are prepared to"):
        export_onnx(detector, path, image_size=(64, 64), dynamic_size=False)
    with pytest.raises(InputError, match=r"input: expected one of float_nchw, uint8_nhwc, got 'x'"):
        export_onnx(detector, path, input="x")


@pytest.mark.parametrize("which", ["vit", "resnet", "contrast"])
def test_detectors_of_every_kind(which, request, tmp_path):
    """Free and fixed sizes, kept and stretched aspect ratios."""
    detector = request.getfixturevalue(which).detector
    path = export_onnx(detector, tmp_path / "whole.onnx")
    verify(detector, path, batch_sizes=[1, 3], threads=1).raise_if_failed()
    model = runtime.load(path, threads=1)
    assert model.input_form == "uint8_nhwc"
    assert (model.image_size is None) == (not detector.geometry.square)


def test_triton_takes_bytes(taking_bytes, tmp_path):
    folder = write_triton(taking_bytes, tmp_path / "models", name="m", max_batch=2)
    config = (folder / "config.pbtxt").read_text()
    assert re.search(r"data_type: TYPE_UINT8\s+dims: \[-1, -1, 3\]", config)
    assert (folder / "warmup" / "golden").stat().st_size == 83 * 86 * 3


def test_a_float_detector_is_not_confused(masked):
    model = runtime.load(masked.path, threads=1)
    assert model.input_form == "float_nchw"
    with pytest.raises(InputError, match=r"expected a float32 array .* of uint8"):
        model.run(np.zeros((1, 64, 64, 3), np.uint8))


def test_attacks_see_images_rounded_to_bytes(masked, taking_bytes, make_images):
    from robustad.attacks import attack
    from robustad.attacks.access import as_scorer

    scorer = as_scorer(taking_bytes)
    x = masked.detector.prepare(make_images(3, 50, 66, seed=1))
    rounded = (x * 255).round() / 255
    assert not torch.equal(rounded, x)
    np.testing.assert_allclose(
        scorer.patch_scores(x), masked.detector.patch_scores(rounded), rtol=0, atol=1e-4
    )
    assert torch.equal(scorer.patch_scores(x), scorer.patch_scores(rounded))
    found = attack(scorer, x, label=[0, 0, 1], attack="square20", eps=8 / 255)
    assert (found.worst_score[:2] >= found.clean_score[:2]).all()
    assert found.worst_score[2] <= found.clean_score[2]
    assert (found.worst_score != found.clean_score).any()
    with pytest.raises(InputError, match=r"prepared for the file, which resizes \(\d+, \d+\) pix"):
        scorer.patch_scores(x.repeat(1, 1, 2, 2))
    with pytest.raises(InputError, match=r"expected values in \[0, 1\], got 0\.\d+..1\.\d+"):
        scorer.patch_scores(x + 0.5)


@pytest.mark.parametrize("size", [(50, 66), (60, 60), (80, 54)])
def test_attacked_images_are_not_resized(tmp_path_factory, size, contrast_class, make_images):
    """Also where the resized edge is no multiple of the patch: what is cut off is put back."""
    from robustad.attacks.access import as_scorer

    detector = contrast_class()
    detector.geometry = Geometry(size=37, multiple=8)
    if "ragged" not in SHELLS:
        path = tmp_path_factory.mktemp("ragged") / "ragged.onnx"
        SHELLS["ragged"] = as_scorer(export_onnx(detector, path, image_size=(32, 40)))
    x = (detector.prepare(make_images(2, *size, seed=3)) * 255).round() / 255
    assert min(x.shape[2:]) == 32
    np.testing.assert_allclose(
        SHELLS["ragged"].patch_scores(x), detector.patch_scores(x).detach(), rtol=0, atol=1e-5
    )


def test_maps_of_probabilities_have_the_images_size(tmp_path, contrast_class, make_images):
    detector = contrast_class()
    maps = np.stack(detector.predict(make_images(4, 50, 66, seed=1)).anomaly_map)
    detector.pixel_calibrator = PixelPlatt().fit(maps, maps > np.median(maps))
    path = export_onnx(detector, tmp_path / "pixels.onnx")
    verify(detector, path, batch_sizes=[1, 3], threads=1).raise_if_failed()
    model = runtime.load(path, threads=1)
    images = np.stack(make_images(2, 50, 66, seed=2))
    found = model.run(images, ["probability_map", "score"])["probability_map"]
    expected = model.predict(images).probability_map
    assert found.shape == (2, 50, 66)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(
    not (RESNET.is_file() and HAZELNUTS.is_dir() and COOKIES.is_dir()),
    reason="no shared/weights and shared/data beside the repository",
)
def test_real_images_and_features_with_masks(tmp_path):
    """On photographs of other sizes than those that the detector was fitted on, too."""
    train = sorted((HAZELNUTS / "train" / "good").iterdir())[:4]
    detector = AnomalyDINO("resnet18", RESNET, image_size=112, mask=True).fit(train)
    path = export_onnx(detector, tmp_path / "real.onnx")
    test = sorted((HAZELNUTS / "test").glob("*/*"))[::20]
    test += sorted((COOKIES / "test").glob("*/*"))[::25]
    result = verify(detector, path, images=test, batch_sizes=(1, 3), threads=1)
    result.raise_if_failed()
    assert len({shape[1:] for shape in result.shapes}) > 1
    found = runtime.load(path, threads=1).predict(test)
    expected = detector.predict(test)
    np.testing.assert_allclose(found.score, expected.score, rtol=0, atol=1e-5)
    assert len({(grid == 0).tobytes() for grid in found.patch_scores}) > 3
