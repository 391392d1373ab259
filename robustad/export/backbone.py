"""Which nodes of an exported file belong to the network in front of the patch scores.

It is read from the module a node was traced in, see `robustad.export.trace`. Everything behind it,
the bank's search, the foreground mask, maps and calibration, is small beside it or too delicate for
fewer bits: a distance between neighbours is 1 - cosine, and loses what the cosine rounds.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from robustad.export.trace import MODULE

WEIGHTED = ("Conv", "MatMul", "Gemm")
PRODUCTS = ("MatMul", "Gemm")


def read_model(path: str | Path) -> onnx.ModelProto:
    """Read an exported float32 file, types of all values inferred.

    Of tensors that lie in a `.data` file only the backbone's are read; the others stay there.
    """
    path = Path(path)
    model = onnx.load(path, load_external_data=False)
    used = {name for node in backbone_nodes(model) for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in used and uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return onnx.shape_inference.infer_shapes(model)


def module_of(node: onnx.NodeProto) -> str:
    """Path of the module a node was traced in; empty if it was in none."""
    return next((prop.value for prop in node.metadata_props if prop.key == MODULE), "")


def in_backbone(module: str) -> bool:
    """Whether a module belongs to the network in front of the patch scores.

    Examples
    --------
    >>> in_backbone("patches.backbone.model.blocks.0.mlp"), in_backbone("patches.neighbours.0")
    (True, False)
    """
    parts = module.split(".")
    if "neighbours" in parts:
        return False
    return "backbone" in parts[:-1] or (parts[:2] == ["patches", "detector"] and len(parts) > 3)


def backbone_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the backbone, in the graph's order."""
    return [node for node in model.graph.node if in_backbone(module_of(node))]


def blocks(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of the backbone's nodes by the block they are part of, in the graph's order.

    Only blocks with weights that `quantisable` names are given.
    """
    wanted = {node.name for node in quantisable(model)}
    found: dict[str, list[str]] = {}
    for node in backbone_nodes(model):
        found.setdefault(block_of(module_of(node)), []).append(node.name)
    return {block: names for block, names in found.items() if wanted.intersection(names)}


def block_of(module: str) -> str:
    """The block of a network that a module is part of.

    Examples
    --------
    >>> block_of("patches.backbone.model.blocks.3.attn.qkv")
    'patches.backbone.model.blocks.3'
    >>> block_of("patches.backbone.model.stages.2.blocks.5.mlp")
    'patches.backbone.model.stages.2.blocks.5'
    """
    parts = module.split(".")
    start = parts.index("backbone") if "backbone" in parts else 2
    places = [i for i in range(start, len(parts)) if parts[i].isdigit()]
    if not places:
        return module
    end = places[0]
    if parts[end + 1 : end + 2] == ["blocks"] and end + 2 in places:
        end += 2
    return ".".join(parts[: end + 1])


def quantisable(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The backbone's products with weights: convolutions of a CNN, matrix products of a ViT.

    A network of mostly matrix products keeps its few convolutions, the patch embedding among them,
    in float32: they are cheap, or depthwise and no faster in int8.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    found = [
        node
        for node in backbone_nodes(model)
        if node.op_type in WEIGHTED and weights.intersection(node.input[:2])
    ]
    products = [node for node in found if node.op_type in PRODUCTS]
    return products if 2 * len(products) > len(found) else found


def finished(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Without what tools noted or left over; the original's metadata and producer."""
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    used = {name for node in model.graph.node for name in node.input}
    used |= {value.name for value in (*model.graph.input, *model.graph.output)}
    drop(model.graph.initializer, {one.name for one in model.graph.initializer} - used)
    return model


def drop(entries: Any, names: Set[str]) -> None:
    """Delete what has one of these names from a list of a message."""
    for place in reversed(range(len(entries))):
        if entries[place].name in names:
            del entries[place]
