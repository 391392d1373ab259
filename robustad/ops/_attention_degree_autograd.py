"""Derivatives of the attention degree's operators, and their registration."""

from typing import Any

import torch
from torch import Tensor

from robustad.ops import _attention_degree as kernels
from robustad.ops._library import register

ARGUMENTS = "float delta, float? tau, int prefix_tokens, float scale"


def _no_second_derivative(ctx: Any, *grads: Any) -> None:
    raise NotImplementedError("the attention degree has no second derivative")


def _keep_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    pass


_degree_backward = register(
    "attention_degree_backward(Tensor q, Tensor k, Tensor lse, Tensor? a, Tensor? b, Tensor? c, "
    "Tensor r, float delta, float tau, int prefix_tokens, float scale) -> (Tensor, Tensor)",
    cpu=kernels.degree_backward_cpu,
    cuda=kernels.degree_backward_cuda,
    fake=kernels.degree_backward_fake,
    setup_context=_keep_nothing,
    backward=_no_second_derivative,
)
_fused_backward = register(
    "attention_with_degree_backward(Tensor grad, Tensor dsum, Tensor q, Tensor k, Tensor v, "
    "Tensor lse, Tensor patch_lse, Tensor? a, Tensor? r, float delta, float tau, "
    "int prefix_tokens, float scale) -> (Tensor, Tensor, Tensor)",
    cpu=kernels.fused_backward_cpu,
    cuda=kernels.fused_backward_cuda,
    fake=kernels.fused_backward_fake,
    setup_context=_keep_nothing,
    backward=_no_second_derivative,
)


def _keep_numbers(ctx: Any, numbers: tuple[Any, ...]) -> None:
    ctx.delta, ctx.tau, ctx.prefix, ctx.scale = numbers
    ctx.set_materialize_grads(False)


def _keep_degree(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, *numbers = inputs
    degree, lse, moment = output
    _keep_numbers(ctx, tuple(numbers))
    ctx.mark_non_differentiable(lse, moment, *([degree] if ctx.tau is None else []))
    ctx.save_for_backward(q, k, lse, moment)


def _degree_gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 6
    grad = grads[0]
    if grad is None or ctx.tau is None:
        return nothing
    q, k, lse, moment = ctx.saved_tensors
    a = grad / ctx.tau
    terms = (a, None, None, -a * moment)
    dq, dk = _degree_backward(q, k, lse, *terms, ctx.delta, ctx.tau, ctx.prefix, ctx.scale)
    return dq, dk, *nothing[2:]


def _keep_statistics(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, *numbers = inputs
    degree, effective, entropy, lse, moment = output
    _keep_numbers(ctx, tuple(numbers))
    ctx.mark_non_differentiable(lse, moment, *([degree] if ctx.tau is None else []))
    ctx.save_for_backward(q, k, effective, entropy, lse, moment)


def _statistics_gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 6
    q, k, effective, entropy, lse, moment = ctx.saved_tensors
    grad_degree = None if ctx.tau is None else grads[0]
    a = b = c = None
    parts = []  # of r
    if grad_degree is not None:
        a = grad_degree / ctx.tau
        parts.append(-a * moment)
    if grads[1] is not None:
        b = -2.0 * grads[1] * effective.square()
        parts.append(2.0 * grads[1] * effective)
    if grads[2] is not None:
        c = -grads[2]
        parts.append(c * entropy)
    if not parts:
        return nothing
    terms = (a, b, c, torch.stack(parts).sum(dim=0))
    numbers = (ctx.delta, ctx.tau or 0.0, ctx.prefix, ctx.scale)
    dq, dk = _degree_backward(q, k, lse, *terms, *numbers)
    return dq, dk, *nothing[2:]


def _keep_fused(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, *numbers = inputs
    out, degree, lse, patch_lse, moment = output
    _keep_numbers(ctx, tuple(numbers))
    ctx.mark_non_differentiable(lse, patch_lse, moment, *([degree] if ctx.tau is None else []))
    ctx.save_for_backward(q, k, v, out, lse, patch_lse, moment)


def _fused_gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 7
    q, k, v, out, lse, patch_lse, moment = ctx.saved_tensors
    grad, grad_degree = grads[0], None if ctx.tau is None else grads[1]
    a = r = None
    if grad_degree is not None:
        a = grad_degree / ctx.tau
        r = -a * moment
    numbers = (ctx.delta, ctx.tau or 0.0, ctx.prefix, ctx.scale)
    if grad is None:
        if a is None:
            return nothing
        dq, dk = _degree_backward(q, k, patch_lse, a, None, None, r, *numbers)
        return dq, dk, torch.zeros_like(v), *nothing[3:]
    dsum = (grad.float() * out.float()).sum(dim=-1)
    dq, dk, dv = _fused_backward(grad, dsum, q, k, v, lse, patch_lse, a, r, *numbers)
    return dq, dk, dv, *nothing[3:]


attention_degree = register(
    f"attention_degree(Tensor q, Tensor k, {ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    cpu=kernels.degree_cpu,
    cuda=kernels.degree_cuda,
    fake=kernels.degree_fake,
    setup_context=_keep_degree,
    backward=_degree_gradient,
)
attention_statistics = register(
    f"attention_statistics(Tensor q, Tensor k, {ARGUMENTS}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=kernels.statistics_cpu,
    cuda=kernels.statistics_cuda,
    fake=kernels.statistics_fake,
    setup_context=_keep_statistics,
    backward=_statistics_gradient,
)
attention_with_degree = register(
    f"attention_with_degree(Tensor q, Tensor k, Tensor v, {ARGUMENTS}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=kernels.fused_cpu,
    cuda=kernels.fused_cuda,
    fake=kernels.fused_fake,
    setup_context=_keep_fused,
    backward=_fused_gradient,
)
