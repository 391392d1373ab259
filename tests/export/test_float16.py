import numpy as np
import onnx
import pytest
from onnx import TensorProto

from robustad import runtime
from robustad.export.backbone import quantisable, read_model
from robustad.export.float16 import to_float16


@pytest.fixture(params=["resnet", "vit"])
def exported(request):
    return request.getfixturevalue(request.param)


def run(path, x):
    return runtime.load(path, threads=1, integrity="skip").run(x)


def test_scores_are_near_and_smaller_files(exported, make_batch, tmp_path):
    model = to_float16(read_model(exported.path))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "half.onnx")
    x = make_batch(3, *(runtime.load(exported.path, threads=1).image_size or (70, 98)), seed=9)
    one, other = run(exported.path, x), run(tmp_path / "half.onnx", x)
    difference = np.abs(one["score"] - other["score"]).max()
    assert 0 < difference < 1e-3  # computed in float16, and right
    assert np.abs(one["patch_scores"] - other["patch_scores"]).max() < 5e-3
    weights = sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT16
    )
    saved = exported.path.stat().st_size - (tmp_path / "half.onnx").stat().st_size
    assert saved == pytest.approx(2 * weights, rel=0.02)


def test_products_are_half_and_the_rest_is_not(exported):
    model = onnx.shape_inference.infer_shapes(to_float16(read_model(exported.path)))
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    halves = {node.name for node in model.graph.node if types.get(node.output[0]) == 10}
    assert {node.name for node in quantisable(read_model(exported.path))} <= halves
    for node in model.graph.node:
        if any("bank" in name for name in node.input):
            assert types.get(node.output[0], TensorProto.FLOAT) == TensorProto.FLOAT
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type != TensorProto.FLOAT16


def test_the_model_given_is_not_changed(resnet):
    model = read_model(resnet.path)
    before = model.SerializeToString(deterministic=True)
    to_float16(model)
    assert model.SerializeToString(deterministic=True) == before


def test_weights_beyond_float16_become_infinite(resnet):
    """So that the gate refuses the file, in place of a number that is silently another."""
    model = read_model(resnet.path)
    name = quantisable(model)[0].input[1]
    [tensor] = [one for one in model.graph.initializer if one.name == name]
    scaled = onnx.numpy_helper.to_array(tensor) * np.float32(1e8)
    tensor.CopyFrom(onnx.numpy_helper.from_array(scaled, name))
    half = to_float16(model)
    [found] = [one for one in half.graph.initializer if one.name == f"{name}_half"]
    assert np.isinf(onnx.numpy_helper.to_array(found)).any()
