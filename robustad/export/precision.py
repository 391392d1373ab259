"""Backbones of exported files in int8; everything behind them stays float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from robustad.errors import InputError
from robustad.export.backbone import PRODUCTS, backbone_nodes, blocks, finished, quantisable
from robustad.runtime._header import read_header
from robustad.runtime._metadata import INPUT
from robustad.runtime._onnxruntime import open_onnxruntime

# Behind a convolution these take and give 8 bits, which spares rounding to float32 and back.
BETWEEN = ("Relu", "Clip", "MaxPool")
# Share of a tensor's values at either end that clipped ranges give up.
TAIL = 1e-5
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
        session = open_onnxruntime(path, read_header(path), ["cpu"], threads)
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
    rounded_results: bool = True,
) -> onnx.ModelProto:
    """Quantise a backbone with fixed ranges.

    Activations take 8 bits a tensor, weights 8 bits an output channel; pairs of QuantizeLinear and
    DequantizeLinear say so, which each engine fuses with its own integer kernels. Results of matrix
    products and sums of residual branches stay float32.

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
    rounded_results : bool, default True
        Round a convolution's result to 8 bits even where it is read in float32, by a sum for
        instance. onnxruntime computes no convolution in integers otherwise; OpenVINO does.

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
        chosen |= {node.name for node in _between(model)}
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
    quantised = quantiser.model
    _read_unrounded(quantised.model, model, chosen, results=not rounded_results)
    quantised.topological_sort()  # it appends its nodes
    return finished(quantised.model, model)


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
    quantiser.model.topological_sort()  # it appends its nodes
    return finished(quantiser.model.model, model)


def _between(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Activations and poolings that follow a convolution, directly or behind another.

    Sums of residual branches are no part of them, nor what follows these: rounded once more in
    every block, they would lose twice as much of the score, for a few percent of the time.
    """
    rounded = {node.output[0] for node in backbone_nodes(model) if node.op_type == "Conv"}
    found = []
    for node in backbone_nodes(model):
        if node.op_type in BETWEEN and node.input[0] in rounded:
            rounded.add(node.output[0])
            found.append(node)
    return found


def _read_unrounded(
    quantised: onnx.ModelProto, original: onnx.ModelProto, chosen: Set[str], *, results: bool
) -> None:
    """Let nodes left in float32 read what was computed, not what it is rounded to for others.

    With `results` those of quantised nodes too, except activations that rounding made needless and
    the tool has removed.
    """
    inputs = {node.name: node.input for node in original.graph.node if node.name not in chosen}
    made = {name: node.name for node in original.graph.node for name in node.output}
    made_now = {name: node.name for node in quantised.graph.node for name in node.output}
    for node in quantised.graph.node:
        for place, name in enumerate(inputs.get(node.name, ())):
            there = made.get(name) == made_now.get(name)
            if there and (results or made.get(name) not in chosen):
                node.input[place] = name


def _measured(model: onnx.ModelProto) -> set[str]:
    """Names of the tensors whose ranges `to_int8` may need."""
    weights = {tensor.name for tensor in model.graph.initializer}
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    nodes = quantisable(model)
    if any(node.op_type == "Conv" for node in nodes):
        nodes = nodes + _between(model)
    names = {name for node in nodes for name in (*node.input, *node.output)}
    return {name for name in names - weights if types.get(name) == TensorProto.FLOAT}


def _wider(one: Range | None, other: Range) -> Range:
    return other if one is None else (min(one[0], other[0]), max(one[1], other[1]))


def _without_tails(value: npt.NDArray[np.float32]) -> Range:
    count = int(TAIL * value.size)
    ordered = np.partition(value, (count, value.size - 1 - count), axis=None)
    return float(ordered[count]), float(ordered[-1 - count])


def weight_bits() -> tuple[Literal[7, 8], ...]:
    """Bits of int8 weights to try here, portable ones first."""
    import torch

    found = torch.cpu.get_capabilities()
    return (7, 8) if found.get("avx512_vnni") or found.get("avx_vnni") else (7,)
