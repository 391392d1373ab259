"""Block-sparse attention: a window, global and random blocks, as in BigBird."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from robustad.errors import InputError
from robustad.networks.attention import SelfAttention
from robustad.networks.config import BigBirdConfig


class BigBirdAttention(SelfAttention):
    """Attention in which a block of patches sees few blocks; only those products are computed.

    Prefix tokens and the first `global_blocks` blocks see all and are seen by all. Every other
    block sees them, `window` neighbouring blocks (shifted inwards at the ends, so that all see
    equally many) and `random_blocks` others, the same for all heads of a layer.

    Parameters
    ----------
    qkv, proj, num_heads, scale, dropout, extra
        See `SelfAttention`.
    patches : int
        Patch tokens; a multiple of `config.block_size`.
    prefix_tokens : int
        Tokens before them.
    config : BigBirdConfig
        The pattern.
    layer : int >= 0
        Which layer it is: each draws its own random blocks.

    Attributes
    ----------
    blocks : Tensor, (R, m), int64
        For each of the R blocks that are not global, the m blocks it sees, counted among them.
    allowed : Tensor, (N, N), bool
        Which columns each row sees, all tokens counted.

    Raises
    ------
    InputError
        If the block size does not divide the number of patches.

    Notes
    -----
    Zaheer et al., "Big Bird", NeurIPS 2020. Blocks are runs of patches in row order. All rows see
    equally many keys, so no mask is needed: dense products of gathered blocks.
    """

    blocks: Tensor
    allowed: Tensor

    def __init__(
        self,
        qkv: nn.Module,
        proj: nn.Module,
        num_heads: int,
        *,
        patches: int,
        prefix_tokens: int,
        config: BigBirdConfig,
        layer: int,
        **options: Any,
    ) -> None:
        super().__init__(qkv, proj, num_heads, **options)
        size = config.block_size
        if patches % size:
            raise InputError(
                f"bigbird.block_size: expected a divisor of the {patches} patches, got {size}"
            )
        blocks = visible_blocks(patches // size, config, layer)
        self.block_size = size
        self.global_tokens = patches + prefix_tokens - size * blocks.shape[0]
        # Made of the configuration, so not saved.
        self.register_buffer("blocks", blocks, persistent=False)
        allowed = allowed_columns(blocks, size, self.global_tokens)
        self.register_buffer("allowed", allowed, persistent=False)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Values (B, H, N, d), averaged by the sparse map."""
        first, count = self.global_tokens, self.blocks.shape[0]
        if count == 0:
            return self.softmax_mix(q, k, v)
        batch, heads, _, width = q.shape
        queries = q[:, :, first:].reshape(batch * heads, count, self.block_size, width)
        rows = self.softmax_mix(queries, self._visible(k), self._visible(v))
        rows = rows.reshape(batch, heads, -1, width)
        if first == 0:
            return rows
        return torch.cat([self.softmax_mix(q[:, :, :first], k, v), rows], dim=2)

    def _visible(self, tokens: Tensor) -> Tensor:
        """Keys or values (B H, R, m, d) that each block sees, of all (B, H, N, d)."""
        batch, heads, _, width = tokens.shape
        first, (count, seen) = self.global_tokens, self.blocks.shape
        blocks = tokens[:, :, first:].reshape(batch * heads, count, self.block_size, width)
        chosen = blocks.index_select(1, self.blocks.flatten())
        chosen = chosen.reshape(batch * heads, count, seen * self.block_size, width)
        if first == 0:
            return chosen
        everyone = tokens[:, :, :first].reshape(batch * heads, 1, first, width)
        return torch.cat([everyone.expand(-1, count, -1, -1), chosen], dim=2)


def visible_blocks(total: int, config: BigBirdConfig, layer: int) -> Tensor:
    """Blocks that each block sees, the global ones left out of rows and columns.

    Parameters
    ----------
    total : int
        Blocks of the image.
    config : BigBirdConfig
        The pattern.
    layer : int
        Joins the seed.

    Returns
    -------
    Tensor, (R, m), int64
        Ascending rows; m is `window + random_blocks`, or R if that is less.

    Examples
    --------
    >>> visible_blocks(6, BigBirdConfig(window=3, global_blocks=1, random_blocks=0), 0)
    tensor([[0, 1, 2],
            [0, 1, 2],
            [1, 2, 3],
            [2, 3, 4],
            [2, 3, 4]])
    """
    count = max(0, total - config.global_blocks)
    window = min(config.window, count)
    # Only `random()` is promised to draw the same numbers in every version of Python.
    draw = random.Random(f"{config.seed} {layer}").random
    rows = []
    for own in range(count):
        start = min(max(own - window // 2, 0), count - window)
        near = range(start, start + window)
        others = sorted((draw(), block) for block in range(count) if block not in near)
        rows.append(sorted([*near, *(block for _, block in others[: config.random_blocks])]))
    return torch.tensor(rows, dtype=torch.int64).reshape(count, -1 if count else 0)


def allowed_columns(blocks: Tensor, block_size: int, global_tokens: int) -> Tensor:
    """Which columns each row sees, (N, N), bool, all tokens counted."""
    count = blocks.shape[0]
    sees = torch.zeros(count, count, dtype=torch.bool)
    for own, seen in enumerate(blocks):
        sees[own, seen] = True
    size = global_tokens + count * block_size
    allowed = torch.ones(size, size, dtype=torch.bool)
    patches = sees.repeat_interleave(block_size, 0).repeat_interleave(block_size, 1)
    allowed[global_tokens:, global_tokens:] = patches
    return allowed
