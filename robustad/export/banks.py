"""Memory banks of exported files in fewer bits than float32, still searched in chunks.

`bfloat16` stores the vectors rounded to 8 significant bits. `int8` stores codes of 7 bits, which
find candidates, and the vectors in steps of 1 / 32767, by which these are ranked in float32.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustad.errors import InputError
from robustad.export.anomaly_dino import CHUNK, ChunkedNeighbours

BankPrecision: TypeAlias = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[BankPrecision, ...] = ("float32", "bfloat16", "int8")
# Candidates that int8 codes find beyond the k wanted.
SPARE = 8
# A pair of products of such a code with a byte fits 16 bits: AVX2 without VNNI saturates there.
CODE, QUERY, ZERO = 64, 127, 128
FINE = 32767


@torch.library.custom_op("robustad::integer_products", mutates_args=())
def integer_products(rows: Tensor, codes: Tensor) -> Tensor:
    """Products (..., C), int32, of uint8 rows (..., D) about 128 with int8 codes (D, C)."""
    # float64 holds every such sum exactly, and torch multiplies it fast
    return ((rows.double() - ZERO) @ codes.double()).to(torch.int32)


@integer_products.register_fake
def _(rows: Tensor, codes: Tensor) -> Tensor:
    return rows.new_empty((*rows.shape[:-1], codes.shape[1]), dtype=torch.int32)


class Bfloat16Neighbours(ChunkedNeighbours):
    """`ChunkedNeighbours` of a bank that is stored in bfloat16 and multiplied in float32.

    A distance is off by at most 2^-9, the largest length that rounding takes from a unit vector.

    Parameters
    ----------
    bank : Tensor, (M, D), float32
        Vectors of unit length.
    k : int in 1..M
        Number of neighbours.
    """

    def __init__(self, bank: Tensor, k: int) -> None:
        super().__init__(bank, k)
        for name in self.names:
            setattr(self, name, self.get_buffer(name).bfloat16())

    def _chunk(self, name: str) -> Tensor:
        return self.get_buffer(name).float()


class Int8Neighbours(nn.Module):
    """Nearest vectors among candidates that 7-bit codes find.

    Every chunk gives its k + 8 best by integer products, the k + 8 best of all are compared in
    float32. A candidate's distance is off by at most sqrt(D) / 65534 (3e-4 of 384 dimensions), as
    its vector is stored in steps of 1 / 32767. That the nearest vector is among the candidates is
    not proven but measured; a miss gives the distance of one that is almost as near.

    Parameters
    ----------
    bank : Tensor, (M, D), float32
        Vectors of unit length.
    k : int in 1..M
        Number of neighbours.
    """

    def __init__(self, bank: Tensor, k: int) -> None:
        super().__init__()
        self.k, self.candidates = k, min(k + SPARE, bank.shape[0])
        # Rows of like range share a chunk, and so a step: products of a chunk compare as integers.
        bank = bank[bank.abs().amax(dim=1).argsort(stable=True)]
        self.names, self.steps, self.starts = [], [], []
        start = 0
        for index, chunk in enumerate(torch.split(bank, CHUNK)):
            step = max(float(chunk.abs().max()), 1e-12) / CODE
            self.names.append(f"codes_{index}")
            self.steps.append(step)
            self.starts.append(start)
            start += chunk.shape[0]
            codes = (chunk / step).round().clamp(-CODE, CODE).to(torch.int8)
            self.register_buffer(self.names[-1], codes.T.contiguous())
        self.register_buffer("vectors", (bank * FINE).round().to(torch.int16))

    def forward(self, features: Tensor) -> Tensor:
        """Distances (B, N, k), float32 in [0, 2], ascending, of features (B, N, D)."""
        unit = F.normalize(features.float(), dim=2, eps=1e-12)
        step = unit.abs().amax(dim=2, keepdim=True).clamp(min=1e-12) / QUERY
        rows = ((unit / step).round() + ZERO).clamp(0, 255).to(torch.uint8)
        scores, places = [], []
        for name, scale, start in zip(self.names, self.steps, self.starts, strict=True):
            codes = self.get_buffer(name)
            products = integer_products(rows, codes)
            best = products.topk(min(self.candidates, codes.shape[1]), dim=2)
            scores.append(best.values.float() * scale)
            places.append(best.indices + start)
        place = places[0]
        if len(places) > 1:
            chosen = torch.cat(scores, dim=2).topk(self.candidates, dim=2).indices
            place = torch.cat(places, dim=2).gather(2, chosen)
        vectors = self.get_buffer("vectors")[place].float()  # (B, N, candidates, D)
        similarity = (vectors @ unit.unsqueeze(3)).squeeze(3) / FINE
        nearest = similarity.topk(self.k, dim=2).values
        return (1.0 - nearest).clamp(0.0, 2.0)


def use_bank(graph: nn.Module, precision: BankPrecision) -> nn.Module:
    """Replace the float32 banks of a module.

    Parameters
    ----------
    graph : nn.Module
        Changed in place.
    precision : {"float32", "bfloat16", "int8"}
        Of the stored banks.

    Raises
    ------
    InputError
        If the precision is unknown, or is not float32 and there is no bank.
    """
    if precision not in PRECISIONS:
        raise InputError(f"bank: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "float32":
        return graph
    kind = Bfloat16Neighbours if precision == "bfloat16" else Int8Neighbours
    found = False
    for module in list(graph.modules()):
        for name, child in list(module.named_children()):
            if type(child) is ChunkedNeighbours:
                bank = torch.cat([child.get_buffer(one) for one in child.names], dim=1).T
                setattr(module, name, kind(bank.contiguous(), child.k))
                found = True
    if not found:
        raise InputError(
            f"bank: expected a detector with a memory bank for {precision!r}, got one without; "
            "export with bank='float32'"
        )
    return graph
