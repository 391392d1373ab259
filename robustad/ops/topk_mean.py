"""Mean of the k largest scores: from patch scores to the image score."""

from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from robustad import _C
from robustad.errors import InputError
from robustad.ops._eager import is_plain, is_transformed
from robustad.ops._library import register
from robustad.ops.reference.topk_mean import resolve_k, select_torch, spread_torch

# As in csrc/topk_mean.h.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
STATE = 4
LARGEST = 2**31 - 1


def topk_mean(
    scores: Tensor,
    k: int | float,
    *,
    weights: Tensor | None = None,
    ties: Literal["first", "shared"] = "first",
) -> Tensor:
    """Mean of the k largest values of each row.

    Parameters
    ----------
    scores : Tensor, (B, N), floating point of 16 bits at least
        Patch scores.
    k : int or float
        A count in 1..N, or a fraction in (0, 1] of N, with `weights` of the row's valid entries:
        `max(1, int(k * N))` values, so that a fraction of less than one value becomes the maximum.
    weights : Tensor, (B, N) or (N,), bool or floating point, default all 1
        Entries whose weight is not above 0 (or False) are never selected, whatever their score.
        The others are selected by score alone, and their mean is weighted. A row with fewer than
        `k` valid entries uses all of them; one with none, or that selects one of infinite weight,
        has the mean NaN and a gradient of zero. Weights are taken in float32 and treated as
        constants: they get no gradient.
    ties : {"first", "shared"}, default "first"
        Which of the entries equal to the smallest selected value are selected when not all can be:
        those of the lowest columns, or each of them for an equal part. That decides where the
        gradient goes, and with `weights` the mean as well.

    Returns
    -------
    Tensor, (B,), dtype of `scores`
        The means, computed in float32 at least. The gradient goes to the selected entries, for
        each its weight over the sum of the selected weights: 1/k without weights.

    Raises
    ------
    InputError
        If `scores` is not a 2-D floating tensor with N >= 1, `k` is out of range, `weights` do not
        fit the scores, `ties` is unknown, or the environment variable ROBUSTAD_TOPK_MEAN names no
        path of this CPU (portable, avx2, avx512; by default the best it has).

    Notes
    -----
    `H_0.01` of the few-shot study (section 3.1) is `k=0.01`. NaN counts as the largest value, so a
    row with one has the mean NaN. Autocast leaves the dtype as it is. Results do not depend on the
    number of threads. The operator behind it is `torch.ops.robustad.topk_mean`; under `torch.func`
    transforms and forward-mode differentiation plain torch operations run in its place, which give
    derivatives of any kind and order. Not so in functions compiled with the transform inside: there
    reverse mode fails and forward mode gives tangents of zero.

    Examples
    --------
    >>> import torch
    >>> scores = torch.tensor([[1.0, 4.0, 2.0, 3.0]])
    >>> topk_mean(scores, k=2)
    tensor([3.5000])
    >>> foreground = torch.tensor([[True, False, True, True]])
    >>> topk_mean(scores, k=2, weights=foreground)
    tensor([2.5000])
    """
    shape = scores.shape
    # torch promotes no smaller ones
    known = scores.dtype in DTYPES or (scores.is_floating_point() and scores.dtype.itemsize >= 2)
    if not known or len(shape) != 2 or shape[1] < 1 or scores.layout is not torch.strided:
        raise InputError(
            "scores: expected a floating-point tensor (B, N) with N >= 1, got "
            f"{tuple(shape)} of {scores.dtype}"
            + ("" if scores.layout is torch.strided else f", {scores.layout}")
        )
    if ties != "first" and ties != "shared":
        raise InputError(f"ties: expected 'first' or 'shared', got {ties!r}")
    count = resolve_k(k, shape[1])
    fraction = 0.0
    if weights is not None:
        weights = _fitting(weights, scores)
        fraction = k if isinstance(k, float) else 0.0
    selection = (weights, count, fraction, ties == "shared")
    means: Tensor
    if is_transformed():
        means = select_torch(scores, *selection)[0]
    elif not is_plain(scores) or not (weights is None or is_plain(weights)):
        means = TOPK_MEAN(scores, *selection)[0]
    elif scores.requires_grad and torch.is_grad_enabled():
        means = _Eager.apply(scores, selection)
    else:
        means = _forward(scores, *selection, with_state=False)[0]
    return means


def _fitting(weights: Tensor, scores: Tensor) -> Tensor:
    """Weights as a (B, N) float32 constant."""
    kind = weights.dtype == torch.bool or weights.is_floating_point()
    kind = kind and weights.layout is torch.strided
    if not kind or tuple(weights.shape) not in (tuple(scores.shape), tuple(scores.shape[1:])):
        raise InputError(
            f"weights: expected a bool or floating-point tensor of shape {tuple(scores.shape)} or "
            f"{tuple(scores.shape[1:])}, got {tuple(weights.shape)} of {weights.dtype}"
            + ("" if weights.layout is torch.strided else f", {weights.layout}")
        )
    if weights.device != scores.device:
        raise InputError(
            f"weights: expected a tensor on {scores.device}, where the scores are, got one on "
            f"{weights.device}"
        )
    return weights.detach().to(torch.float32).expand(scores.shape)


@cache
def cuda_module() -> ModuleType | None:
    """The CUDA kernels, or None where they were not built."""
    try:
        from robustad import _C_cuda
    except ImportError:
        return None
    return _C_cuda


def _place(scores: Tensor) -> tuple[ModuleType | None, tuple[int, ...]]:
    """Find the kernels, and what they want besides: threads, or a device and its stream."""
    if scores.is_cpu:
        return _C, (torch.get_num_threads(),)
    rows, columns = scores.shape
    # A grid has fewer blocks, one for 1024 scores at most, and blocks count in 32 bits.
    if columns > LARGEST or rows * (columns // 1024 + 1) > LARGEST:
        return None, ()
    device = scores.device
    return cuda_module(), (device.index, torch.cuda.current_stream(device).cuda_stream)


def _forward(
    scores: Tensor,
    weights: Tensor | None,
    k: int,
    fraction: float,
    shared: bool,
    with_state: bool = True,
) -> tuple[Tensor, Tensor]:
    """Means and state; the means twice where the state is not wanted."""
    dtype = DTYPES.get(scores.dtype)
    module, place = _place(scores)
    if dtype is None or module is None:
        with torch.no_grad():
            return select_torch(scores, weights, k, fraction, shared)
    scores = scores.contiguous()
    weights = None if weights is None else weights.contiguous()
    rows, columns = scores.shape
    means = state = scores.new_empty(rows)
    state_at = 0
    if with_state or not scores.is_cpu:
        state = scores.new_empty((rows, STATE), dtype=torch.float64)
        state_at = state.data_ptr()
    at, weights_at = scores.data_ptr(), 0 if weights is None else weights.data_ptr()
    size = (rows, columns, k, fraction, shared, dtype)
    try:
        module.topk_mean(at, weights_at, *size, *place, means.data_ptr(), state_at)
    except ValueError as error:  # of the environment variable
        raise InputError(str(error)) from None
    return means, state


def _backward(grad: Tensor, scores: Tensor, weights: Tensor | None, state: Tensor) -> Tensor:
    dtype = DTYPES.get(scores.dtype)
    module, place = _place(scores)
    if dtype is None or module is None:
        return spread_torch(grad, scores, weights, state)
    scores, grad, state = scores.contiguous(), grad.contiguous(), state.contiguous()
    weights = None if weights is None else weights.contiguous()
    rows, columns = scores.shape
    out = torch.empty_like(scores)
    at, weights_at = scores.data_ptr(), 0 if weights is None else weights.data_ptr()
    results = (grad.data_ptr(), state.data_ptr(), out.data_ptr())
    try:
        module.topk_mean_backward(at, weights_at, rows, columns, dtype, *place, *results)
    except ValueError as error:
        raise InputError(str(error)) from None
    return out


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher, for `is_plain` tensors."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, selection: tuple[Any, ...]) -> Tensor:
        means, ctx.state = _forward(scores, *selection)
        ctx.save_for_backward(scores, selection[0])
        return means

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        scores, weights = ctx.saved_tensors
        # Only what is to be differentiated again needs the operator.
        again = torch.is_grad_enabled() or not is_plain(grads[0])
        step = spread_torch if is_transformed() else TOPK_MEAN_BACKWARD if again else _backward
        return step(grads[0], scores, weights, ctx.state), None


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _through_forward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    scores, weights, state = ctx.saved_tensors
    return TOPK_MEAN_BACKWARD(grad, scores.detach(), weights, state), None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _through_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    scores, weights, state = ctx.saved_tensors
    ones = torch.ones_like(scores[:, 0])
    parts = TOPK_MEAN_BACKWARD(ones, scores, weights, state)
    return (grad * parts).sum(dim=1), None, None, None


def _fake_forward(
    scores: Tensor, weights: Tensor | None, k: int, fraction: float, shared: bool
) -> tuple[Tensor, Tensor]:
    rows = scores.shape[0]
    return scores.new_empty(rows), scores.new_empty((rows, STATE), dtype=torch.float64)


def _fake_backward(grad: Tensor, scores: Tensor, weights: Tensor | None, state: Tensor) -> Tensor:
    return scores.new_empty(scores.shape)


TOPK_MEAN = register(
    "topk_mean(Tensor scores, Tensor? weights, SymInt k, float fraction, bool shared)"
    " -> (Tensor means, Tensor state)",
    cpu=_forward,
    cuda=_forward,
    fake=_fake_forward,
    setup_context=_save_forward,
    backward=_through_forward,
)
TOPK_MEAN_BACKWARD = register(
    "topk_mean_backward(Tensor grad, Tensor scores, Tensor? weights, Tensor state) -> Tensor",
    cpu=_backward,
    cuda=_backward,
    fake=_fake_backward,
    setup_context=_save_backward,
    backward=_through_backward,
)
