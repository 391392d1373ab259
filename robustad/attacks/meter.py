"""What an attack asked, and the worst it saw on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from robustad.attacks.rows import overwrite


@dataclass(kw_only=True)
class Record:
    """The worst of everything seen, image by image, by one measure.

    Attributes
    ----------
    value : Tensor, (B,)
        Largest measure, -inf before the first; a view of the meter's `values`.
    images : Tensor, (B, 3, H, W)
        Where it was seen.
    patch : Tensor, (B, N)
        The patch scores there.
    """

    value: Tensor
    images: Tensor
    patch: Tensor

    @classmethod
    def empty(cls, x: Tensor, patch: Tensor, value: Tensor) -> Self:
        """Nothing seen yet of images (B, 3, H, W), as `value` (B,) says and will say."""
        return cls(value=value, images=x.clone(), patch=patch.clone())

    def _write(
        self, rows: Tensor, better: Tensor, value: Tensor, images: Tensor, patch: Tensor
    ) -> None:
        """Take in what is better (B,), bool, of images whose places are `rows`, which may repeat.

        Of several candidates for an image the largest, as writes have no order.
        """
        places = better.nonzero().flatten()
        if not len(places):
            return
        places = places[value[places].argsort()]
        last = dict(zip(rows[places].tolist(), places.tolist(), strict=True))
        target = torch.tensor(list(last), device=value.device)
        places = torch.tensor(list(last.values()), device=value.device)
        for mine, theirs in ((self.value, value), (self.images, images), (self.patch, patch)):
            mine[target] = theirs[places]


@dataclass(kw_only=True)
class Meter:
    """What an attack cost and the worst it saw inside the ball.

    Attributes
    ----------
    forward, backward : Tensor, (B,), int64, on the CPU
        Passes of the detector over each image; forward passes are the queries of a black box.
    dead : Tensor, (B,), int64, on the CPU
        Backward passes whose gradient was zero everywhere.
    values : Tensor, (1, B) or (3, B)
        The records' measures, in the order below, -inf before the first.
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
    values: Tensor
    image: Record
    pixel: Record | None
    order: Record | None
    flags: set[str] = field(default_factory=set)

    @classmethod
    def zero(cls, x: Tensor, patch: Tensor, *, pixel: bool) -> Self:
        """Nothing asked yet about images (B, 3, H, W) with clean patch scores (B, N)."""
        counts = [torch.zeros(x.shape[0], dtype=torch.int64) for _ in range(3)]
        shape = (3 if pixel else 1, x.shape[0])
        values = torch.full(shape, -torch.inf, device=x.device, dtype=patch.dtype)
        records = [Record.empty(x, patch, value) for value in values]
        return cls(
            forward=counts[0],
            backward=counts[1],
            dead=counts[2],
            values=values,
            image=records[0],
            pixel=records[1] if pixel else None,
            order=records[2] if pixel else None,
        )

    @property
    def records(self) -> list[Record]:
        """All there are, in the order of `values`."""
        return [one for one in (self.image, self.pixel, self.order) if one is not None]

    def record(self, rows: Tensor | None, values: Tensor, images: Tensor, patch: Tensor) -> None:
        """Keep what is worse than before.

        Parameters
        ----------
        rows : Tensor, (C,), int64, or None
            Whose images they are; None for everybody's, in order.
        values : Tensor, (1, C) or (3, C)
            Their measures.
        images : Tensor, (C, 3, H, W)
            Candidates; copied.
        patch : Tensor, (C, N)
            Their patch scores.
        """
        better = values > (self.values if rows is None else self.values[:, rows])
        if rows is not None:
            for record, improved, value in zip(self.records, better, values, strict=True):
                record._write(rows, improved, value, images, patch)
            return
        torch.where(better, values, self.values, out=self.values)
        for record, improved in zip(self.records, better, strict=True):
            overwrite(improved, (record.images, images), (record.patch, patch))

    @property
    def harm(self) -> Tensor:
        """Largest `(1 - 2y) S` (B,) seen inside the ball."""
        return self.image.value

    @property
    def worst(self) -> Tensor:
        """The images (B, 3, H, W) it was seen at."""
        return self.image.images
