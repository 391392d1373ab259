"""A graph of prepared images made one of uint8 images of any size: resize, crop and restore inside.

The same formulas as `robustad.geometry`, in float64 where that uses float64. Resizing is matrix
products, a band of rows and then of columns at a time, with weights computed in the graph: engines'
own `Resize` operators differ from each other and from Pillow by more than verification allows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from onnxscript import ir

from robustad.geometry import Geometry
from robustad.runtime._metadata import INPUT

MAP, PIXELS = "anomaly_map", "probability_map"
RADIUS = {"bicubic": 2.0, "bilinear": 1.0}
BAND = 16  # rows a matrix product


def take_bytes(model: ir.Model, geometry: Geometry) -> None:
    """Change a traced model, in place.

    Parameters
    ----------
    model : onnx_ir.Model
        Its input `image` (B, 3, h, w), float32 in [0, 1], becomes (B, H, W, 3), uint8, of any size;
        `anomaly_map` and `probability_map` become (B, H, W).
    geometry : Geometry
        How images are resized and cropped.
    """
    graph = model.graph
    old = graph.inputs[0]
    batch = ["batch"]
    image = _value(INPUT, ir.DataType.UINT8, [*batch, "height", "width", 3])
    op = _Operators()
    shape = op.Shape(image)
    height, width = (op.Gather(shape, op.scalar(axis), axis=0) for axis in (1, 2))
    resized = _resized(op, geometry, height, width)
    rows = _crop(op, geometry, height, resized[0])
    columns = _crop(op, geometry, width, resized[1])
    prepared = _prepare(op, image, rows, columns)
    fixed = [size for size in _edges(old) if isinstance(size, int)]
    edges = fixed if len(fixed) == 2 else ["prepared_height", "prepared_width"]
    prepared.shape, prepared.dtype = ir.Shape([*batch, 3, *edges]), ir.DataType.FLOAT
    prepared.name, old.name = "prepared", "traced_image"
    ir.convenience.replace_all_uses_with(old, prepared)
    graph.inputs[0] = image
    graph.insert_before(graph[0], op.nodes)
    op = _Operators()
    [place] = [i for i, value in enumerate(graph.outputs) if value.name == MAP]
    small = graph.outputs[place]
    restored = _restore(op, small, rows, columns)
    _replace(graph, place, restored)
    for place, value in enumerate(graph.outputs):
        if value.name == PIXELS:
            numbers = {value.name: value for value in graph.inputs}
            line = op.Mul(numbers["pixel_slope"], restored)
            _replace(graph, place, op.Sigmoid(op.Add(line, numbers["pixel_intercept"])))
    graph.extend(op.nodes)
    _drop_unused(graph)


class _Axis(NamedTuple):
    """One edge of an image: lengths before and after resizing, and what of that is kept."""

    size: ir.Value
    resized: ir.Value
    start: ir.Value
    kept: ir.Value


class _Operators:
    """Calls that add a node each; numbers become constants, float64 or int64."""

    def __init__(self) -> None:
        self._tape = ir.tape.Tape()

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        return tuple(self._tape.nodes)

    def __getattr__(self, kind: str) -> Callable[..., ir.Value]:
        def call(*inputs: ir.Value | float | list[int], **attributes: Any) -> ir.Value:
            values = [one if isinstance(one, ir.Value) else self.constant(one) for one in inputs]
            return self._tape.op(kind, values, attributes)

        return call

    def constant(self, number: float | list[int]) -> ir.Value:
        array = np.asarray(number)
        array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
        return self._tape.op("Constant", [], {"value": ir.tensor(array)})

    def scalar(self, number: float) -> ir.Value:
        return self.constant(number)

    def double(self, value: ir.Value) -> ir.Value:
        return self._tape.op("Cast", [value], {"to": int(ir.DataType.DOUBLE)})

    def float(self, value: ir.Value) -> ir.Value:
        return self._tape.op("Cast", [value], {"to": int(ir.DataType.FLOAT)})

    def integer(self, value: ir.Value) -> ir.Value:
        return self._tape.op("Cast", [value], {"to": int(ir.DataType.INT64)})


def _resized(
    op: _Operators, geometry: Geometry, height: ir.Value, width: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """As `Geometry.resized`; ONNX rounds halves to even, as Python does."""
    size = op.scalar(geometry.size)
    if geometry.square:
        return size, size
    scale = op.Div(float(geometry.size), op.double(op.Min(height, width)))
    edges = (op.integer(op.Round(op.Mul(op.double(edge), scale))) for edge in (height, width))
    resized_h, resized_w = (op.Max(size, edge) for edge in edges)
    return resized_h, resized_w


def _crop(op: _Operators, geometry: Geometry, size: ir.Value, resized: ir.Value) -> _Axis:
    """As `Geometry.crop`."""
    margin = op.Mod(resized, geometry.multiple)
    return _Axis(size, resized, op.Div(margin, 2), op.Sub(resized, margin))


def _prepare(op: _Operators, image: ir.Value, rows: _Axis, columns: _Axis) -> ir.Value:
    """As `Geometry.apply`: (B, H, W, 3) in 0..255 to (B, 3, h, w) in [0, 1]."""
    flat = op.Reshape(image, [0, 0, -1])  # (B, H, 3 W)
    bands = _bands(op, rows.size, rows.resized, rows.start, rows.kept, "bicubic")
    # Matrices are transposed, never colours: engines are several times faster at that.
    turned = op.Transpose(_resample(op, flat, bands), perm=[0, 2, 1])  # (B, 3 W, h)
    turned = op.Reshape(turned, _sizes(op, 0, columns.size, -1))  # (B, W, 3 h)
    bands = _bands(op, columns.size, columns.resized, columns.start, columns.kept, "bicubic")
    planes = op.Transpose(_resample(op, turned, bands), perm=[0, 2, 1])  # (B, 3 h, w)
    planes = op.Reshape(planes, _sizes(op, 0, 3, rows.kept, columns.kept))
    out = op.Div(planes, op.float(op.scalar(255.0)))
    return op.Clip(out, op.float(op.scalar(0.0)), op.float(op.scalar(1.0)))


def _restore(op: _Operators, small: ir.Value, rows: _Axis, columns: _Axis) -> ir.Value:
    """As `Geometry.restore`: (B, h, w) to (B, H, W); margins repeat the edge."""
    whole = small
    for edge in (rows, columns):
        bands = _bands(op, edge.resized, edge.size, op.scalar(0), edge.size, "bilinear")
        place = op.Max(op.Sub(bands.places, edge.start), 0)
        near = op.Min(place, op.Sub(edge.kept, 1))
        whole = op.Transpose(_resample(op, whole, bands._replace(places=near)), perm=[0, 2, 1])
    return whole


class _Bands(NamedTuple):
    """How rows follow from others, `BAND` of them from `reach` neighbours; how many are kept."""

    places: ir.Value  # (bands, reach), int64
    weights: ir.Value  # (bands, BAND, reach), float32
    kept: ir.Value  # (), int64


def _bands(
    op: _Operators, size: ir.Value, out: ir.Value, start: ir.Value, count: ir.Value, kernel: str
) -> _Bands:
    """Rows of an edge of `size` resized to `out`, from `start` on, `count` of them.

    The weights are those of the taps in `robustad.geometry`. A matrix of all rows would be nearly
    empty; one of each band is small and, but for its corners, full. The last band repeats the last
    row; where the rows that a band needs are fewer, or end at the edge, others have the weight 0.
    """
    scale = op.Div(op.double(size), op.double(out))
    support = op.Max(scale, 1.0)
    radius = op.Mul(RADIUS[kernel], support)
    padded = op.Mul(op.Div(op.Add(count, BAND - 1), BAND), BAND)
    row = op.Add(start, op.Min(op.Range(0, padded, 1), op.Sub(count, 1)))
    row = op.double(op.Reshape(row, [-1, BAND, 1]))
    centre = op.Mul(op.Add(row, 0.5), scale)
    low = op.Floor(op.Add(op.Sub(centre, radius), 0.5))
    high = op.Floor(op.Add(op.Add(centre, radius), 0.5))
    first = op.integer(op.Max(low, 0.0))
    last = op.integer(op.Min(high, op.double(size)))
    begin, end = op.ReduceMin(first, [1], keepdims=1), op.ReduceMax(last, [1], keepdims=1)
    reach = op.ReduceMax(op.Sub(end, begin), keepdims=0)
    begin = op.Min(begin, op.Sub(size, reach))
    index = op.Add(begin, op.Range(0, reach, 1))  # (bands, 1, reach)
    d = op.Abs(op.Div(op.Sub(op.Add(op.double(index), 0.5), centre), support))
    inside = op.And(op.GreaterOrEqual(index, first), op.Less(index, last))
    weight = op.Where(inside, _KERNELS[kernel](op, d), 0.0)
    weight = op.Div(weight, op.ReduceSum(weight, [2], keepdims=1))
    return _Bands(op.Squeeze(index, [1]), op.float(weight), count)


def _resample(op: _Operators, rows: ir.Value, bands: _Bands) -> ir.Value:
    """Rows (B, n, M) of any type to (B, count, M), float32."""
    near = op.float(op.Gather(rows, bands.places, axis=1))  # (B, bands, reach, M)
    banded = op.MatMul(bands.weights, near)
    columns = op.Gather(op.Shape(rows), op.scalar(2), axis=0)
    together = op.Reshape(banded, _sizes(op, 0, -1, columns))
    return op.Slice(together, [0], op.Reshape(bands.kept, [1]), [1])


def _sizes(op: _Operators, *sizes: ir.Value | int) -> ir.Value:
    return op.Concat(*(op.Reshape(size, [1]) for size in sizes), axis=0)


def _bicubic(op: _Operators, d: ir.Value) -> ir.Value:
    a = -0.5
    near = op.Sub(op.Mul(a + 2, d), a + 3)
    near = op.Add(op.Mul(op.Mul(near, d), d), 1.0)
    far = op.Add(op.Mul(op.Sub(d, 5.0), d), 8.0)
    far = op.Mul(op.Sub(op.Mul(far, d), 4.0), a)
    return op.Where(op.Less(d, 1.0), near, op.Where(op.Less(d, 2.0), far, 0.0))


def _bilinear(op: _Operators, d: ir.Value) -> ir.Value:
    return op.Max(op.Sub(1.0, d), 0.0)


_KERNELS = {"bicubic": _bicubic, "bilinear": _bilinear}


def _value(name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _edges(value: ir.Value) -> list[Any]:
    assert value.shape is not None
    return list(value.shape)[2:]


def _replace(graph: ir.Graph, place: int, value: ir.Value) -> None:
    """Give an output's name and place to another value, a map of the original size."""
    old = graph.outputs[place]
    value.name, old.name = old.name, f"prepared_{old.name}"
    value.shape, value.dtype = ir.Shape(["batch", "height", "width"]), ir.DataType.FLOAT
    graph.outputs[place] = value


def _drop_unused(graph: ir.Graph) -> None:
    """Remove nodes that nothing uses any more, the last first."""
    kept = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(value.uses() or value in kept for value in node.outputs):
            graph.remove(node, safe=True)
