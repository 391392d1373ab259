"""Whitening of hand-made features, whose channels differ in scale and are correlated."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Directions with less variance than this share of the mean are noise; they are not blown up.
SHRINKAGE = 0.15
# Centred vectors of typical patches are short and point anywhere, so that their cosine distances
# are large for no reason. One constant coordinate, this multiple of a typical vector's length,
# makes short vectors alike and keeps long ones (outliers) far from them.
OFFSET = 0.5


@dataclass(frozen=True)
class Whitening:
    """An affine map that makes features centred and of nearly equal variance in all directions.

    Directions of little variance keep less of it, see `SHRINKAGE`; a constant coordinate is
    appended, see `OFFSET`.

    Attributes
    ----------
    centre : Tensor, (D,)
        Mean of the features it was fitted on.
    matrix : Tensor, (D, D)
        Symmetric (ZCA) whitening matrix.
    """

    centre: Tensor
    matrix: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Whiten features (..., D) to (..., D + 1)."""
        white = (features - self.centre) @ self.matrix
        constant = torch.full_like(white[..., :1], OFFSET * white.shape[-1] ** 0.5)
        return torch.cat([white, constant], dim=-1)

    @classmethod
    def fit(cls, features: Tensor) -> "Whitening":
        """Fit on features (M, D)."""
        wide = features.double()
        centre = wide.mean(dim=0)
        centred = wide - centre
        covariance = centred.T @ centred / max(1, wide.shape[0] - 1)
        variance, axes = torch.linalg.eigh(covariance)
        floor = SHRINKAGE * variance.mean().clamp_min(1e-12)
        matrix = (axes / (variance.clamp_min(0.0) + floor).sqrt()) @ axes.T
        return cls(centre.to(features.dtype), matrix.to(features.dtype))
