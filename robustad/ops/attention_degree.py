"""How many tokens a token attends to, without storing the attention matrix."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustad.errors import InputError
from robustad.ops import _attention_degree_autograd as operators
from robustad.ops._eager import is_transformed
from robustad.ops.reference import attention_degree as reference

LARGEST_HEAD = 128
# Far below the spacing of entries in float32; gradients are divided by it, and must stay finite.
LEAST_TAU = 1e-20
LARGEST_SCALE = torch.finfo(torch.float32).max
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class AttentionStatistics(NamedTuple):
    """How attention spreads; each (B, H, N - prefix_tokens), float32, differentiable.

    Attributes
    ----------
    degree : Tensor
        Entries of at least `delta`; in 0..N - prefix_tokens, fractional if counted softly.
    effective_degree : Tensor
        `1 / sum_j S_ij^2`, from 1 (one entry) to N - prefix_tokens (all equal).
    entropy : Tensor
        `-sum_j S_ij log S_ij` in nats, from 0 to log(N - prefix_tokens).
    """

    degree: Tensor
    effective_degree: Tensor
    entropy: Tensor


def attention_degree(
    q: Tensor,
    k: Tensor,
    delta: float,
    tau: float | None = None,
    *,
    prefix_tokens: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Attention degree: how many tokens each token attends to.

    `S = softmax(scale q k^T)` over the tokens without the prefix; the degree of row i is the
    number of j with `S_ij >= delta`, or with `tau` the soft count
    `sum_j sigmoid((S_ij - delta) / tau)`.

    Parameters
    ----------
    q, k : Tensor, (B, H, N, d), float32, bfloat16 or float16
        Queries and keys of each head, on one device; d in 1..128. Any strides.
    delta : float in [0, 1]
        Threshold; the source takes 1 / N.
    tau : float >= 1e-20, optional
        Width of the soft count. By default the count is hard, and has no gradient.
    prefix_tokens : int in 0..N - 1, default 0
        Leading tokens (class token, registers) that are left out of rows and columns; what is left
        of each row is renormalised.
    scale : float, default `d ** -0.5`
        Factor of the scores.

    Returns
    -------
    Tensor, (B, H, N - prefix_tokens), float32
        Degrees. The soft ones are differentiable once, with respect to q and k.

    Raises
    ------
    InputError
        If a shape, dtype, device or number does not fit, or the environment variable
        ROBUSTAD_ATTENTION_DEGREE names no instruction set of this CPU (portable, avx2, avx512; by
        default the best it has).

    Notes
    -----
    Memory is O(B H N d): rows are worked on in blocks, the gradient makes each block again.
    Sums are float32. With scores off by at most e, S is off by a factor of 1 + 2 e, and a soft
    degree by at most `2 e / (4 tau)` besides the rounding of its sum: e is about
    `d * 2^-24 * scale * |q| |k|` where products are float32 (on GPUs: `tf32x3`, unless
    `torch.backends.cuda.matmul.allow_tf32`), also for 16-bit q and k, whose products are exact.
    Under the transforms of `torch.func` and forward-mode differentiation the torch twin runs, and
    the N x N matrix is formed. Under autocast, q and k are cast as attention's are. A row with a
    NaN or infinite score has a degree that means nothing.

    Source: PatchGuard (CVPR 2025), attention degree; its supplement, section C.2, for delta. The
    soft count is this library's.

    Examples
    --------
    >>> import torch
    >>> q = torch.zeros(1, 1, 4, 16)  # equal scores: every entry is 1/4
    >>> attention_degree(q, q, delta=0.2)
    tensor([[[4., 4., 4., 4.]]])
    >>> attention_degree(q, q, delta=0.25, tau=0.01, prefix_tokens=2)
    tensor([[[2., 2.]]])
    """
    q, k = _autocast(q, k)
    scale = _check({"q": q, "k": k}, delta, tau, prefix_tokens, scale)
    if is_transformed():
        return reference.attention_degree(
            q, k, delta, tau, prefix_tokens=prefix_tokens, scale=scale
        )
    degree: Tensor = operators.attention_degree(q, k, delta, tau, prefix_tokens, scale)[0]
    return degree


def attention_statistics(
    q: Tensor,
    k: Tensor,
    delta: float,
    tau: float | None = None,
    *,
    prefix_tokens: int = 0,
    scale: float | None = None,
) -> AttentionStatistics:
    """Degree, effective degree and entropy of attention in one pass.

    Parameters
    ----------
    q, k, delta, tau, prefix_tokens, scale
        As for `attention_degree`.

    Returns
    -------
    AttentionStatistics
        Effective degree and entropy are differentiable with a hard count too.

    Raises
    ------
    InputError
        If a shape, dtype, device or number does not fit.

    Examples
    --------
    >>> import torch
    >>> q = torch.zeros(1, 1, 4, 16)
    >>> degree, effective, entropy = attention_statistics(q, q, delta=0.2)
    >>> effective[0, 0, 0].item(), round(entropy[0, 0, 0].exp().item(), 4)
    (4.0, 4.0)
    """
    q, k = _autocast(q, k)
    scale = _check({"q": q, "k": k}, delta, tau, prefix_tokens, scale)
    if is_transformed():
        return AttentionStatistics(
            *reference.attention_statistics(
                q, k, delta, tau, prefix_tokens=prefix_tokens, scale=scale
            )
        )
    made = operators.attention_statistics(q, k, delta, tau, prefix_tokens, scale)
    return AttentionStatistics(*made[:3])


def attention_with_degree(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    delta: float,
    tau: float | None = None,
    *,
    prefix_tokens: int = 0,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Output of softmax attention, and its degree, in one operation.

    Parameters
    ----------
    q, k, v : Tensor, (B, H, N, d), float32, bfloat16 or float16
        Queries, keys and values of each head, of one dtype, on one device; d in 1..128.
    delta, tau, prefix_tokens, scale
        As for `attention_degree`. The prefix is left out of the degree alone.

    Returns
    -------
    out : Tensor, (B, H, N, d), dtype of q
        `softmax(scale q k^T) v` over all tokens, as of
        `torch.nn.functional.scaled_dot_product_attention`.
    degree : Tensor, (B, H, N - prefix_tokens), float32
        As of `attention_degree`.

    Raises
    ------
    InputError
        If a shape, dtype, device or number does not fit.

    Examples
    --------
    >>> import torch
    >>> q = torch.zeros(1, 1, 4, 16)
    >>> out, degree = attention_with_degree(q, q, torch.ones(1, 1, 4, 16), delta=0.2)
    >>> out.shape, degree[0, 0]
    (torch.Size([1, 1, 4, 16]), tensor([4., 4., 4., 4.]))
    """
    q, k, v = _autocast(q, k, v)
    scale = _check({"q": q, "k": k, "v": v}, delta, tau, prefix_tokens, scale)
    if is_transformed():
        return reference.attention_with_degree(
            q, k, v, delta, tau, prefix_tokens=prefix_tokens, scale=scale
        )
    made = operators.attention_with_degree(q, k, v, delta, tau, prefix_tokens, scale)
    return made[0], made[1]


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as torch casts attention's arguments where autocast is on."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.dtype in DTYPES else x for x in tensors)


def _check(
    tensors: dict[str, Tensor],
    delta: float,
    tau: float | None,
    prefix_tokens: int,
    scale: float | None,
) -> float:
    """Check the arguments of all three functions; return the scale."""
    q = tensors["q"]
    for name, tensor in tensors.items():
        if tensor.ndim != 4 or tensor.dtype not in DTYPES:
            raise InputError(
                f"{name}: expected (B, H, N, d) of float32, bfloat16 or float16, got "
                f"{tuple(tensor.shape)} of {tensor.dtype}"
            )
        if tensor.shape != q.shape or tensor.dtype != q.dtype or tensor.device != q.device:
            raise InputError(
                f"{name}: expected what q is, {tuple(q.shape)} of {q.dtype} on {q.device}, got "
                f"{tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
            )
    if q.device.type not in ("cpu", "cuda", "meta"):
        raise InputError(f"q: expected a tensor on a CPU or a CUDA device, got one on {q.device}")
    if not 1 <= q.shape[3] <= LARGEST_HEAD:
        raise InputError(f"q: expected a head size d in 1..{LARGEST_HEAD}, got {q.shape[3]}")
    if not 0 <= prefix_tokens < q.shape[2]:
        raise InputError(
            f"prefix_tokens: expected 0..N - 1 with N = {q.shape[2]} tokens, got {prefix_tokens}"
        )
    if not 0.0 <= delta <= 1.0:
        raise InputError(f"delta: expected a number in [0, 1], got {delta}")
    if tau is not None and not (tau >= LEAST_TAU and math.isfinite(tau)):
        raise InputError(f"tau: expected a number of at least {LEAST_TAU} or None, got {tau}")
    if scale is None:
        return float(q.shape[3] ** -0.5)
    if not abs(scale) <= LARGEST_SCALE:
        raise InputError(f"scale: expected a finite number of float32's range, got {scale}")
    return scale
