"""ONNX translations of the attention degree's operators.

ONNX has no loop that would pay here: the N x N matrix is formed.
"""

from collections.abc import Callable
from typing import Any

from onnxscript import opset18

from robustad.ops import _attention_degree_autograd as operators

op: Any = opset18  # its methods' types admit less than it does
FLOAT = 1  # ONNX's number for float32
LARGE = 2**62


def _float(x: Any) -> Any:
    return op.Cast(x, to=FLOAT)


def _scores(q: Any, k: Any, prefix: int, scale: float) -> Any:
    q, k = _float(q), _float(k)
    if prefix:
        bounds = ([prefix], [LARGE], [2])
        q, k = (op.Slice(x, *(op.Constant(value_ints=at) for at in bounds)) for x in (q, k))
    products = op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2]))
    return op.Mul(products, op.Constant(value_float=scale))


def _last() -> Any:
    return op.Constant(value_ints=[-1])


def _log_sum_exp(scores: Any) -> Any:
    top = op.ReduceMax(scores, _last(), keepdims=1)
    total = op.ReduceSum(op.Exp(op.Sub(scores, top)), _last(), keepdims=1)
    return op.Squeeze(op.Add(top, op.Log(total)), _last())


def _count(weights: Any, delta: float, tau: float | None) -> tuple[Any, Any]:
    """Degree, and the moment that only a gradient would need."""
    threshold = op.Constant(value_float=delta)
    if tau is None:
        counted = _float(op.GreaterOrEqual(weights, threshold))
        return op.ReduceSum(counted, _last(), keepdims=0), op.ConstantOfShape(
            op.Constant(value_ints=[0])
        )
    ratio = op.Div(op.Sub(weights, threshold), op.Constant(value_float=tau))
    soft = op.Sigmoid(ratio)
    slope = op.Mul(soft, op.Sub(op.Constant(value_float=1.0), soft))
    moment = op.ReduceSum(op.Mul(weights, slope), _last(), keepdims=0)
    return op.ReduceSum(soft, _last(), keepdims=0), moment


def attention_degree(
    q: Any, k: Any, delta: float, tau: float | None, prefix_tokens: int, scale: float
) -> tuple[Any, ...]:
    """Degree, log-sum-exp and moment."""
    scores = _scores(q, k, prefix_tokens, scale)
    degree, moment = _count(op.Softmax(scores, axis=-1), delta, tau)
    return degree, _log_sum_exp(scores), moment


def attention_statistics(
    q: Any, k: Any, delta: float, tau: float | None, prefix_tokens: int, scale: float
) -> tuple[Any, ...]:
    """Degree, effective degree, entropy, log-sum-exp and moment."""
    scores = _scores(q, k, prefix_tokens, scale)
    weights = op.Softmax(scores, axis=-1)
    degree, moment = _count(weights, delta, tau)
    effective = op.Reciprocal(op.ReduceSumSquare(weights, _last(), keepdims=0))
    # from the largest score down: a difference of large sums would lose the digits
    shifted = op.Sub(scores, op.ReduceMax(scores, _last(), keepdims=1))
    mean = op.ReduceSum(op.Mul(weights, shifted), _last(), keepdims=0)
    entropy = op.Sub(_log_sum_exp(shifted), mean)
    return degree, effective, entropy, _log_sum_exp(scores), moment


def attention_with_degree(
    q: Any, k: Any, v: Any, delta: float, tau: float | None, prefix_tokens: int, scale: float
) -> tuple[Any, ...]:
    """Output, degree, log-sum-exp with and without the prefix, and moment."""
    scores = _scores(q, k, 0, scale)
    out = op.CastLike(op.MatMul(op.Softmax(scores, axis=-1), _float(v)), q)
    patches = scores
    if prefix_tokens:
        bounds = ([prefix_tokens] * 2, [LARGE] * 2, [2, 3])
        patches = op.Slice(scores, *(op.Constant(value_ints=at) for at in bounds))
    degree, moment = _count(op.Softmax(patches, axis=-1), delta, tau)
    return out, degree, _log_sum_exp(scores), _log_sum_exp(patches), moment


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    operators.attention_degree: attention_degree,
    operators.attention_statistics: attention_statistics,
    operators.attention_with_degree: attention_with_degree,
}
