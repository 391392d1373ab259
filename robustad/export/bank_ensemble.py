"""A bank ensemble's patch scores in operations that ONNX knows."""

import torch
from torch import Tensor, nn

from robustad.detectors.anomaly_dino import AnomalyDINO
from robustad.detectors.ensemble import BankEnsemble
from robustad.export.anomaly_dino import AnomalyDINOGraph


class BankEnsembleGraph(nn.Module):
    """From images to patch scores, as `BankEnsemble.patch_scores`: every bank is in the file.

    Parameters
    ----------
    detector : BankEnsemble
        Fitted.

    Raises
    ------
    NotFittedError
        If the ensemble has no banks.
    """

    def __init__(self, detector: BankEnsemble) -> None:
        super().__init__()
        self._detector = (detector,)  # hidden from torch, as in `AnomalyDINOGraph`
        self.views = nn.ModuleList(
            AnomalyDINOGraph(_known(view), detector.member_banks(place))
            for place, view in enumerate(detector.views)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Patch scores (B, N) of images (B, 3, H, W)."""
        detector, size = self._detector[0], (image.shape[2], image.shape[3])
        found = []
        for place, view in enumerate(self.views):
            assert isinstance(view, AnomalyDINOGraph)
            found += [detector.joined(scores, place, size) for scores in view.members(image)]
        return torch.stack(found).mean(dim=0)


def _known(view: nn.Module) -> AnomalyDINO:
    assert isinstance(view, AnomalyDINO)
    return view
