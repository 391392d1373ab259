"""ONNX translation of the products that search int8 banks."""

from collections.abc import Callable
from typing import Any

from onnx import TensorProto, helper
from onnxscript import opset18

from robustad.export.banks import ZERO, integer_products

op: Any = opset18


def products(rows: Any, codes: Any) -> Any:
    """Integer products of bytes about 128 with codes."""
    zero = op.Constant(value=helper.make_tensor("zero", TensorProto.UINT8, [], [ZERO]))
    return op.MatMulInteger(rows, codes, zero)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    integer_products._opoverload: products,
}
