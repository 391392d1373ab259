"""Int8 backbones, beside float32 and beside arithmetic done by hand."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from robustad import runtime
from robustad.errors import InputError
from robustad.export import precision
from robustad.export.backbone import PRODUCTS, blocks, quantisable, read_model


def run(path, x):
    return runtime.load(path, threads=1, integrity="skip").run(x)


def saved(model, path):
    onnx.save(model, path)
    return path


def types(model):
    return [node.op_type for node in model.graph.node]


@pytest.fixture(scope="module")
def cnn(resnet, make_batch, tmp_path_factory):
    model = read_model(resnet.path)
    x = make_batch(4, 64, 64, seed=9)
    folder = tmp_path_factory.mktemp("ranges")
    ranges = precision.activation_ranges(model, [x[:2], x[2:]], folder, threads=1)
    assert not list(folder.iterdir())
    return model, ranges, x


@pytest.fixture(scope="module")
def transformer(vit, make_batch, tmp_path_factory):
    model = read_model(vit.path)
    x = make_batch(3, 70, 98, seed=9)
    folder = tmp_path_factory.mktemp("ranges")
    return model, precision.activation_ranges(model, [x], folder, threads=1), x


def test_ranges_are_those_of_the_detectors_own_activations(cnn, resnet):
    """The first convolution's input is the normalised image, known without running anything."""
    model, ranges, x = cnn
    name = quantisable(model)[0].input[0]
    config = resnet.detector.backbone
    mean, std = (getattr(config, key).flatten().numpy() for key in ("mean", "std"))
    normal = (x - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(ranges.extremes[name], (normal.min(), normal.max()), rtol=1e-5)


def test_clipped_ranges_lie_within(cnn, monkeypatch, tmp_path):
    model, _, x = cnn
    monkeypatch.setattr(precision, "TAIL", 0.01)
    ranges = precision.activation_ranges(model, [x], tmp_path, threads=1)
    assert ranges.clipped.keys() == ranges.extremes.keys()
    for name, (low, high) in ranges.clipped.items():
        assert ranges.extremes[name][0] <= low <= high <= ranges.extremes[name][1]
    name = quantisable(model)[0].input[0]
    assert ranges.clipped[name][1] < ranges.extremes[name][1]


def test_tails_are_the_ends_of_the_sorted_values(monkeypatch):
    values = np.random.default_rng(0).permutation(1000).astype(np.float32).reshape(10, 100)
    monkeypatch.setattr(precision, "TAIL", 0.02)
    assert precision._without_tails(values) == (20.0, 979.0)
    monkeypatch.setattr(precision, "TAIL", 1e-5)
    assert precision._without_tails(values) == (0.0, 999.0)


def test_ranges_need_finite_images(cnn, tmp_path):
    model, _, x = cnn
    with pytest.raises(InputError, match="at least one image to measure ranges on, got none"):
        precision.activation_ranges(model, [], tmp_path, threads=1)
    with pytest.raises(InputError, match=r"the tensor .* of the detector is not finite"):
        precision.activation_ranges(model, [np.full_like(x[:1], np.nan)], tmp_path, threads=1)
    assert not list(tmp_path.iterdir())


def test_int8_of_a_cnn(cnn, resnet, tmp_path):
    model, ranges, x = cnn
    before = model.SerializeToString(deterministic=True)
    quantised = precision.to_int8(model, ranges.extremes)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(quantised)
    weights = [t for t in quantised.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    kernels = [numpy_helper.to_array(tensor) for tensor in weights if len(tensor.dims) == 4]
    assert len(kernels) == len(quantisable(model)) == 15
    # 7 bits: pairs of products with a byte fit 16 bits
    assert max(int(np.abs(kernel.astype(int)).max()) for kernel in kernels) <= 64
    path = saved(quantised, tmp_path / "a.onnx")
    assert path.stat().st_size < 0.5 * resnet.path.stat().st_size
    one, other = run(resnet.path, x), run(path, x)
    assert 1e-6 < np.abs(one["score"] - other["score"]).max() < 0.01
    assert np.abs(one["anomaly_map"] - other["anomaly_map"]).max() < 0.05


def test_weights_are_rounded_by_channel(cnn):
    model, ranges, _ = cnn
    quantised = precision.to_int8(model, ranges.extremes, weight_bits=8)
    name = quantisable(model)[3].input[1]
    tensors = {t.name: numpy_helper.to_array(t) for t in quantised.graph.initializer}
    original = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}[name]
    codes, scales = tensors[f"{name}_quantized"].astype(np.float32), tensors[f"{name}_scale"]
    assert scales.shape == (original.shape[0],)
    steps = np.abs(original).max(axis=(1, 2, 3)) / 127
    np.testing.assert_allclose(scales, steps, rtol=0.02)
    rounded = codes * scales[:, None, None, None]
    assert (np.abs(rounded - original) <= 0.51 * scales[:, None, None, None]).all()


def test_int8_of_a_vit(transformer, vit, tmp_path):
    model, ranges, x = transformer
    quantised = precision.to_int8(model, ranges.extremes)
    path = saved(quantised, tmp_path / "a.onnx")
    assert types(quantised).count("DequantizeLinear") >= 16  # of 8 weights and their inputs
    made = {name: node for node in quantised.graph.node for name in node.output}
    for node in quantisable(model):
        [same] = [one for one in quantised.graph.node if one.name == node.name]
        assert {made[name].op_type for name in same.input} == {"DequantizeLinear"}
        assert list(same.output) == list(node.output)  # results are not rounded
    one, other = run(vit.path, x), run(path, x)
    assert np.abs(one["score"] - other["score"]).max() < 0.01


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_blocks_left_in_float32(kind, request, tmp_path):
    model, ranges, x = request.getfixturevalue(kind)
    every = list(blocks(model))
    plain = precision.to_int8(model, ranges.extremes, float_blocks=every)
    assert "QuantizeLinear" not in types(plain)
    plain_scores = run(saved(plain, tmp_path / "a.onnx"), x)["score"]
    float_scores = run(saved(model, tmp_path / "b.onnx"), x)["score"]
    np.testing.assert_array_equal(plain_scores, float_scores)
    counts = [
        types(precision.to_int8(model, ranges.extremes, float_blocks=left)).count("QuantizeLinear")
        for left in (every, every[1:], [])
    ]
    assert counts[0] < counts[1] < counts[2]


def test_dynamic_ranges(transformer, vit, tmp_path):
    model, _, x = transformer
    quantised = precision.to_int8_dynamic(model)
    assert types(quantised).count("MatMulInteger") == len(quantisable(model)) == 8
    one, other = run(vit.path, x), run(saved(quantised, tmp_path / "a.onnx"), x)
    assert np.abs(one["score"] - other["score"]).max() < 0.01


def test_what_callers_may_replace_stays(transformer, masked):
    model, ranges, _ = transformer
    for changed in (precision.to_int8(model, ranges.extremes), precision.to_int8_dynamic(model)):
        assert [v.name for v in changed.graph.input] == [v.name for v in model.graph.input]
        assert [v.name for v in changed.graph.output] == [v.name for v in model.graph.output]
        kept = {tensor.name for tensor in changed.graph.initializer}
        assert {"calibration_slope", "policy_threshold", "conformal_scores"} <= kept
        assert changed.metadata_props == model.metadata_props
        assert {node.op_type for node in quantisable(model)} <= set(PRODUCTS)


@pytest.mark.parametrize(
    ("flags", "bits"),
    [({"avx2": True}, (7,)), ({"avx512_vnni": True}, (7, 8)), ({"avx_vnni": True}, (7, 8))],
)
def test_8_bit_weights_only_with_vnni(monkeypatch, flags, bits):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: flags)
    assert precision.weight_bits() == bits
