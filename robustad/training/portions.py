"""How many images pass a network at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from robustad.networks import PatchNetwork

# Hidden values of one layer. Above a few MB a CPU's allocator gives every tensor back to the
# system, and faulting its pages in again costs more than larger products save.
CPU_VALUES = 2**20
_COUPLED = (nn.modules.batchnorm._BatchNorm,)


def images_at_once(network: PatchNetwork, device: torch.device) -> int | None:
    """Images a pass that suit the device; None for as many as there are.

    Parameters
    ----------
    network : PatchNetwork
        Tokens and width of its layers decide, on a CPU. A network with batch normalisation sees
        the whole batch, as its output depends on it.
    device : torch.device
        Where it runs.
    """
    width = getattr(getattr(network, "body", None), "embed_dim", None)
    coupled = any(isinstance(part, _COUPLED) for part in network.modules())
    if device.type != "cpu" or coupled or not isinstance(width, int):
        return None
    rows, columns = network.grid
    return max(1, CPU_VALUES // (rows * columns * width))


def portions(count: int, size: int | None) -> Iterator[slice]:
    """Cut `count` images into runs of at most `size`.

    Examples
    --------
    >>> list(portions(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    >>> list(portions(5, None))
    [slice(0, 5, None)]
    """
    size = count if size is None else size
    for first in range(0, count, max(size, 1)):
        yield slice(first, min(first + size, count))
