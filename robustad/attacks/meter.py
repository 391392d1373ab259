"""What an attack asked, and the worst it saw on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Record:
    """The worst of everything seen, image by image, by one measure.

    Attributes
    ----------
    value : Tensor, (B,)
        Largest measure, -inf before the first.
    images : Tensor, (B, 3, H, W)
        Where it was seen.
    patch : Tensor, (B, N)
        The patch scores there.
    """

    value: Tensor
    images: Tensor
    patch: Tensor

    @classmethod
    def empty(cls, x: Tensor, patch: Tensor) -> Self:
        """Nothing seen yet of images (B, 3, H, W)."""
        value = torch.full((x.shape[0],), -torch.inf, device=x.device, dtype=patch.dtype)
        return cls(value=value, images=x.clone(), patch=patch.clone())

    def update(
        self, rows: Tensor | None, value: Tensor, images: Tensor, patch: Tensor, repeats: bool
    ) -> None:
        """Keep what is worse than before.

        `rows` says whose images they are (None: everybody's, in order), and may repeat, which
        `repeats` then says.
        """
        better = (value > (self.value if rows is None else self.value[rows])).nonzero().flatten()
        if rows is None and len(better) == len(self.value):  # all of them: one plain copy
            self.value.copy_(value)
            self.images.copy_(images)
            self.patch.copy_(patch)
        elif len(better):
            target = better if rows is None else rows[better]
            if repeats:  # of several candidates for an image the largest, as writes have no order
                order = value[better].argsort()
                last = {int(target[i]): int(better[i]) for i in order.tolist()}
                target = torch.tensor(list(last), device=value.device)
                better = torch.tensor(list(last.values()), device=value.device)
            self.value[target] = value[better]
            self.images[target] = images[better]
            self.patch[target] = patch[better]


@dataclass(kw_only=True)
class Meter:
    """What an attack cost and the worst it saw inside the ball.

    Attributes
    ----------
    forward, backward : Tensor, (B,), int64, on the CPU
        Passes of the detector over each image; forward passes are the queries of a black box.
    dead : Tensor, (B,), int64, on the CPU
        Backward passes whose gradient was zero everywhere.
    image : Record
        Of the largest `(1 - 2y) S`.
    pixel : Record or None
        Of the largest mean over normal patches minus mean over anomalous ones, which is the
        smallest mean pairwise margin; None without masks.
    order : Record or None
        Likewise of the largest `objectives.misorder`, of the margin of squashed logits.
    flags : set of str
        What an attack noticed.
    """

    forward: Tensor
    backward: Tensor
    dead: Tensor
    image: Record
    pixel: Record | None
    order: Record | None
    flags: set[str] = field(default_factory=set)

    @classmethod
    def zero(cls, x: Tensor, patch: Tensor, *, pixel: bool) -> Self:
        """Nothing asked yet about images (B, 3, H, W) with clean patch scores (B, N)."""
        counts = [torch.zeros(x.shape[0], dtype=torch.int64) for _ in range(3)]
        return cls(
            forward=counts[0],
            backward=counts[1],
            dead=counts[2],
            image=Record.empty(x, patch),
            pixel=Record.empty(x, patch) if pixel else None,
            order=Record.empty(x, patch) if pixel else None,
        )

    @property
    def harm(self) -> Tensor:
        """Largest `(1 - 2y) S` (B,) seen inside the ball."""
        return self.image.value

    @property
    def worst(self) -> Tensor:
        """The images (B, 3, H, W) it was seen at."""
        return self.image.images
