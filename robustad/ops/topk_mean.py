"""Mean of the k largest scores: from patch scores to the image score."""

from typing import Any

import torch
from torch import Tensor

from robustad import _C
from robustad.errors import InputError


def topk_mean(scores: Tensor, k: int | float) -> Tensor:
    """Mean of the k largest values of each row.

    Parameters
    ----------
    scores : Tensor, (B, N), floating point
        Patch scores.
    k : int or float
        A count in 1..N, or a fraction of N in (0, 1]: `max(1, int(k * N))` values, so that a
        fraction of less than one value becomes the maximum.

    Returns
    -------
    Tensor, (B,), dtype of `scores`
        The means, computed in float32 at least. The gradient goes to the selected entries,
        1/k each; of equal scores the C++ core (CPU, below float64) selects the lower index.

    Raises
    ------
    InputError
        If `scores` is not a 2-D floating tensor with N >= 1, or `k` is out of range.

    Notes
    -----
    `H_0.01` of the few-shot study (section 3.1) is `k=0.01`. NaN counts as the largest value.

    Examples
    --------
    >>> import torch
    >>> topk_mean(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), k=2)
    tensor([3.5000])
    """
    if scores.ndim != 2 or not scores.is_floating_point() or scores.shape[1] < 1:
        raise InputError(
            "scores: expected a floating-point tensor (B, N) with N >= 1, got "
            f"{tuple(scores.shape)} of {scores.dtype}"
        )
    count = resolve_k(k, scores.shape[1])
    wide = scores.dtype == torch.float64  # the C++ core is float32
    if scores.device.type == "cpu" and not wide and not torch.compiler.is_compiling():
        means: Tensor = _TopKMean.apply(scores, count)
        return means
    return topk_mean_torch(scores, count)


def topk_mean_torch(scores: Tensor, k: int) -> Tensor:
    """Torch reference of `topk_mean`, with `k` a count; also what is traced and exported."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.topk(k, dim=1).values.to(wide).mean(dim=1).to(scores.dtype)


def resolve_k(k: int | float, n: int) -> int:
    """Turn a count or fraction into a count in 1..n.

    Raises
    ------
    InputError
        If a count is not in 1..n or a fraction not in (0, 1].

    Examples
    --------
    >>> resolve_k(0.01, 1024), resolve_k(0.01, 50), resolve_k(5, 50)
    (10, 1, 5)
    """
    if isinstance(k, float):
        if not 0.0 < k <= 1.0:
            raise InputError(f"k: expected a fraction in (0, 1] or a count, got {k}")
        # int() would turn 0.29 * 100 = 28.999999999999996 into 28
        return max(1, int(k * n + 1e-9))
    if isinstance(n, int) and not 1 <= k <= n:
        raise InputError(f"k: expected a count in 1..{n}, got {k}")
    return k


class _TopKMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        rows = scores.detach().to(torch.float32).contiguous()
        means, columns = _C.topk_mean(rows.numpy(), k)
        ctx.save_for_backward(torch.from_numpy(columns))
        ctx.shape = scores.shape
        return torch.from_numpy(means).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (columns,) = ctx.saved_tensors
        share = (grads[0] / columns.shape[1]).unsqueeze(1).expand(-1, columns.shape[1])
        return share.new_zeros(ctx.shape).scatter_(1, columns, share), None
