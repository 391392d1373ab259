"""`robustad::topk_mean` in ONNX: TopK, then a mean of what counts."""

from collections.abc import Callable
from typing import Any

from onnx import TensorProto, helper
from onnxscript import opset18

from robustad.ops.topk_mean import TOPK_MEAN

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
# Its type hints describe constants' types, not the graph's values that pass through here.
op: Any = opset18


def topk_mean(
    scores: Any, weights: Any | None, k: Any, fraction: float, shared: bool
) -> tuple[Any, Any]:
    """Translate a call of the operator, weighted or not; only its first result is of use in ONNX.

    TopK takes the lower column of equal scores, as `ties="first"` wants. Without weights the mean
    is the same for both ways to treat ties. NaN is not the largest value for all runtimes.

    Parameters
    ----------
    scores : tensor, (B, N)
        Scores, of a type that TopK takes: float32, float64 or float16.
    weights : tensor, (B, N), float32, or None
        Entries whose weight is not above 0 do not count.
    k : int or tensor of one int64
        How many count at most.
    fraction : float
        If above 0, this part of a row's valid entries counts instead, one at least.
    shared : bool
        Whether ties share.

    Returns
    -------
    tuple of two tensors
        Means (B,), and zeros in place of the operator's second result.
    """
    count = op.Reshape(k if not isinstance(k, int) else op.Constant(value_int=k), [1])
    if weights is None:
        values, _ = op.TopK(scores, count, axis=1)
        means = op.ReduceMean(op.Cast(values, to=FLOAT), [1], keepdims=0)
        return op.CastLike(means, scores), op.Constant(value_floats=[0.0])

    zero = op.Constant(value_float=0.0)
    wide = op.Cast(scores, to=FLOAT)
    valid = op.Greater(weights, zero)
    lowest = op.Constant(value_float=float("-inf"))
    falling, columns = op.TopK(op.Where(valid, wide, lowest), count, axis=1)
    present = op.ReduceSum(op.Cast(valid, to=INT64), [1], keepdims=1)
    wanted = count
    if fraction > 0:
        exact = op.Mul(op.Cast(present, to=DOUBLE), op.Constant(value=_double(fraction)))
        whole = op.Floor(op.Add(exact, op.Constant(value=_double(1e-9))))
        wanted = op.Max(op.Cast(whole, to=INT64), op.Constant(value_ints=[1]))
    wanted = op.Min(wanted, present)
    if shared:
        border = op.Max(op.Sub(wanted, op.Constant(value_ints=[1])), op.Constant(value_ints=[0]))
        threshold = op.GatherElements(falling, border, axis=1)
        above = op.And(valid, op.Greater(wide, threshold))
        tied = op.And(valid, op.Equal(wide, threshold))
        left = op.Sub(wanted, op.ReduceSum(op.Cast(above, to=INT64), [1], keepdims=1))
        ties = op.ReduceSum(op.Cast(tied, to=FLOAT), [1], keepdims=1)
        share = op.Div(op.Cast(left, to=FLOAT), ties)
        one = op.Constant(value_float=1.0)
        part = op.Mul(op.Where(above, one, op.Where(tied, share, zero)), weights)
        values = wide
    else:
        rank = op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))
        counts = op.Less(op.Unsqueeze(rank, [0]), wanted)
        part = op.Where(counts, op.GatherElements(weights, columns, axis=1), zero)
        values = falling
    # an infinite value that does not count would make 0 * inf
    product = op.Mul(part, op.Where(op.Greater(part, zero), values, zero))
    total = op.ReduceSum(part, [1], keepdims=0)
    means = op.Div(op.ReduceSum(product, [1], keepdims=0), total)
    return op.CastLike(means, scores), op.Constant(value_floats=[0.0])


def _double(value: float) -> Any:
    return helper.make_tensor("value", DOUBLE, [], [value])


TRANSLATIONS: dict[Any, Callable[..., Any]] = {TOPK_MEAN: topk_mean}
