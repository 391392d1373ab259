"""The operations everything goes through: nearest neighbours, top-k mean, attention degree."""

from robustad.ops.attention_degree import (
    AttentionStatistics,
    attention_degree,
    attention_statistics,
    attention_with_degree,
)
from robustad.ops.cosine_nn import PackedBank, cosine_nn, pack_bank
from robustad.ops.reference.topk_mean import resolve_k
from robustad.ops.topk_mean import topk_mean

__all__ = [
    "AttentionStatistics",
    "PackedBank",
    "attention_degree",
    "attention_statistics",
    "attention_with_degree",
    "cosine_nn",
    "pack_bank",
    "resolve_k",
    "topk_mean",
]
