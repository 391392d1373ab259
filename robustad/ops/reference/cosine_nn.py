"""Torch twin of `cosine_nn`: matrix products over blocks of the bank."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Bank rows scored at once: the search holds (Q, BLOCK) similarities.
BLOCK = 4096


def unit_vectors(rows: Tensor) -> Tensor:
    """Vectors (n, D), float32, at length 1; zero vectors stay zero.

    Any length is served, to the ends of the dtype's range: the largest component is taken out
    first, so that no square overflows or vanishes. Differentiable; a vector that is not finite
    turns into NaN.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    largest = rows.detach().abs().amax(dim=1, keepdim=True)
    scaled = rows / torch.where(largest == 0, 1.0, largest)
    return F.normalize(scaled, dim=1, eps=1e-12).float()


def cosine_nn_torch(queries: Tensor, unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances (Q, k) and rows (Q, k) of the nearest of the unit vectors (M, D).

    As `cosine_nn`, differentiable with respect to both arguments, on any device. On CUDA the
    search is as precise as torch's float32 matrix products are set to be.
    """
    unit_queries = unit_vectors(queries)
    # Autocast would turn the float32 search into an inexact one.
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        indices = _search(unit_queries.detach(), unit.detach(), k)
    return distances_to(unit_queries, unit, indices)


def distances_to(unit_queries: Tensor, unit: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (Q, k) of unit queries to the rows (Q, k) chosen for them, ascending."""
    distances = 1.0 - (unit[indices] * unit_queries.unsqueeze(1)).sum(dim=2)
    distances = distances.clamp(0.0, 2.0)
    if indices.shape[1] > 1:  # the last bits of a product may swap near-equal neighbours
        distances, order = distances.sort(dim=1, stable=True)
        indices = indices.gather(1, order)
    return distances, indices


def _search(queries: Tensor, unit: Tensor, k: int) -> Tensor:
    best = queries.new_full((queries.shape[0], k), -torch.inf)
    indices = torch.zeros(queries.shape[0], k, dtype=torch.int64, device=queries.device)
    for start in range(0, unit.shape[0], BLOCK):
        similarity = queries @ unit[start : start + BLOCK].T
        if k == 1:
            top, at = similarity.max(dim=1, keepdim=True)
            better = top > best
            best = torch.where(better, top, best)
            indices = torch.where(better, at + start, indices)
        else:
            top, at = similarity.topk(min(k, similarity.shape[1]), dim=1)
            best, order = torch.cat([best, top], dim=1).topk(k, dim=1)
            indices = torch.cat([indices, at + start], dim=1).gather(1, order)
    return indices
