"""Backbones of exported files in int8 or float16; everything behind them stays float32.

The bank's search, the foreground mask, maps and calibration are small beside the backbone, or too
delicate: a distance between neighbours is 1 - cosine, and loses what the cosine rounds. Which node
belongs to the backbone is read from the module it was traced in, see `robustad.export.trace`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from robustad.errors import InputError
from robustad.export.trace import MODULE
from robustad.runtime._metadata import INPUT
from robustad.runtime._session import open_session

WEIGHTED = ("Conv", "MatMul", "Gemm")
PRODUCTS = ("MatMul", "Gemm")
# Between convolutions these take and give 8 bits, which spares rounding to float32 and back.
BETWEEN = ("Relu", "Add", "MaxPool")
# Share of a tensor's values at either end that clipped ranges give up.
TAIL = 1e-4
# Operators that take float16 as they take float32. Others, sums of squares among them, stay.
HALF = frozenset(
    "Add AveragePool Clip Concat Conv Div Erf Expand Gather Gelu Gemm GlobalAveragePool HardSigmoid "
    "HardSwish Identity LayerNormalization LeakyRelu MatMul MaxPool Mul Pad PRelu Relu Reshape "
    "Sigmoid Slice Softmax Split Squeeze Sub Tanh Transpose Unsqueeze".split()
)

RangeKind: TypeAlias = Literal["extremes", "clipped"]
KINDS: tuple[RangeKind, ...] = ("extremes", "clipped")
Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest value of tensors over images.

    Attributes
    ----------
    extremes : dict of str to (float, float)
        Of all values.
    clipped : dict of str to (float, float)
        Without the share `TAIL` of an image's values at either end; the widest of all images.
    """

    extremes: dict[str, Range]
    clipped: dict[str, Range]


def read_model(path: str | Path) -> onnx.ModelProto:
    """Read an exported float32 file, types of all values inferred.

    Of tensors that lie in a `.data` file only the backbone's are read; the others stay there.
    """
    path = Path(path)
    model = onnx.load(path, load_external_data=False)
    used = {name for node in backbone(model) for name in node.input}
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


def backbone(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the backbone, in the graph's order."""
    return [node for node in model.graph.node if in_backbone(module_of(node))]


def blocks(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of the backbone's nodes by the block they are part of, in the graph's order.

    Only blocks with weights that `quantisable` names are given.
    """
    wanted = {node.name for node in quantisable(model)}
    found: dict[str, list[str]] = {}
    for node in backbone(model):
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
        for node in backbone(model)
        if node.op_type in WEIGHTED and weights.intersection(node.input[:2])
    ]
    products = [node for node in found if node.op_type in PRODUCTS]
    return products if 2 * len(products) > len(found) else found


def activation_ranges(
    model: onnx.ModelProto,
    images: Iterable[npt.NDArray[Any]],
    folder: Path,
    *,
    threads: int | None = None,
) -> Ranges:
    """Measure once what ranges the backbone's float32 tensors have.

    Parameters
    ----------
    model : ModelProto
        As `read_model` gives it.
    images : iterable of array
        Batches as the file takes them.
    folder : Path
        Where the file lies, and its `.data`; the model is written there for a while.
    threads : int, optional
        See `robustad.runtime.load`.

    Raises
    ------
    InputError
        If there are no images, or a tensor is not finite for one.
    """
    names = _measured(model)
    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    have = {value.name for value in model.graph.output}
    widened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names - have)
    path = folder / "ranges.onnx"
    onnx.save(widened, path)
    del widened
    extremes: dict[str, Range] = {}
    clipped: dict[str, Range] = {}
    ordered = sorted(names)
    try:
        session = open_session(path, ["cpu"], threads)
        for x in images:
            for name, value in zip(ordered, session.run(ordered, {INPUT: x}), strict=True):
                low, high = float(value.min()), float(value.max())
                if not np.isfinite([low, high]).all():
                    raise InputError(f"images: the tensor {name} of the detector is not finite")
                extremes[name] = _wider(extremes.get(name), (low, high))
                clipped[name] = _wider(clipped.get(name), _without_tails(value))
    finally:
        path.unlink()
    if not extremes:
        raise InputError("images: expected at least one image to measure ranges on, got none")
    return Ranges(extremes, clipped)


def to_int8(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    *,
    float_blocks: Sequence[str] = (),
    weight_bits: Literal[7, 8] = 7,
) -> onnx.ModelProto:
    """Quantise a backbone with fixed ranges.

    Activations take 8 bits a tensor, weights 8 bits an output channel; pairs of QuantizeLinear and
    DequantizeLinear say so, which each engine fuses with its own integer kernels. Results of
    convolutions take 8 bits too, those of matrix products stay float32.

    Parameters
    ----------
    model : ModelProto
        As `read_model` gives it; it is not changed.
    ranges : mapping of str to (float, float)
        One of those of `activation_ranges`.
    float_blocks : sequence of str, default ()
        Blocks (see `blocks`) to leave in float32.
    weight_bits : {7, 8}, default 7
        CPUs without VNNI add pairs of 8 x 8 bit products in 16 bits, which 8 bit weights overflow.

    Returns
    -------
    ModelProto
        The quantised model; the metadata are copied.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    chosen = {node.name for node in quantisable(model)}
    kinds = {node.op_type for node in quantisable(model)}
    if "Conv" in kinds:
        kinds |= set(BETWEEN)
        chosen |= {node.name for node in backbone(model) if node.op_type in BETWEEN}
    members = blocks(model)
    chosen -= {name for block in float_blocks for name in members[block]}
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    add_infer_metadata(copy)  # or it infers all shapes again
    quantiser = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=weight_bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[],
        nodes_to_exclude=[node.name for node in model.graph.node if node.name not in chosen],
        op_types_to_quantize=sorted(kinds),
        extra_options={"OpTypesToExcludeOutputQuantization": list(PRODUCTS)},
    )
    quantiser.quantize_model()
    return _finished(quantiser.model.model, model)


def to_int8_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise a backbone's matrix products with ranges that are measured in every run.

    The range is that of a whole batch, so that an image's score depends a little on its
    neighbours.

    Parameters
    ----------
    model : ModelProto
        As `read_model` gives it; it is not changed.
    """
    from onnxruntime.quantization import QuantizationMode, QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    chosen = {node.name for node in quantisable(model) if node.op_type in PRODUCTS}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    add_infer_metadata(copy)
    quantiser = ONNXQuantizer(
        copy,
        True,
        True,
        QuantizationMode.IntegerOps,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        None,
        [],
        [node.name for node in model.graph.node if node.name not in chosen],
        list(PRODUCTS),
        {"MatMulConstBOnly": True},
    )
    quantiser.quantize_model()
    return _finished(quantiser.model.model, model)


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
        for node in backbone(half)
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
    _drop(graph.value_info, made)
    return _finished(half, model)


def _measured(model: onnx.ModelProto) -> set[str]:
    """Names of the tensors whose ranges `to_int8` may need."""
    weights = {tensor.name for tensor in model.graph.initializer}
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    nodes = quantisable(model)
    if any(node.op_type == "Conv" for node in nodes):
        nodes = nodes + [node for node in backbone(model) if node.op_type in BETWEEN]
    names = {name for node in nodes for name in (*node.input, *node.output)}
    return {name for name in names - weights if types.get(name) == TensorProto.FLOAT}


def _wider(one: Range | None, other: Range) -> Range:
    return other if one is None else (min(one[0], other[0]), max(one[1], other[1]))


def _without_tails(value: npt.NDArray[np.float32]) -> Range:
    count = int(TAIL * value.size)
    ordered = np.partition(value, (count, value.size - 1 - count), axis=None)
    return float(ordered[count]), float(ordered[-1 - count])


def _finished(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Without what tools noted or left over; the original's metadata and producer."""
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    used = {name for node in model.graph.node for name in node.input}
    used |= {value.name for value in (*model.graph.input, *model.graph.output)}
    _drop(model.graph.initializer, {one.name for one in model.graph.initializer} - used)
    return model


def _drop(entries: Any, names: Set[str]) -> None:
    """Delete what has one of these names from a list of a message."""
    for place in reversed(range(len(entries))):
        if entries[place].name in names:
            del entries[place]
