"""A memory bank packed for its search once, not at every pass."""

from __future__ import annotations

import torch
from torch import Tensor

from robustad.ops import PackedBank, pack_bank


class PackedOnce:
    """Gives the packed form of a bank, and keeps that of the last one.

    It is made anew when the bank is another tensor, as after a move to another device, or was
    changed in place. A copy or a pickle starts empty: its versions are not those of the original.
    """

    def __init__(self) -> None:
        self._kept: tuple[Tensor, int, PackedBank] | None = None

    def __call__(self, bank: Tensor) -> PackedBank:
        """Pack a bank (M, D) of vectors of unit length."""
        if bank.dtype != torch.float32:
            return pack_bank(bank)
        # A graph can't depend on a version, and an inference tensor has none.
        if torch.compiler.is_compiling() or bank.is_inference():
            return PackedBank.of_unit(bank)
        kept = self._kept
        if kept is None or kept[0] is not bank or kept[1] != bank._version:
            self._kept = kept = bank, bank._version, PackedBank.of_unit(bank)
        return kept[2]

    def __reduce__(self) -> tuple[type[PackedOnce], tuple[()]]:
        return PackedOnce, ()
