"""Graphs that use robustad's own ONNX operators in place of standard ones."""

from __future__ import annotations

import torch
from onnxscript import ir
from torch import Tensor, nn

from robustad.errors import InputError
from robustad.export.anomaly_dino import ChunkedNeighbours
from robustad.ops import _cosine_nn
from robustad.runtime._custom_ops import DOMAIN


class SearchedNeighbours(nn.Module):
    """`ChunkedNeighbours` as one exact search of the whole bank.

    Parameters
    ----------
    chunked : ChunkedNeighbours
        Whose bank and number of neighbours are taken.
    """

    def __init__(self, chunked: ChunkedNeighbours) -> None:
        super().__init__()
        self.k = chunked.k
        bank = torch.cat([chunked.get_buffer(name) for name in chunked.names], dim=1)
        self.register_buffer("bank", bank.T.contiguous())

    def forward(self, features: Tensor) -> Tensor:
        """Distances (B, N, k), float32 in [0, 2], ascending, of features (B, N, D)."""
        rows = features.float().flatten(0, 1)
        unpacked = rows.new_empty(0, dtype=torch.uint8)  # the operator packs its bank by itself
        distances: Tensor
        distances, _ = _cosine_nn.search(rows, self.get_buffer("bank"), unpacked, unpacked, self.k)
        return distances.reshape(features.shape[0], features.shape[1], self.k)


def use_custom_ops(graph: nn.Module) -> nn.Module:
    """Replace in a module what robustad has an operator for."""
    for module in list(graph.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ChunkedNeighbours):
                setattr(module, name, SearchedNeighbours(child))
    return graph


def custom_ops_in(model: ir.Model) -> list[str]:
    """Names of the operators of robustad's that a model uses, `robustad.CosineNearest` for one.

    Raises
    ------
    InputError
        If there are none.
    """
    found = {
        f"{node.domain}.{node.op_type}"
        for graph in (model.graph, *(function.graph for function in model.functions.values()))
        for node in graph.all_nodes()
        if node.domain == DOMAIN
    }
    if not found:
        raise InputError(
            "custom_ops: expected a detector with a memory bank, got one that robustad has no "
            "operator for; export without custom_ops"
        )
    return sorted(found)
