"""Images that an attacker has of the other class, where searches for the boundary start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from robustad.errors import InputError

# Images for all, or by their label: 0 normal, 1 anomalous.
Pool: TypeAlias = "Tensor | Mapping[int, Tensor]"


def check_pool(pool: Pool | None, shape: tuple[int, ...]) -> None:
    """Check that a pool has images of one shape (3, H, W) with values in [0, 1].

    Raises
    ------
    InputError
        If it has not.
    """
    if pool is None:
        return
    if isinstance(pool, Mapping) and not set(pool) <= {0, 1}:
        raise InputError(f"pool: expected the labels 0 and 1 as keys, got {sorted(pool)}")
    for images in pool.values() if isinstance(pool, Mapping) else (pool,):
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1:] != shape:
            found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"pool: expected images (M, {shape}), got {found}")
        if len(images) and not bool(((images >= 0) & (images <= 1)).all()):
            raise InputError("pool: expected values in [0, 1]")


def offered(pool: Pool | None, x: Tensor, label: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Give each image those of the pool that are of the other class, the nearest in l2 first.

    Parameters
    ----------
    pool : Tensor (M, 3, H, W), mapping of label to such tensors, or None
        A tensor alone is offered to all images.
    x : Tensor, (B, 3, H, W)
        Images to attack.
    label : Tensor, (B,)
        0 normal, 1 anomalous.

    Yields
    ------
    candidates : Tensor, (B, 3, H, W)
        The next one for each image; the image itself where there are no more.
    there : Tensor, (B,), bool
        Where there was one.

    Examples
    --------
    >>> x = torch.zeros(1, 3, 1, 1)
    >>> pool = {0: torch.tensor([0.9, 0.4]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)}
    >>> [round(float(one[0, 0, 0, 0]), 1) for one, _ in offered(pool, x, torch.tensor([1]))]
    [0.4, 0.9]
    >>> list(offered(pool, x, torch.tensor([0])))
    []
    """
    by_label = (
        dict(pool) if isinstance(pool, Mapping) else {} if pool is None else {0: pool, 1: pool}
    )
    orders: list[tuple[Tensor, Tensor] | None] = []
    for image, kind in zip(x, label.tolist(), strict=True):
        images = by_label.get(1 - int(kind))
        if images is None or not len(images):
            orders.append(None)
            continue
        far = torch.stack([torch.linalg.vector_norm(one.to(image) - image) for one in images])
        orders.append((images, far.argsort(stable=True)))
    for turn in range(max((len(one[0]) for one in orders if one is not None), default=0)):
        candidates = x.clone()
        there = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for row, one in enumerate(orders):
            if one is not None and turn < len(one[0]):
                images, order = one
                candidates[row], there[row] = images[order[turn]].to(x), True
        yield candidates, there
