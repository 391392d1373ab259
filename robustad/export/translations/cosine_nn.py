"""ONNX translation of `robustad::cosine_nn`: a matrix product and TopK.

ONNX has no two-pass search: the matrix of all similarities is formed, and the packed copy of the
bank is left out. Lengths of queries are expected in 1e-12 .. 1e19.
"""

from collections.abc import Callable
from typing import Any

from onnxscript import opset18

from robustad.ops import _cosine_nn

op: Any = opset18


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


TRANSLATIONS: dict[Any, Callable[..., Any]] = {_cosine_nn.pack: pack, _cosine_nn.search: cosine_nn}
