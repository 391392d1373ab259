"""A stem of small convolutions for a vision transformer, in place of its one large one."""

import math

import torch.nn as nn

from robustad.errors import InputError


def conv_stem(patch_size: int, dim: int) -> nn.Sequential:
    """From images to patch tokens by 3 x 3 convolutions that halve the resolution.

    Parameters
    ----------
    patch_size : int
        A power of two, at least 2.
    dim : int
        Channels of a token; the convolutions have `dim / 2`, `dim / 4`, ... before it.

    Returns
    -------
    nn.Sequential
        From (B, 3, H, W) to (B, dim, H / patch_size, W / patch_size).

    Raises
    ------
    InputError
        If `patch_size` is no power of two.

    Notes
    -----
    Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021, with group
    normalisation in place of batch normalisation: attacked and clean images share batches.

    Examples
    --------
    >>> import torch
    >>> conv_stem(8, 32)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 32, 4, 4])
    """
    halvings = round(math.log2(patch_size)) if patch_size > 1 else 0
    if patch_size < 2 or 2**halvings != patch_size:
        raise InputError(f"stem: 'conv' needs patches of 2, 4, 8, ... pixels, got {patch_size}")
    layers: list[nn.Module] = []
    channels = 3
    for left in reversed(range(halvings)):
        wider = max(8, dim // 2**left)
        layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.GroupNorm(1, wider)]
        layers.append(nn.GELU())
        channels = wider
    return nn.Sequential(*layers, nn.Conv2d(channels, dim, 1))
