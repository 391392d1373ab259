"""From a detector to an ONNX model in memory."""

from __future__ import annotations

import ast
import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from onnxscript import ir
from torch import Tensor, nn

from robustad.detectors import Detector
from robustad.errors import InputError
from robustad.export.banks import BankPrecision, use_bank
from robustad.export.calibration import ISOTONIC
from robustad.export.custom_ops import use_custom_ops
from robustad.export.graph import DetectorGraph
from robustad.export.translations import translation_table
from robustad.geometry import Geometry
from robustad.runtime._metadata import ANOMALOUS, CONFORMAL, INPUT, OPTIONAL_OUTPUTS, OUTPUTS

# Where torch's exporter notes the modules around a node, outermost first, and where we keep one.
SCOPES, MODULE = "pkg.torch.onnx.name_scopes", "robustad_module"
# Units (of `multiple` pixels) an edge may have. Tracing treats sizes 0 and 1 as special.
MIN_UNITS, MAX_UNITS = 2, 4096
MIN_KNOTS = 2
# Size of the traced image where the size is dynamic: unequal edges, and no size that a backbone
# was trained at, so that nothing is taken for a constant.
TRACED_UNITS = (5, 7)


def trace(
    detector: Detector,
    size: tuple[int, int],
    *,
    dynamic: bool | None,
    opset: int,
    custom_ops: bool = False,
    bank: BankPrecision = "float32",
) -> tuple[ir.Model, bool]:
    """Trace a detector into an ONNX model.

    Parameters
    ----------
    detector : Detector
        Fitted; it comes back unchanged.
    size : (int, int)
        Height and width in pixels of a model of one size.
    dynamic : bool or None
        Whether height and width stay free; None leaves them free where tracing allows it.
    opset : int
        Version of ONNX's operators.
    custom_ops : bool, default False
        Use robustad's own operators where there are any.
    bank : {"float32", "bfloat16", "int8"}, default "float32"
        Precision of stored memory banks.

    Returns
    -------
    model : onnx_ir.Model
        The inputs of its calibration and of its held-out scores have defaults.
    dynamic : bool
        Whether height and width stayed free.

    Raises
    ------
    InputError
        If the detector is not float32, or `dynamic` is True and cannot be had.
    NotFittedError
        If the detector is not fitted.
    """
    if detector.device.type != "cpu":
        detector = copy.deepcopy(detector).cpu()
    for name, tensor in (*detector.named_parameters(), *detector.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise InputError(f"detector: expected float32 to export, but {name} is {tensor.dtype}")
    with torch.no_grad(), evaluation_mode(detector), plain_attention(detector), no_collection():
        graph = DetectorGraph(detector).eval()
        use_bank(graph, bank)
        if custom_ops:
            use_custom_ops(graph)
        if dynamic is not False:
            try:
                return _trace(graph, _free_size(detector.geometry), opset, custom_ops), True
            except Exception as error:  # whatever a backbone does to a symbolic size
                if dynamic:
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    raise InputError(
                        "dynamic_size: this detector cannot be traced with a free height and "
                        f"width ({reason}); export with dynamic_size=False"
                    ) from error
        return _trace(graph, _Size(*size, axes={}), opset, custom_ops), False


@dataclass(frozen=True)
class _Size:
    """Size of the traced image, which of its axes stay free, and sizes that will be met."""

    height: int
    width: int
    axes: dict[int, Any]
    usual: tuple[tuple[int, int], ...] = ()


def _free_size(geometry: Geometry) -> _Size:
    multiple = geometry.multiple
    axes = {}
    for axis, name in ((2, "rows"), (3, "columns")):
        units = torch.export.Dim(name, min=MIN_UNITS, max=MAX_UNITS)
        axes[axis] = multiple * units if multiple > 1 else units
    height, width = (multiple * units for units in TRACED_UNITS)
    edge = max(TRACED_UNITS[0], geometry.size // multiple) * multiple
    usual = ((edge, edge), (edge, edge + multiple), (edge, 2 * edge), (2 * edge, edge))
    return _Size(height, width, axes, usual)


def _trace(graph: DetectorGraph, size: _Size, opset: int, custom_ops: bool) -> ir.Model:
    axes = {0: torch.export.Dim("batch", min=1), **size.axes}
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, 3, size.height, size.width, generator=generator)
    numbers = {name: torch.from_numpy(value) for name, value in graph.defaults.items()}
    numbers |= {name: torch.zeros(3) for name in (CONFORMAL, ANOMALOUS)}  # tracing: 1 is special
    arguments = (example, *numbers.values())
    # Another isotonic curve may have another number of knots, another line other normal images.
    free = dict.fromkeys(ISOTONIC, torch.export.Dim("knots", min=MIN_KNOTS))
    free[CONFORMAL] = torch.export.Dim("normals", min=1)
    free[ANOMALOUS] = torch.export.Dim("anomalies", min=1)
    lengths = tuple({0: free[name]} if name in free else None for name in numbers)
    exported = torch.export.export(graph, arguments, dynamic_shapes=(axes, lengths), strict=False)
    if size.axes:
        _check_free(exported, arguments, size.usual)
    program = torch.onnx.export(
        exported,
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=[INPUT, *numbers],
        output_names=[*OUTPUTS, *(OPTIONAL_OUTPUTS if graph.has_pixels else ())],
        dynamic_shapes=(axes, *lengths),  # here one an input
        custom_translation_table=translation_table(custom_ops=custom_ops),
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model
    _forget_sources(model)
    for value in model.graph.inputs:
        if value.name in graph.defaults:
            # An initialiser that is an input as well is a default, which callers may override.
            value.const_value = ir.tensor(graph.defaults[value.name], name=value.name)
            model.graph.register_initializer(value)
        elif value.shape is not None:
            edges = ("height", "width") if size.axes else (size.height, size.width)
            value.shape = ir.Shape(["batch", 3, *edges])
    return model


def _check_free(
    exported: torch.export.ExportedProgram,
    arguments: tuple[Tensor, ...],
    sizes: tuple[tuple[int, int], ...],
) -> None:
    """Raise unless the traced program is valid for these sizes too.

    A branch on the size is traced one way only. torch keeps the condition as a guard, ONNX does
    not: the file would run, and be wrong. Guards are checked without computing anything.
    """
    guards = getattr(exported.module(), "_guards_fn", None)
    if guards is None:
        return
    for batch in (1, 8):
        for height, width in sizes:
            image = arguments[0].new_zeros(1, 1, 1, 1).expand(batch, 3, height, width)
            guards(image, *arguments[1:])  # an AssertionError if one fails


def _forget_sources(model: ir.Model) -> None:
    """Drop the stack traces kept with every node: this machine's paths are nobody's business.

    Which module a node belongs to stays: precisions are chosen by it.
    """
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            module = _module_of(node)
            node.metadata_props.clear()
            if module:
                node.metadata_props[MODULE] = module
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _module_of(node: ir.Node) -> str:
    """Path of the innermost module a node was traced in; empty if it is in none, or unknown."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (SyntaxError, ValueError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation for a while."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause the garbage collector: tracing makes millions of small objects that it would rescan."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def plain_attention(module: nn.Module) -> Iterator[None]:
    """Have timm's attention written out for a while: it gives a simpler graph than the fused one.

    timm's own switch, `set_fused_attn`, is read only when a model is built.
    """
    fused = [part for part in module.modules() if getattr(part, "fused_attn", False)]
    for part in fused:
        part.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in fused:
            part.fused_attn = True  # type: ignore[assignment]
