"""ONNX translation of `robustad::cosine_nn`: a matrix product and TopK."""

from collections.abc import Callable
from typing import Any


def translations() -> dict[Any, Callable[..., Any]]:
    """Translations of `cosine_nn` and of the packing of its bank.

    ONNX has no two-pass search, so the whole matrix of similarities is formed; the packed copy of
    the bank is left out. Lengths of queries are expected in 1e-12 .. 1e19.
    """
    from onnxscript import opset18

    from robustad.ops import _cosine_nn

    op: Any = opset18

    def pack(unit: Any) -> Any:
        empty = op.Constant(value_floats=[0.0])
        return empty, op.Identity(empty)

    def search(queries: Any, unit: Any, coarse: Any, error: Any, k: int) -> Any:
        squares = op.ReduceSum(op.Mul(queries, queries), op.Constant(value_ints=[1]), keepdims=1)
        length = op.Max(op.Sqrt(squares), op.Constant(value_float=1e-12))
        similarity = op.MatMul(op.Div(queries, length), op.Transpose(unit, perm=[1, 0]))
        nearest, rows = op.TopK(similarity, op.Constant(value_ints=[k]), axis=1)
        distances = op.Sub(op.Constant(value_float=1.0), nearest)
        low, high = op.Constant(value_float=0.0), op.Constant(value_float=2.0)
        return op.Clip(distances, low, high), rows

    return {_cosine_nn.pack: pack, _cosine_nn.search: search}
