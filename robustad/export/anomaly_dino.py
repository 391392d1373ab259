"""AnomalyDINO's patch scores in operations that ONNX knows."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustad.detectors.anomaly_dino import AnomalyDINO
from robustad.detectors.whitening import Whitening
from robustad.errors import NotFittedError

# Bank rows compared at once. Splitting the bank bounds the memory of the similarities: a batch of
# 8 images of 1024 patches takes 128 MiB, however large the bank.
CHUNK = 4096


class AnomalyDINOGraph(nn.Module):
    """From images to patch scores, as `AnomalyDINO.patch_scores` but for the neighbour search.

    Parameters
    ----------
    detector : AnomalyDINO
        Fitted.
    banks : sequence of Tensor, (m, D), float32, optional
        Of unit length, in place of the detector's own.

    Raises
    ------
    NotFittedError
        If the detector has no bank.
    """

    def __init__(self, detector: AnomalyDINO, banks: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        if detector.bank.shape[0] == 0:
            raise NotFittedError(
                "this detector has no memory bank to export: call fit(images) first"
            )
        # A tuple hides the detector from torch: its bank would be exported a second time.
        self._detector = (detector,)
        self.backbone = detector.backbone
        banks = [detector.bank] if banks is None else banks
        self.neighbours = nn.ModuleList(ChunkedNeighbours(bank, detector.k) for bank in banks)
        self.whiten = detector.config().whiten
        if self.whiten:
            self.register_buffer("centre", detector.centre)
            self.register_buffer("whitening", detector.whitening)

    def forward(self, image: Tensor) -> Tensor:
        """Patch scores (B, N) of images (B, 3, H, W)."""
        return self.members(image)[0]

    def members(self, image: Tensor) -> list[Tensor]:
        """Patch scores (B, N) by each of the banks."""
        detector = self._detector[0]
        # Not backbone(image): its check of the size is for users, the runtime does it.
        tokens = self.backbone.features(image)
        features = tokens
        if self.whiten:
            features = Whitening(self.get_buffer("centre"), self.get_buffer("whitening"))(tokens)
        found = [detector.reduced(neighbours(features)) for neighbours in self.neighbours]
        if detector.mask:
            mask = detector.foreground(tokens, image)
            found = [scores * mask for scores in found]
        return found


class ChunkedNeighbours(nn.Module):
    """`ops.cosine_nn` without indices: a matrix product and a maximum for each chunk of the bank.

    Parameters
    ----------
    bank : Tensor, (M, D), float32
        Vectors of unit length.
    k : int in 1..M
        Number of neighbours.
    """

    def __init__(self, bank: Tensor, k: int) -> None:
        super().__init__()
        self.k = k
        self.names = []
        for index, chunk in enumerate(torch.split(bank, CHUNK)):
            self.names.append(f"bank_{index}")
            self.register_buffer(self.names[-1], chunk.T.contiguous())

    def forward(self, features: Tensor) -> Tensor:
        """Distances (B, N, k), float32 in [0, 2], ascending, of features (B, N, D)."""
        unit = F.normalize(features.float(), dim=2, eps=1e-12)
        nearest = [self._largest(unit @ self._chunk(name)) for name in self.names]
        similarity = nearest[0] if len(nearest) == 1 else self._largest(torch.cat(nearest, dim=2))
        return (1.0 - similarity).clamp(0.0, 2.0)

    def _chunk(self, name: str) -> Tensor:
        """One chunk's vectors (D, m), float32."""
        return self.get_buffer(name)

    def _largest(self, similarity: Tensor) -> Tensor:
        if self.k == 1:
            return similarity.amax(dim=2, keepdim=True)
        return similarity.topk(min(self.k, similarity.shape[2]), dim=2).values
