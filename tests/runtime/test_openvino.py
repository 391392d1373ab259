"""Files run by OpenVINO, beside onnxruntime; more of them in tests/export."""

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnxscript import ir

from robustad import runtime
from robustad.conformal import ConformalScores
from robustad.errors import InputError, MissingDependencyError, StateError
from robustad.export.prepare import take_bytes
from robustad.probability import probability_of
from robustad.runtime import _openvino, _session
from robustad.verdict import Policy, Verdict, binary_entropy

pytest.importorskip("openvino")


def load(path, **options):
    return runtime.load(path, **{"engine": "openvino", "threads": 1, **options})


def batch_of(model, images):
    """Neighbours of one size, as the file takes them."""
    prepared = [model.geometry.apply(image / np.float32(255)) for image in images]
    return np.ascontiguousarray(np.stack(prepared).transpose(0, 3, 1, 2))


def same(found, expected):
    """Predictions agree up to rounding, verdicts and p-values exactly."""
    assert found.names == expected.names
    assert found.verdict == expected.verdict
    assert found.pixel_threshold == expected.pixel_threshold
    np.testing.assert_array_equal(found.p_value, expected.p_value)
    for name in ("score", "probability", "entropy"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    for name in ("patch_scores", "anomaly_map"):
        for ours, theirs in zip(getattr(found, name), getattr(expected, name), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def ours(exported):
    return load(exported.path)


@pytest.fixture(scope="module")
def taking_bytes(exported, tmp_path_factory):
    """The same file, made one of whole images: quicker than another export."""
    graph = ir.load(exported.path)
    take_bytes(graph, exported.detector.geometry)
    document = json.loads(graph.metadata_props["robustad"])
    document["input"] |= {"layout": "NHWC", "dtype": "uint8"}
    graph.metadata_props["robustad"] = json.dumps(document)
    path = tmp_path_factory.mktemp("bytes") / "bytes.onnx"
    ir.save(graph, path)
    return path


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_predicts_what_onnxruntime_predicts(ours, model, mixed, batch_size):
    assert ours.engine == "openvino"
    assert model.engine == "onnxruntime"
    found = ours.predict(mixed, batch_size=batch_size)
    same(found, model.predict(mixed, batch_size=batch_size))
    assert {Verdict.ACCEPT, Verdict.REJECT} <= set(found.verdict)


def test_every_output_at_every_batch(exported, engines_agree):
    found = engines_agree(exported.path, [(48, 64), (80, 48)])
    assert found.check_golden() < 1e-5
    assert 0 < found.warm_up([1, 3]) < 60


def test_whole_images(taking_bytes, engines_agree):
    found = engines_agree(taking_bytes, [(60, 80), (31, 50)])
    assert found.input_form == "uint8_nhwc"


@pytest.mark.parametrize("size", [(352, 407), (759, 352), (160, 195)])
def test_whole_images_whose_size_float32_would_round_otherwise(taking_bytes, size):
    """OpenVINO would compute the prepared size in float32; see `robustad.runtime._openvino`."""
    large, small = max(size), min(size)
    rough = np.round(np.float32(large) * (np.float32(48) / np.float32(small)))
    assert int(rough) != round(large * (48 / small))
    x = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    theirs = runtime.load(taking_bytes, engine="onnxruntime", threads=1)
    found, expected = load(taking_bytes).run(x), theirs.run(x)
    assert found["patch_scores"].shape == expected["patch_scores"].shape
    for name in ("score", "patch_scores", "anomaly_map"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)


def test_arrays_in_and_out(ours, model):
    x = np.random.default_rng(0).random((2, 3, 48, 56), np.float32)
    x.flags.writeable = False
    assert list(ours.run(x, ["anomaly_map", "score"])) == ["anomaly_map", "score"]
    assert list(ours.run(x, ["verdict"])) == ["verdict"]
    first = ours.run(x)["score"]
    kept = first.copy()
    ours.run(np.zeros((3, 3, 48, 56), np.float32))
    np.testing.assert_array_equal(first, kept)  # not a view of what the engine writes to
    np.testing.assert_allclose(ours.score(x), model.score(x), atol=1e-5)
    np.testing.assert_allclose(ours.patch_scores(x), model.patch_scores(x), atol=1e-5)
    with pytest.raises(InputError, match=r"outputs: expected some of .*got \['map'\]"):
        ours.run(x, ["map"])


def test_calls_from_several_threads(ours):
    batches = [
        np.random.default_rng(i).random((1 + i % 3, 3, 48, 48), np.float32) for i in range(8)
    ]
    expected = [ours.run(x)["anomaly_map"] for x in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: ours.run(x)["anomaly_map"], batches))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_calibrations_of_every_kind(with_metadata, exported, mixed, calibration_state):
    """The file's own and one given at load are the same, and the formula's."""
    state = calibration_state
    path = with_metadata(lambda document: document.update(calibration=state))
    x = batch_of(load(path), mixed[:2])
    found = load(path).run(x)
    expected = probability_of(state, found["score"])
    np.testing.assert_allclose(found["probability"], expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found["entropy"], binary_entropy(expected), rtol=0, atol=1e-6)
    for engine in ("openvino", "onnxruntime"):
        given = load(exported.path, engine=engine, calibration=state)
        again = given.run(x)
        np.testing.assert_array_equal(again["verdict"], found["verdict"])
        for name in ("probability", "entropy", "p_value"):
            np.testing.assert_allclose(again[name], found[name], rtol=0, atol=1e-5)


def test_without_calibration_and_held_out_scores(with_metadata):
    path = with_metadata(lambda document: document.update(calibration=None, conformal=None))
    found = load(path).run(np.zeros((1, 3, 48, 48), np.float32))
    assert np.isnan([found["probability"], found["entropy"], found["p_value"]]).all()
    assert found["verdict"].tolist() == [list(Verdict).index(Verdict.UNCALIBRATED)]


def test_overrides(exported, mixed):
    ours, theirs = load(exported.path), runtime.load(exported.path, threads=1)
    x = batch_of(ours, mixed[:2])

    def agree():
        same(ours.predict(mixed), theirs.predict(mixed))
        found, expected = ours.run(x), theirs.run(x)
        np.testing.assert_array_equal(found["verdict"], expected["verdict"])
        np.testing.assert_allclose(found["p_value"], expected["p_value"], rtol=1e-6)
        return [list(Verdict)[code] for code in found["verdict"]]

    def both(name, value):
        setattr(ours, name, value)
        setattr(theirs, name, value)

    seen = [agree()]
    for policy in (
        Policy(threshold=0.999),
        Policy(threshold=1e-6, entropy_threshold=0.0),
        Policy(p_value_threshold=0.1, p_value_defer=0.95, anomaly_threshold=0.2),
        Policy(suspicion_threshold=0.9),
    ):
        both("policy", policy)
        seen.append(agree())
    both("conformal", ConformalScores(np.linspace(0, 2, 9), anomalous=[0.01, 0.5]))
    seen.append(agree())
    both("calibration", (8.0, -2.0))
    seen.append(agree())
    both("conformal", None)
    both("calibration", None)
    both("policy", Policy(p_value_threshold=0.1))
    assert agree() == [Verdict.UNCALIBRATED] * 2
    assert {Verdict.ACCEPT, Verdict.REJECT, Verdict.DEFER} <= {one for row in seen for one in row}


def test_the_files_target_is_taken_by_itself(exported, with_metadata, monkeypatch):
    assert runtime.load(exported.path).engine == "onnxruntime"
    path = with_metadata(lambda document: document.update(target={"engine": "openvino"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runtime.load(path, threads=1).engine == "openvino"
        assert runtime.load(path, threads=1, engine="onnxruntime").engine == "onnxruntime"
    monkeypatch.setattr(_session, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=r"changed.onnx was made for OpenVINO, .*\[openvino\]"):
        assert runtime.load(path, threads=1).engine == "onnxruntime"
    path = with_metadata(lambda document: document.update(target={"engine": "tvm"}))
    with pytest.raises(StateError, match=r"damaged: target is \{'engine': 'tvm'\}"):
        runtime.load(path)


def test_without_openvino(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"openvino is needed .*'robustad\[openvino\]"):
        load(exported.path)


def test_an_older_openvino(exported, monkeypatch):
    import openvino

    monkeypatch.setattr(openvino, "__version__", "2025.2.0-19140-c01cd93e24d")
    message = r"openvino 2025\.4 or newer is needed .*, 2025\.2\.0 is installed: pip install -U"
    with pytest.raises(MissingDependencyError, match=message):
        load(exported.path)
    monkeypatch.setattr(openvino, "__version__", "2025.10.0")
    assert load(exported.path).engine == "openvino"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tvm"}, "engine: expected one of auto, onnxruntime, openvino, got 'tvm'"),
        ({"threads": 0}, "threads: expected >= 1, got 0"),
        ({"precision": "int8"}, "precision: expected one of float32, bfloat16, float16, got 'int8"),
        ({"engine": "onnxruntime", "precision": "float16"}, "precision: expected float32 with onn"),
        ({"io_binding": True}, "io_binding: expected None or False with OpenVINO, got True"),
        ({"providers": "cpu"}, "providers: expected a list of names, got the string 'cpu'"),
        ({"providers": ["cuda"]}, "providers: expected OpenVINO's devices cpu, .*, got 'cuda'"),
        ({"providers": ["gpu.x"]}, "got 'gpu.x'"),
        ({"provider_options": {"cpu": {}}}, "expected those of 'openvino' .*, got 'cpu'"),
        ({"provider_options": {"openvino": 3}}, "a mapping of options for openvino, got 3"),
        ({"provider_options": {"openvino": {"NOISE": 1}}}, "OpenVINO says: .*property NOISE"),
    ],
)
def test_options_that_do_not_fit(exported, options, message):
    with pytest.raises(InputError, match=message):
        load(exported.path, **options)


@pytest.mark.parametrize("size", [(5, 9), (37, 20), (50, 41)])
def test_resizing_is_antialiased(size, tmp_path):
    """Of position embeddings; OpenVINO by itself ignores the attribute."""
    import onnxruntime
    import openvino

    helper, kind = onnx.helper, onnx.TensorProto
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], antialias=1, mode="cubic", cubic_coeff_a=-0.5,
        coordinate_transformation_mode="half_pixel", exclude_outside=1,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", kind.FLOAT, [1, 8, 37, 37])],
        [helper.make_tensor_value_info("y", kind.FLOAT, [1, 8, *size])],
        [onnx.numpy_helper.from_array(np.array([1, 8, *size]), "sizes")],
    )
    path = tmp_path / "resize.onnx"
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    x = np.random.default_rng(0).standard_normal((1, 8, 37, 37), np.float32)
    [expected] = onnxruntime.InferenceSession(path).run(None, {"x": x})
    core = openvino.Core()
    model = core.read_model(path)
    _openvino._antialias(model)
    found = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_graphs_that_cannot_be_run(exported, tmp_path):
    def changed(name, edit):
        stored = onnx.load(exported.path)
        edit(stored)
        onnx.save(stored, tmp_path / name)
        return tmp_path / name

    def old(stored):
        stored.opset_import[0].version = 13

    def new(stored):
        stored.opset_import[0].version = 99

    def foreign(stored):
        stored.graph.node[0].op_type = "Nonsense"

    def custom(stored):
        stored.opset_import.append(onnx.helper.make_opsetid("robustad", 1))

    def without_output(stored):
        del stored.graph.output[0]

    def without_entropy(stored):
        [place] = [i for i, one in enumerate(stored.graph.output) if one.name == "entropy"]
        del stored.graph.output[place]

    for name, edit, message in (
        ("old", old, "in ONNX operator set 13, expected 18 or newer"),
        ("new", new, "operator set 99, expected 23 or older for OpenVINO: export again"),
        ("foreign", foreign, r"not an ONNX file that OpenVINO 20.* can run: .*Nonsense"),
        ("custom", custom, "own operators, which OpenVINO does not have: .*engine='onnxruntime'"),
        ("output", without_output, r"expected tensors called image, score, .*found no score"),
        ("entropy", without_entropy, r"expected the input 'image' and the outputs score"),
    ):
        path = changed(f"{name}.onnx", edit)
        with pytest.raises(StateError, match=message) as caught:
            load(path)
        assert str(path) in str(caught.value)


def test_tensors_beside_the_file(exported, ours, tmp_path):
    path = tmp_path / "large.onnx"
    stored = onnx.load(exported.path)
    onnx.save(
        stored, path, save_as_external_data=True, location="large.onnx.data", size_threshold=100
    )
    x = np.random.default_rng(0).random((2, 3, 48, 48), np.float32)
    np.testing.assert_array_equal(load(path).run(x)["anomaly_map"], ours.run(x)["anomaly_map"])
    data = tmp_path / "large.onnx.data"
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(StateError, match=r"large\.onnx: not an ONNX file .*external"):
        load(path)
    data.unlink()
    with pytest.raises(StateError, match=r"large\.onnx: not an ONNX file .*external"):
        load(path)


def test_needs_neither_torch_nor_onnxruntime(exported):
    code = """
import sys
for name in ("torch", "onnx", "onnxruntime", "onnxscript", "pydantic", "scipy", "sklearn"):
    sys.modules[name] = None
import robustad.runtime
assert "openvino" not in sys.modules
model = robustad.runtime.load(sys.argv[1], engine="openvino", threads=1)
print(model.check_golden())
"""
    command = [sys.executable, "-P", "-c", code, str(exported.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5
