"""Torch twins of the attention degree's operators: the definitions, with the N x N matrix stored.

They take any device and floating dtype and compute in float32 at least.
"""

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, scale: float | None = None) -> Tensor:
    """Softmax attention (B, H, N, N) of q and k (B, H, N, d)."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return ((q.to(wide) @ k.to(wide).transpose(-1, -2)) * scale).softmax(dim=-1)


def count(weights: Tensor, delta: float, tau: float | None) -> Tensor:
    """Entries a row of at least `delta`, hard or soft."""
    if tau is None:
        return (weights >= delta).sum(dim=-1).float()
    return torch.sigmoid((weights - delta) / tau).sum(dim=-1)


def attention_degree(
    q: Tensor,
    k: Tensor,
    delta: float,
    tau: float | None = None,
    *,
    prefix_tokens: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Degree (B, H, N - prefix)."""
    weights = attention(q[:, :, prefix_tokens:], k[:, :, prefix_tokens:], scale)
    return count(weights, delta, tau)


def attention_statistics(
    q: Tensor,
    k: Tensor,
    delta: float,
    tau: float | None = None,
    *,
    prefix_tokens: int = 0,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Degree, effective degree and entropy, each (B, H, N - prefix)."""
    weights = attention(q[:, :, prefix_tokens:], k[:, :, prefix_tokens:], scale)
    entropy = -torch.xlogy(weights, weights).sum(dim=-1)
    return count(weights, delta, tau), 1.0 / weights.square().sum(dim=-1), entropy


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
    """Attention's output (B, H, N, d) over all tokens, and the degree."""
    weights = attention(q, k, scale)
    out = (weights @ v.to(weights.dtype)).to(q.dtype)
    patches = weights[:, :, prefix_tokens:, prefix_tokens:]
    patches = patches / patches.sum(dim=-1, keepdim=True)
    return out, count(patches, delta, tau)
