"""Launches the kernels of `attention_degree_gradients`."""

from typing import Any

import torch
import triton
from torch import Tensor

from robustad.kernels.attention_degree import laid_out
from robustad.kernels.attention_degree_gradients import tuned_key_gradient, tuned_query_gradient
from robustad.kernels.attention_degree_tiles import LOG2E, head_values, padded

# Gradients are brought to about this size where they are multiplied in float16, whose range is
# small: a degree's gradient of 1e-5 times an attention of 1e-3 would be lost.
FLOAT16_SIZE = 16.0


def degree_backward(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    r: Tensor,
    delta: float,
    tau: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of q and k (B, H, N, d) from the terms (B, H, N) of their scores' gradient."""
    dq, dk, _ = _run(q, k, None, None, None, None, lse, a, b, c, r, delta, tau, 0, scale)
    return dq, dk


def with_degree_backward(
    grad: Tensor,
    dsum: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    patch_lse: Tensor,
    a: Tensor | None,
    r: Tensor | None,
    delta: float,
    tau: float,
    prefix: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from that of the output and the terms of the degree."""
    if r is None:
        r = torch.zeros_like(patch_lse)
    rows = (lse, dsum, patch_lse, a, None, None, r)
    return _run(q, k, v, grad, *rows, delta, tau, prefix, scale)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    dout: Tensor | None,
    lse: Tensor | None,
    dsum: Tensor | None,
    patch_lse: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    r: Tensor,
    delta: float,
    tau: float,
    prefix: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, n, d = q.shape
    # One layout for all gradients: that of a new tensor.
    shape = (batch, heads, n, padded(d))
    dq, dk, dv = (torch.empty(shape, dtype=q.dtype, device=q.device) for _ in range(3))
    if batch * heads == 0:
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(q)
    statistics = b is not None or c is not None
    if statistics:
        b = torch.zeros_like(r) if b is None else b
        c = torch.zeros_like(r) if c is None else c
    size = _size(dout, a, b, c, r) if q.dtype == torch.float16 else r.new_ones(r.shape[:2])
    patch_lse, lse = patch_lse.contiguous(), None if lse is None else lse.contiguous()
    unused = patch_lse  # stands for what this variant does not touch
    q, k = laid_out(q), laid_out(k)
    v_, dout_ = (q, q) if v is None or dout is None else (laid_out(v), laid_out(dout))
    dsum, a, b, c, scaled_r = (
        x if x is None else (x / size[:, :, None]).contiguous() for x in (dsum, a, b, c, r)
    )
    terms = [unused if x is None else x for x in (lse, dsum, patch_lse, a, b, c, scaled_r)]
    numbers = (
        heads,
        n,
        prefix,
        scale,
        scale * LOG2E,
        delta,
        LOG2E / tau if a is not None else 0,
    )
    flags: dict[str, Any] = {
        "SOFT": a is not None,
        "STATISTICS": statistics,
        "FUSED": v is not None,
        **head_values(d, q.element_size()),
    }
    for kernel, made, block in (
        (tuned_query_gradient, (dq,), "BLOCK_M"),
        (tuned_key_gradient, (dk, dv), "BLOCK_N"),
    ):
        kernel[lambda values, at=block: (batch * heads * triton.cdiv(n, values[at]),)](
            *(q, k, v_, dout_, *made),
            *terms,
            size,
            *(step for x in (q, k, v_, dout_, made[0]) for step in x.stride()[:3]),
            *numbers,
            **flags,
        )
    if padded(d) != d:
        dq, dk, dv = (x[..., :d].contiguous() for x in (dq, dk, dv))
    return dq, dk, dv


def _size(*gradients: Tensor | None) -> Tensor:
    """Largest of the gradients in each head (B, H), over `FLOAT16_SIZE`."""
    found = [x.float().abs().flatten(2).amax(dim=2) for x in gradients if x is not None]
    return torch.stack(found).amax(dim=0).clamp(min=1e-30) / FLOAT16_SIZE
