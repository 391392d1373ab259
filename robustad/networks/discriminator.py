"""Heads on patch tokens: the attention discriminator, and the MLP alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustad.errors import InputError
from robustad.networks.attention import SelfAttention
from robustad.networks.base import Attention


def mlp(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """Linear, GELU, dropout, linear: from `dim` channels through `hidden` back to `dim`."""
    return nn.Sequential(
        nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
    )


class AttentionLayer(nn.Module):
    """Attention over all patches, then an MLP, each with dropout and a residual.

    Parameters
    ----------
    dim : int
        Channels D.
    heads : int
        Divisor of `dim`.
    hidden : int
        Width of the MLP.
    dropout : float in [0, 1)
        In training, of attention entries, of both branches, and in the MLP.

    Notes
    -----
    The layer normalisation follows the first residual, and only that one.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        qkv, proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        # As torch's own multi-head attention starts.
        nn.init.xavier_uniform_(qkv.weight)
        nn.init.zeros_(qkv.bias)
        nn.init.zeros_(proj.bias)
        scale = (dim // heads) ** -0.5
        self.attn = SelfAttention(qkv, proj, heads, scale=scale, dropout=dropout)
        self.norm = nn.LayerNorm(dim)
        self.mlp = mlp(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D) to tokens, with queries and keys (B, H, N, d)."""
        attended, q, k = self.attn.attend(x)
        x = self.norm(x + self.dropout(attended))
        return x + self.dropout(self.mlp(x)), q, k


class Discriminator(nn.Module):
    """The attention discriminator: transformer layers on patch tokens, one logit a patch.

    Parameters
    ----------
    dim : int
        Channels D of a token.
    patches : int
        Number N of tokens, each with a learned position.
    heads, hidden, dropout, layers
        See `robustad.networks.NetworkConfig`.

    Attributes
    ----------
    attention_layers : tuple of str
        `discriminator`, the last layer; with more layers also `discriminator 1` and so on.

    Raises
    ------
    InputError
        If `heads` does not divide `dim`.

    Notes
    -----
    PatchGuard (CVPR 2025), supplement, section I. Positions start from a standard normal.
    """

    def __init__(
        self,
        dim: int,
        patches: int,
        *,
        heads: int = 4,
        hidden: int = 2048,
        dropout: float = 0.2,
        layers: int = 1,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise InputError(
                f"discriminator_heads: expected a divisor of the {dim} channels, got {heads}"
            )
        earlier = [f"discriminator {i + 1}" for i in range(layers - 1)]
        self.attention_layers = (*earlier, "discriminator")
        self.positions = nn.Parameter(torch.randn(patches, dim))
        self.layers = nn.ModuleList(
            AttentionLayer(dim, heads, hidden, dropout) for _ in range(layers)
        )
        self.output = nn.Linear(dim, 1)

    def forward(self, tokens: Tensor, wanted: Sequence[str] = ()) -> tuple[Tensor, list[Attention]]:
        """Logits (B, N) of tokens (B, N, D), and the attention of layers wanted."""
        x = tokens + self.positions
        maps = []
        for name, layer in zip(self.attention_layers, self.layers, strict=True):
            x, q, k = layer(x)
            if name in wanted:
                maps.append(Attention(name, q, k, 0, q.shape[3] ** -0.5))
        return self.output(x).squeeze(-1), maps


class PatchMLP(nn.Module):
    """The discriminator without its attention and positions: each token is scored on its own.

    Parameters
    ----------
    dim, hidden, dropout
        See `Discriminator`.
    """

    attention_layers: tuple[str, ...] = ()

    def __init__(self, dim: int, *, hidden: int = 2048, dropout: float = 0.2) -> None:
        super().__init__()
        self.mlp = mlp(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(dim, 1)

    def forward(self, tokens: Tensor, wanted: Sequence[str] = ()) -> tuple[Tensor, list[Attention]]:
        """Logits (B, N) of tokens (B, N, D); there is no attention to want."""
        x = tokens + self.dropout(self.mlp(tokens))
        return self.output(x).squeeze(-1), []
