"""Self-attention whose queries and keys can be had, without hooks or state."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from robustad.errors import InputError


class SelfAttention(nn.Module):
    """Multi-head self-attention; `attend` also returns queries and keys.

    Parameters
    ----------
    qkv : nn.Linear
        From D channels to queries, keys and values of all heads.
    proj : nn.Module
        From all heads' values back to D channels.
    num_heads : int
        Heads H.
    scale : float
        The map is `softmax(scale q k^T)`.
    dropout : float in [0, 1), default 0
        Of entries of the map, in training.
    extra : dict of str to nn.Module, optional
        Of timm's attention: `q_norm`, `k_norm` (of each head), `norm` and `gate` (of the values
        that came together), `proj_drop`.

    Attributes
    ----------
    fused_attn : bool
        Whether torch's fused attention is used; as in timm, whose name for it this is.
    """

    def __init__(
        self,
        qkv: nn.Module,
        proj: nn.Module,
        num_heads: int,
        *,
        scale: float,
        dropout: float = 0.0,
        extra: dict[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.qkv = qkv
        self.proj = proj
        self.num_heads = num_heads
        self.scale = scale
        self.dropout = dropout
        self.fused_attn = True
        extra = extra or {}
        self.q_norm = extra.get("q_norm", nn.Identity())
        self.k_norm = extra.get("k_norm", nn.Identity())
        self.norm = extra.get("norm", nn.Identity())
        self.gate = extra.get("gate")
        self.proj_drop = extra.get("proj_drop", nn.Identity())

    @classmethod
    def of_timm(cls, attention: nn.Module, **options: Any) -> Self:
        """Take over timm's attention: same parameters, same names, same result.

        Raises
        ------
        InputError
            If it is not timm's plain `Attention`.
        """
        # Where it is defined has moved between timm's versions; where it is used has not.
        vision_transformer: Any = import_module("timm.models.vision_transformer")
        if type(attention) is not vision_transformer.Attention:
            raise InputError(
                f"body: expected timm's plain attention, got {type(attention).__name__}"
            )
        names = ("q_norm", "k_norm", "norm", "gate", "proj_drop")
        parts = {name: getattr(attention, name, None) for name in names}
        source: Any = attention
        taken = cls(
            source.qkv,
            source.proj,
            source.num_heads,
            scale=float(source.scale),
            dropout=float(source.attn_drop.p),
            extra={name: part for name, part in parts.items() if part is not None},
            **options,
        )
        taken.fused_attn = bool(source.fused_attn)
        return taken

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens (B, N, D) to tokens; the masks of timm's interface are not taken.

        Raises
        ------
        InputError
            If there is a mask.
        """
        if attn_mask is not None or is_causal:
            raise InputError("attn_mask, is_causal: expected none, patches all see each other")
        return self.attend(x)[0]

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D), and queries and keys (B, H, N, d) as the map is made of them."""
        batch, count, _ = x.shape
        heads = self.qkv(x).reshape(batch, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        mixed = self.norm(self.mix(q, k, v).transpose(1, 2).reshape(batch, count, -1))
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(mixed)), q, k

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Values (B, H, N, d), averaged by the map."""
        return self.softmax_mix(q, k, v)

    def softmax_mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Values (B, H, n, d) that queries (B, H, n, d) take from keys and values (B, H, m, d)."""
        if self.fused_attn:
            dropout = self.dropout if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        entries = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return F.dropout(entries, self.dropout, self.training) @ v


def set_fused_attention(module: nn.Module, fused: bool) -> None:
    """Use torch's fused attention, or write it out, in all of a network's layers.

    On CPUs the gradient of the written-out form is the faster one, at the price of storing the map.
    """
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused  # type: ignore[assignment]
