"""Registered operators behind `robustad.ops.attention_degree`: kernels, shapes, derivatives.

One forward pass gives log-sum-exp, degree and statistics of each row; nothing of size N x N is
kept. With S the attention without the prefix, s(x) the sigmoid of (x - delta) / tau and g the
gradients that arrive, the gradient of row i's scores is

    S * (a s(1 - s) + b S + c log S + r)

where a = g_degree / tau, b = -2 g_effective effective^2, c = -g_entropy, and r cancels the mean of
the rest under S: it follows from `moment` = sum S s(1 - s), effective degree and entropy. The
backward pass makes S again from the saved log-sum-exp. The output adds P * (dout.v - dout.out).
"""

import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from robustad import _C
from robustad.errors import InputError

# "portable", "avx2" or "avx512": the instruction set of the C++ core, by default the best there is.
PATH_VARIABLE = "ROBUSTAD_ATTENTION_DEGREE"

Shape = tuple[int, ...]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _path() -> str:
    path = os.environ.get(PATH_VARIABLE, "")
    if _C.attention_path(path) is None:
        raise InputError(
            f"{PATH_VARIABLE}: expected portable, avx2 or avx512, as far as this "
            f"CPU has it, got {path}"
        )
    return path


def _float32(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()


def _without_prefix(tensor: Tensor, prefix: int) -> Tensor:
    return tensor[:, :, prefix:] if prefix else tensor


def _with_prefix(tensor: Tensor, prefix: int, dtype: torch.dtype) -> Tensor:
    """Put back rows of zeros where the prefix was."""
    if not prefix:
        return tensor.to(dtype)
    b, h, n, d = tensor.shape
    whole = tensor.new_zeros((b, h, n + prefix, d), dtype=dtype)
    whole[:, :, prefix:] = tensor
    return whole


def _moment_shape(shape: Shape, tau: float | None) -> Shape:
    return (0,) if tau is None else shape


def _triton() -> ModuleType:
    from robustad.kernels import attention_degree

    return attention_degree


def _triton_backward() -> ModuleType:
    from robustad.kernels import attention_degree_backward

    return attention_degree_backward


# Kernels on the CPU: the C++ core, in float32.


def _run_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    delta: float,
    tau: float | None,
    prefix: int,
    scale: float,
    statistics: bool,
) -> dict[str, Tensor]:
    """Rows without the prefix, except for `out` and `lse`."""
    q32, k32, v32 = _float32(q), _float32(k), None if v is None else _float32(v)
    b, h, n, d = q.shape
    rows = (b, h, n - prefix)
    names = ["degree", "patch_lse"] + ["effective", "entropy"] * statistics
    made = {name: q32.new_empty(rows) for name in names}
    made["moment"] = q32.new_empty(_moment_shape(rows, tau))
    if v is not None:
        made |= {"out": q32.new_empty((b, h, n, d)), "lse": q32.new_empty((b, h, n))}
    _C.attention_forward(
        (b * h, n, prefix, d),
        scale,
        delta,
        tau or 0.0,
        _address(q32),
        _address(k32),
        _address(v32),
        *(
            _address(made.get(name))
            for name in ("out", "lse", "degree", "effective", "entropy", "patch_lse", "moment")
        ),
        torch.get_num_threads(),
        _path(),
    )
    return made


def degree_cpu(
    q: Tensor, k: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> tuple[Tensor, ...]:
    q, k = _without_prefix(q, prefix), _without_prefix(k, prefix)
    made = _run_cpu(q, k, None, delta, tau, 0, scale, statistics=False)
    return made["degree"], made["patch_lse"], made["moment"]


def statistics_cpu(
    q: Tensor, k: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> tuple[Tensor, ...]:
    q, k = _without_prefix(q, prefix), _without_prefix(k, prefix)
    made = _run_cpu(q, k, None, delta, tau, 0, scale, statistics=True)
    return tuple(made[name] for name in ("degree", "effective", "entropy", "patch_lse", "moment"))


def fused_cpu(
    q: Tensor, k: Tensor, v: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> tuple[Tensor, ...]:
    made = _run_cpu(q, k, v, delta, tau, prefix, scale, statistics=False)
    out = made["out"].to(q.dtype)
    return out, made["degree"], made["lse"], made["patch_lse"], made["moment"]


def _run_backward_cpu(
    shape: Shape, numbers: tuple[float, float, float], *tensors: Tensor | None
) -> None:
    held = [None if tensor is None else _float32(tensor) for tensor in tensors[:-3]]
    _C.attention_backward(
        shape,
        *numbers,
        *(_address(tensor) for tensor in (*held, *tensors[-3:])),
        torch.get_num_threads(),
        _path(),
    )


def degree_backward_cpu(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    r: Tensor,
    delta: float,
    tau: float,
    prefix: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    q, k = _without_prefix(q, prefix), _without_prefix(k, prefix)
    batch, heads, n, d = q.shape
    dq, dk = (q.new_empty(q.shape, dtype=torch.float32) for _ in range(2))
    _run_backward_cpu(
        (batch * heads, n, 0, d),
        (scale, delta, tau),
        *(q, k, None, None, None, None, lse, a, b, c, r, dq, dk, None),
    )
    return _with_prefix(dq, prefix, q.dtype), _with_prefix(dk, prefix, k.dtype)


def fused_backward_cpu(
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
    batch, heads, n, d = q.shape
    dq, dk, dv = (q.new_empty(q.shape, dtype=torch.float32) for _ in range(3))
    _run_backward_cpu(
        (batch * heads, n, prefix, d),
        (scale, delta, tau),
        *(q, k, v, grad, lse, dsum, patch_lse, a, None, None, r, dq, dk, dv),
    )
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


# Kernels on NVIDIA GPUs: Triton.


def degree_cuda(
    q: Tensor, k: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> Any:
    q, k = _without_prefix(q, prefix), _without_prefix(k, prefix)
    return _triton().degree(q, k, delta, tau, scale)


def statistics_cuda(
    q: Tensor, k: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> Any:
    q, k = _without_prefix(q, prefix), _without_prefix(k, prefix)
    return _triton().statistics(q, k, delta, tau, scale)


def fused_cuda(
    q: Tensor, k: Tensor, v: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> Any:
    return _triton().with_degree(q, k, v, delta, tau, prefix, scale)


def degree_backward_cuda(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    r: Tensor,
    delta: float,
    tau: float,
    prefix: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    q, k = _without_prefix(q, prefix), _without_prefix(k, prefix)
    dq, dk = _triton_backward().degree_backward(q, k, lse, a, b, c, r, delta, tau, scale)
    return _with_prefix(dq, prefix, q.dtype), _with_prefix(dk, prefix, k.dtype)


def fused_backward_cuda(*arguments: Any) -> Any:
    return _triton_backward().with_degree_backward(*arguments)


# Shapes


def _rows(q: Tensor, prefix: int) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], q.shape[2] - prefix), dtype=torch.float32)


def _moment(q: Tensor, tau: float | None, prefix: int) -> Tensor:
    return q.new_empty((0,), dtype=torch.float32) if tau is None else _rows(q, prefix)


def degree_fake(
    q: Tensor, k: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> tuple[Tensor, ...]:
    return _rows(q, prefix), _rows(q, prefix), _moment(q, tau, prefix)


def statistics_fake(
    q: Tensor, k: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> tuple[Tensor, ...]:
    return (*(_rows(q, prefix) for _ in range(4)), _moment(q, tau, prefix))


def fused_fake(
    q: Tensor, k: Tensor, v: Tensor, delta: float, tau: float | None, prefix: int, scale: float
) -> tuple[Tensor, ...]:
    out = q.new_empty(q.shape)
    return out, _rows(q, prefix), _rows(q, 0), _rows(q, prefix), _moment(q, tau, prefix)


def degree_backward_fake(q: Tensor, k: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def fused_backward_fake(
    grad: Tensor, dsum: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
