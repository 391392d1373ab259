"""Which nodes belong to the backbone: read from real exported files of every kind."""

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

from robustad.detectors import BankEnsemble, PatchGuard
from robustad.export import export_onnx
from robustad.export.backbone import (
    backbone_nodes,
    block_of,
    blocks,
    finished,
    in_backbone,
    module_of,
    quantisable,
    read_model,
)
from robustad.networks import NetworkConfig


def types_of(nodes):
    return sorted({node.op_type for node in nodes})


def test_a_cnn(resnet):
    model = read_model(resnet.path)
    weighted = quantisable(model)
    # layers 2 and 3 are used, so that layer 4 is not there: 1 + 4 + 5 + 5 convolutions
    assert [node.op_type for node in weighted] == ["Conv"] * 15
    assert types_of(backbone_nodes(model)) == ["Add", "Conv", "MaxPool", "Relu"]
    found = blocks(model)
    assert [name.split("model.")[1] for name in found] == [
        "bn1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1",
    ]  # fmt: skip
    names = [name for members in found.values() for name in members]
    assert len(names) == len(set(names))
    assert {node.name for node in weighted} <= set(names)


def test_a_vit(vit):
    model = read_model(vit.path)
    assert [node.op_type for node in quantisable(model)] == ["MatMul"] * 8  # 4 a block
    assert [name.split("model.")[1] for name in blocks(model)] == ["blocks.0", "blocks.1"]


def test_the_search_and_what_is_behind_it_stay_out(resnet, vit, masked):
    searched = 0
    for path in (resnet.path, vit.path, masked.path):
        model = onnx.load(path)
        inside = {node.name for node in backbone_nodes(model)}
        for node in model.graph.node:
            if any("bank_0" in name for name in node.input):
                searched += 1
                assert node.name not in inside
                assert "neighbours" in module_of(node)
    assert searched == 3


def test_patchguard(tmp_path):
    small = NetworkConfig(image_size=56, depth=2, embed_dim=32, num_heads=2)
    model = read_model(export_onnx(PatchGuard(small), tmp_path / "a.onnx"))
    assert len(quantisable(model)) >= 8
    assert len(blocks(model)) >= 2


def test_every_view_of_an_ensemble(means, make_images, tmp_path, resnet):
    view = resnet.detector
    detector = BankEnsemble([view], banks=2).fit(make_images(2, 64, 80, seed=1))
    model = read_model(export_onnx(detector, tmp_path / "a.onnx"))
    assert len(quantisable(model)) == 15
    assert len(blocks(model)) == 7


@pytest.mark.parametrize(
    ("module", "inside", "block"),
    [
        ("patches.backbone.model.conv1", True, "patches.backbone.model.conv1"),
        ("patches.backbone.model.layer1.0.downsample.0", True, "patches.backbone.model.layer1.0"),
        ("patches.backbone.stages.1.blocks.2.mlp.fc1", True, "patches.backbone.stages.1.blocks.2"),
        ("patches.backbone.stages.1.downsample.0", True, "patches.backbone.stages.1"),
        ("patches.views.3.backbone.model.norm", True, "patches.views.3.backbone.model.norm"),
        (
            "patches.views.1.backbone.model.blocks.4",
            True,
            "patches.views.1.backbone.model.blocks.4",
        ),
        ("patches.detector.network.blocks.2.attn", True, "patches.detector.network.blocks.2"),
        ("patches.views.1.neighbours.0", False, None),
        ("patches.backbone", False, None),
        ("patches.detector", False, None),
        ("patches", False, None),
        ("", False, None),
    ],
)
def test_names(module, inside, block):
    assert in_backbone(module) is inside
    if block:
        assert block_of(module) == block


def test_large_tensors_stay_in_their_file(resnet, tmp_path):
    model = onnx.load(resnet.path)
    convert_model_to_external_data(model, location="big.onnx.data", size_threshold=0)
    onnx.save(model, tmp_path / "big.onnx")
    read = read_model(tmp_path / "big.onnx")
    outside = [t for t in read.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    inside = [t for t in read.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    assert any("bank" in tensor.name for tensor in outside)
    assert all(tensor.raw_data for tensor in inside if "weight" in tensor.name)
    weights = {name for node in quantisable(read) for name in node.input[1:]}
    assert weights <= {tensor.name for tensor in inside}


def test_finished_drops_what_is_not_used(resnet):
    original = onnx.load(resnet.path)
    model = onnx.load(resnet.path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "left"))
    model.metadata_props.add(key="onnx.infer", value="tool")
    model.producer_name = "tool"
    done = finished(model, original)
    assert "left" not in {tensor.name for tensor in done.graph.initializer}
    assert {t.name for t in done.graph.initializer} == {t.name for t in original.graph.initializer}
    assert done.metadata_props == original.metadata_props
    assert done.producer_name == "robustad"
