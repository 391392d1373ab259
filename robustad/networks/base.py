"""What a trainable network is to the rest of robustad: images in, one logit a patch out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robustad.errors import InputError

if TYPE_CHECKING:
    from robustad.networks.config import NetworkConfig


class Attention(NamedTuple):
    """Queries and keys of one attention layer, from which its map follows.

    Attributes
    ----------
    layer : str
        `block 12` (counted from 1) or `discriminator`.
    q, k : Tensor, (B, H, N, d)
        Queries and keys of each head.
    prefix_tokens : int
        Leading tokens (class token, registers) that are no patches.
    scale : float
        The map is `softmax(scale q k^T)`.
    allowed : Tensor (N, N), bool, or None
        Which columns a row of sparse attention sees; None for all of them. A row's softmax, and so
        its degree, is over its allowed columns alone.
    """

    layer: str
    q: Tensor
    k: Tensor
    prefix_tokens: int
    scale: float
    allowed: Tensor | None = None

    def map(self) -> Tensor:
        """The attention map among patches, formed in full.

        Returns
        -------
        Tensor, (B, H, N - prefix_tokens, N - prefix_tokens)
            Rows and columns of the prefix are left out and what is left of each row sums to 1;
            columns that are not allowed are 0. Differentiable. `robustad.ops.attention_statistics`
            needs no such matrix where `allowed` is None.
        """
        q, k = self.q[:, :, self.prefix_tokens :], self.k[:, :, self.prefix_tokens :]
        scores = self.scale * q @ k.transpose(-2, -1)
        if self.allowed is not None:
            patches = self.allowed[self.prefix_tokens :, self.prefix_tokens :]
            scores = scores.masked_fill(~patches, -torch.inf)
        return scores.softmax(dim=-1)


class PatchNetwork(nn.Module, ABC):
    """A network from an image to one logit a patch; normalisation is part of it.

    Attributes
    ----------
    patch_size : int
        Pixels between neighbouring patches (1 for pixel-wise networks).
    image_size : int
        Edge in pixels of the square images it takes.
    attention_layers : tuple of str
        Names that `forward` takes for `attention`; empty for convolutional networks.
    config : NetworkConfig
        How to build it again, apart from its weights.
    """

    config: NetworkConfig
    patch_size: int
    image_size: int
    attention_layers: tuple[str, ...]

    @abstractmethod
    def forward(self, x: Tensor, attention: Sequence[str] = ()) -> tuple[Tensor, list[Attention]]:
        """Patch logits, and what was asked for of the attention layers.

        Parameters
        ----------
        x : Tensor, (B, 3, image_size, image_size), floating point in [0, 1]
            RGB.
        attention : sequence of str, default ()
            Of `attention_layers`.

        Returns
        -------
        logits : Tensor, (B, N), floating point
            Row by row; higher is more anomalous. Differentiable.
        maps : list of Attention
            One a layer asked for, in the order of `attention`.

        Raises
        ------
        InputError
            If `x` does not fit or a layer is unknown.
        """

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        edge = self.image_size // self.patch_size
        return edge, edge

    def check(self, x: Tensor, attention: Sequence[str] = ()) -> None:
        """Raise InputError unless `x` and `attention` are what `forward` takes."""
        expected = (3, self.image_size, self.image_size)
        if x.ndim != 4 or tuple(x.shape[1:]) != expected or not x.is_floating_point():
            raise InputError(
                f"x: expected a floating-point tensor (B, {', '.join(map(str, expected))}), got "
                f"{tuple(x.shape)} of {x.dtype}"
            )
        unknown = [layer for layer in attention if layer not in self.attention_layers]
        if unknown:
            known = ", ".join(self.attention_layers) or "none: it has no attention"
            raise InputError(f"attention: this network has no layer {unknown[0]!r} ({known})")
