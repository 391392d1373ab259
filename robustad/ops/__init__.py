"""The operations everything goes through: nearest neighbours and the top-k mean."""

from robustad.ops.cosine_nn import PackedBank, cosine_nn, pack_bank
from robustad.ops.reference.topk_mean import resolve_k
from robustad.ops.topk_mean import topk_mean

__all__ = ["PackedBank", "cosine_nn", "pack_bank", "resolve_k", "topk_mean"]
