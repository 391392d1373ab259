"""ONNX translations of `robustad::cosine_nn`: a matrix product and TopK, or an operator of our own.

ONNX has no two-pass search: the matrix of all similarities is formed, and the packed copy of the
bank is left out. Lengths of queries are expected in 1e-12 .. 1e19. The operator is that search, for
engines that are given the library `robustad.runtime.custom_ops_library()`.
"""

from collections.abc import Callable
from typing import Any

from onnx import helper
from onnx.defs import OpSchema
from onnxscript import opset18
from onnxscript.values import Op, Opset

from robustad.ops import _cosine_nn
from robustad.runtime._custom_ops import DOMAIN, VERSION

op: Any = opset18
TYPES = [("F", ["tensor(float)"], "Numbers."), ("I", ["tensor(int64)"], "Rows.")]
COSINE_NEAREST = OpSchema(
    "CosineNearest",
    DOMAIN,
    VERSION,
    "Cosine distances from features (M, D) to the k nearest of the bank's unit vectors (N, D), "
    "ascending, and their rows.",
    inputs=[OpSchema.FormalParameter(name, "F") for name in ("features", "bank")],
    outputs=[
        OpSchema.FormalParameter("distances", "F"),
        OpSchema.FormalParameter(
            "indices", "I", param_option=OpSchema.FormalParameterOption.Optional
        ),
    ],
    type_constraints=TYPES,
    attributes=[OpSchema.Attribute("k", helper.make_attribute("k", 1), "Neighbours.")],
)
cosine_nearest_op: Any = Op(Opset(DOMAIN, VERSION), "CosineNearest", COSINE_NEAREST)


def pack(unit: Any) -> Any:
    """Stand in for the packing, whose result nothing reads."""
    empty = op.Constant(value_floats=[0.0])
    return empty, op.Identity(empty)


def cosine_nn(queries: Any, unit: Any, coarse: Any, side: Any, k: int) -> Any:
    """Distances and rows of the k nearest."""
    squares = op.ReduceSum(op.Mul(queries, queries), op.Constant(value_ints=[1]), keepdims=1)
    length = op.Max(op.Sqrt(squares), op.Constant(value_float=1e-12))
    similarity = op.MatMul(op.Div(queries, length), op.Transpose(unit, perm=[1, 0]))
    nearest, rows = op.TopK(similarity, op.Constant(value_ints=[k]), axis=1)
    distances = op.Sub(op.Constant(value_float=1.0), nearest)
    low, high = op.Constant(value_float=0.0), op.Constant(value_float=2.0)
    return op.Clip(distances, low, high), rows


def cosine_nearest(queries: Any, unit: Any, coarse: Any, side: Any, k: int) -> Any:
    """Distances and rows of the k nearest, by the operator."""
    return cosine_nearest_op(queries, unit, k=k)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {_cosine_nn.pack: pack, _cosine_nn.search: cosine_nn}
CUSTOM = {**TRANSLATIONS, _cosine_nn.search: cosine_nearest}
