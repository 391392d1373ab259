"""How much patch scores hurt pixel metrics, for everything an attack tries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.attacks.objectives import LogitScale


@dataclass(frozen=True, kw_only=True)
class PixelHarm:
    """The objectives `flip` and `misorder` of the same images again and again, in few operations.

    What depends on masks and levels alone is made once. Values are those of the objectives,
    bitwise.

    Attributes
    ----------
    inside, outside : Tensor, (B, N)
        1 for anomalous and for normal patches.
    within, without : Tensor, (B,)
        How many there are of either, at least 1.
    tau, temperature : Tensor, (2, B, 1)
        Level and unit of the logits by the detector's scale, and by the image's own patches.
    """

    inside: Tensor
    outside: Tensor
    within: Tensor
    without: Tensor
    tau: Tensor
    temperature: Tensor

    @classmethod
    def of(cls, mask: Tensor, scale: LogitScale | None, own: LogitScale, like: Tensor) -> Self:
        """For patch masks (B, N); without a scale, scores are logits. Of the dtype of a tensor."""
        inside = mask.to(like.dtype)
        outside = 1 - inside
        zero, one = like.new_zeros(len(mask)), like.new_ones(len(mask))
        levels = (zero, one) if scale is None else (scale.tau, scale.temperature)
        return cls(
            inside=inside,
            outside=outside,
            within=inside.sum(dim=1).clamp_min(1),
            without=outside.sum(dim=1).clamp_min(1),
            tau=torch.stack([levels[0], own.tau])[:, :, None],
            temperature=torch.stack([levels[1], own.temperature])[:, :, None],
        )

    @torch.no_grad()
    def __call__(self, patch: Tensor) -> Tensor:
        """Both measures (2, B) of patch scores (B, N)."""
        squashed = F.softsign((patch - self.tau) / self.temperature)
        values = torch.stack([patch, (squashed[0] + squashed[1]) / 2])
        raised = (values * self.outside).sum(dim=2) / self.without
        return raised - (values * self.inside).sum(dim=2) / self.within
