"""Backbones of exported files in float16."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from robustad.export.backbone import backbone_nodes, drop, finished

# Operators that take float16 as they take float32. Others, sums of squares among them, stay.
HALF = frozenset({
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Div", "Erf", "Expand", "Gather", "Gelu",
    "Gemm", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "LayerNormalization",
    "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "PRelu", "Relu", "Reshape", "Sigmoid", "Slice",
    "Softmax", "Split", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
})  # fmt: skip


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute a backbone in float16.

    Values are converted where they enter and leave it. onnxruntime's own converter would also take
    every value between float32 nodes through float16.

    Parameters
    ----------
    model : ModelProto
        As `read_model` gives it; it is not changed.

    Returns
    -------
    ModelProto
        The model; inputs and outputs are float32 as before.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kept = {value.name for value in graph.input}  # weights that callers may replace are none
    chosen = {
        node.name
        for node in backbone_nodes(half)
        if node.op_type in HALF and types.get(node.output[0]) == TensorProto.FLOAT
    }
    made = {name for node in graph.node if node.name in chosen for name in node.output}
    public = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    known: set[str] = set()  # values that have their twin

    def twin(name: str, to: int) -> str:
        """Name of the same value in the other precision, made where it is first needed."""
        other = f"{name}_half" if to == TensorProto.FLOAT16 else name
        if other in known:
            return other
        known.add(other)
        if to == TensorProto.FLOAT16 and name in weights and name not in kept:
            array = numpy_helper.to_array(weights[name])
            # a weight beyond float16 becomes infinite, and the parity gate refuses the file
            with np.errstate(over="ignore"):
                graph.initializer.append(
                    numpy_helper.from_array(array.astype(np.float16), name=other)
                )
            return other
        source = name if to == TensorProto.FLOAT16 else f"{name}_half"
        nodes.append(onnx.helper.make_node("Cast", [source], [other], name=f"cast_{other}", to=to))
        return other

    for node in graph.node:
        if node.name in chosen:
            for place, name in enumerate(node.input):
                if name in made:
                    node.input[place] = f"{name}_half"
                elif types.get(name) == TensorProto.FLOAT:
                    node.input[place] = twin(name, TensorProto.FLOAT16)
            nodes.append(node)
            for place, name in enumerate(node.output):
                node.output[place] = f"{name}_half" if name else ""
                if name in public:
                    twin(name, TensorProto.FLOAT)
        else:
            for name in node.input:
                if name in made:
                    twin(name, TensorProto.FLOAT)
            nodes.append(node)
    rebuilt = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(rebuilt)
    drop(graph.value_info, made)
    return finished(half, model)
