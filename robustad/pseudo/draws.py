"""All randomness of a batch, one generator an image, so that no image depends on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from robustad.pseudo.config import PseudoConfig, Transformation
from robustad.pseudo.levels import (
    COUNTS,
    KNOWN,
    MOST_DRAWN,
    MOST_LINES,
    MOST_RECTANGLES,
    RANGES,
)
from robustad.pseudo.perlin import LATTICE, OCTAVES
from robustad.pseudo.placement import DRAWS_A_TRY, TRIES

DRAWN: Final[tuple[Transformation, ...]] = (
    "elastic",
    "swirl",
    "blur",
    "jpeg",
    "lines",
    "perlin",
    "erasing",
)
# Uniform numbers of one anomaly, by what they decide.
SLOTS: Final = {
    "place": TRIES * DRAWS_A_TRY,
    "level": 1,
    "how_many": 1,
    "which": len(DRAWN),
    "colour_early": 1,
    "warp_early": 1,
    "colour": 8,
    "elastic": 1,
    "swirl": 1,
    "blur": 1,
    "jpeg": 1,
    "lines": 1,
    "line": 7 * MOST_LINES,
    "perlin": 5,
    "erasing": 2,
    "rectangle": 6 * MOST_RECTANGLES,
    "rotation": 1,
    "opacity": 1,
}
WIDTH = sum(SLOTS.values())


@dataclass(frozen=True)
class Draws:
    """Random numbers of one anomaly in each of B images.

    Attributes
    ----------
    level : Tensor, (B,), int64, on the CPU
        0 light, 1 medium, 2 heavy.
    chosen : dict of Tensor, (B,), bool, on the CPU
        Which patches each transformation is applied to.
    slots : dict of Tensor, (B, k), float32 in [0, 1)
        Uniform numbers by what they decide.
    coins : dict of Tensor, (B,), bool, on the CPU
        Whether colour jitter and warping come early.
    fields : dict of Tensor
        Noise of the chosen images only: `elastic` (n, 2, E, E) in [-1, 1), `perlin`
        (n, octaves, lattice, lattice) in [0, 1).
    """

    level: Tensor
    chosen: dict[Transformation, Tensor]
    slots: dict[str, Tensor]
    coins: dict[str, Tensor] = field(default_factory=dict)
    fields: dict[str, Tensor] = field(default_factory=dict)

    def rows(self, which: Tensor) -> Draws:
        """Those of some images, given by a mask on the CPU; without their fields."""
        index = which.nonzero().squeeze(1)
        device = self.slots["place"].device
        return Draws(
            level=self.level[index],
            chosen={name: value[index] for name, value in self.chosen.items()},
            slots={name: value[index.to(device)] for name, value in self.slots.items()},
        )

    def uniform(self, name: str, u: Tensor) -> Tensor:
        """Scale numbers `u` (B,) to the range that `name` has at each image's level."""
        low, high = torch.tensor(RANGES[name])[self.level].to(u.device).unbind(1)
        return low + u * (high - low)

    def integer(self, name: str, u: Tensor) -> Tensor:
        """Scale numbers `u` (B,) to whole numbers of the range of `name`, both ends included."""
        low, high = torch.tensor(COUNTS[name])[self.level].to(u.device).unbind(1)
        return low + torch.floor(u * (high - low + 1)).long()


def draw(
    seeds: Sequence[int], config: PseudoConfig, edge: int, device: torch.device
) -> list[Draws]:
    """Draw everything that one batch needs.

    Parameters
    ----------
    seeds : sequence of B int
        One an image.
    config : PseudoConfig
        What may be drawn.
    edge : int
        Edge of the canvas in pixels.
    device : torch.device
        Where the numbers go.

    Returns
    -------
    list of Draws
        One a pasted patch of each image.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    numbers = [torch.rand(config.count, WIDTH, generator=one) for one in generators]
    batch = torch.stack(numbers) if numbers else torch.empty(0, config.count, WIDTH)
    moved = batch.to(device, non_blocking=True)
    drawn = []
    for k in range(config.count):
        slots = _split(batch[:, k])
        level, chosen = _choose(slots, config)
        coins = {name: slots[name].squeeze(1) < 0.5 for name in ("colour_early", "warp_early")}
        fields = {
            "elastic": _noise(generators, chosen["elastic"], (2, edge, edge)) * 2 - 1,
            "perlin": _noise(generators, chosen["perlin"], (OCTAVES, LATTICE, LATTICE)),
        }
        fields = {name: value.to(device, non_blocking=True) for name, value in fields.items()}
        drawn.append(Draws(level, chosen, _split(moved[:, k]), coins, fields))
    return drawn


def _split(numbers: Tensor) -> dict[str, Tensor]:
    parts = torch.split(numbers, list(SLOTS.values()), dim=1)
    return dict(zip(SLOTS, parts, strict=True))


def _choose(
    slots: dict[str, Tensor], config: PseudoConfig
) -> tuple[Tensor, dict[Transformation, Tensor]]:
    """Level of each patch and which transformations it gets."""
    edges = torch.tensor(config.levels).cumsum(0)[:2]
    level = torch.bucketize(slots["level"][:, 0].contiguous(), edges, right=True)
    # A level of probability 0 must not be met through rounding of the sum.
    possible = max(i for i, p in enumerate(config.levels) if p > 0)
    level = level.clamp(max=possible)
    allowed = torch.tensor(
        [[name in known and name in config.transformations for name in DRAWN] for known in KNOWN]
    )[level]
    most = torch.tensor(MOST_DRAWN)[level]
    how_many = torch.floor(slots["how_many"].squeeze(1) * (most + 1)).long()
    keys = slots["which"].masked_fill(~allowed, 2.0)
    rank = keys.argsort(dim=1).argsort(dim=1)
    picked = (rank < how_many[:, None]) & allowed
    chosen = dict(zip(DRAWN, picked.unbind(1), strict=True))
    chosen["colour"] = torch.full_like(level, "colour" in config.transformations, dtype=torch.bool)
    return level, chosen


def _noise(generators: list[torch.Generator], chosen: Tensor, shape: tuple[int, ...]) -> Tensor:
    wanted = [torch.rand(shape, generator=generators[i]) for i in chosen.nonzero().squeeze(1)]
    return torch.stack(wanted) if wanted else torch.empty(0, *shape)
