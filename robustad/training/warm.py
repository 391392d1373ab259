"""Where the last attack on each training image ended, for attacks that start there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustad.training.distributed import Processes


class WarmStarts:
    """Perturbations of normal images and of their pseudo-anomalies, held in 16 bits.

    Parameters
    ----------
    count : int
        Number M of training images.
    shape : sequence of int
        Of one image, (3, S, S).

    Attributes
    ----------
    ended : Tensor, (M, 2, 3, S, S), float16, on the CPU
        Of each image and of its pseudo-anomaly; NaN until they are first attacked.
    """

    def __init__(self, count: int, shape: Sequence[int]) -> None:
        self.ended = torch.full((count, 2, *shape), torch.nan, dtype=torch.float16)

    def take(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """Perturbations (2n, 3, S, S), float32: those of n images, then of their anomalies."""
        return self.ended[list(rows)].transpose(0, 1).flatten(0, 1).float().to(device)

    def keep(self, rows: Sequence[int], delta: Tensor, processes: Processes) -> None:
        """Keep what the attacks of one step ended with.

        Parameters
        ----------
        rows : sequence of int
            All images of the step, `processes.count` times n of them; this process has every
            `processes.count`-th.
        delta : Tensor, (2n, 3, S, S)
            Perturbations that this process found, in the order of `take`.
        processes : Processes
            Each learns what the others found: the next epoch deals the images out anew.
        """
        for rank, part in enumerate(processes.gathered(delta.half())):
            pairs = part.cpu().reshape(2, -1, *part.shape[1:]).transpose(0, 1)
            # One by one: a step across two draws may have an image twice, and the later one stays.
            for row, pair in zip(rows[rank :: processes.count], pairs, strict=True):
                self.ended[row] = pair
