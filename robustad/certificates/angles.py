"""The nearest-neighbour certificate: features that turn by an angle, and what scores do then."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustad.attacks.probe import FeatureScorer
from robustad.certificates.topk import Bounds
from robustad.errors import InputError

if TYPE_CHECKING:
    from robustad.detectors import AnomalyDINO

# What `ops.cosine_nn` may be off in float32; widened by it, bounds hold for exact distances too.
ROUNDING = 4e-6


def angular_bounds(distances: Tensor, theta: float | Tensor) -> Bounds:
    """Range of cosine distances to the nearest bank vectors when features turn by an angle.

    Parameters
    ----------
    distances : Tensor, any shape, floating point in [0, 2]
        `1 - cos` to the nearest, or the k-th nearest, bank vector.
    theta : float or Tensor, radians in [0, pi]
        Largest angle between the feature before and after, for all patches or (broadcast) for
        each.

    Returns
    -------
    Bounds
        `1 - cos max(0, phi - theta)` and `1 - cos min(pi, phi + theta)` with
        `phi = arccos(1 - distance)`, in the shape of `distances`, widened by 4e-6 for rounding.

    Raises
    ------
    InputError
        If a distance or an angle is out of range.

    Notes
    -----
    Angles between directions obey the triangle inequality: the angle to every bank vector changes
    by at most theta, so the smallest does, and so does the k-th smallest. A zero vector has no
    direction; to one in the bank every distance is 1, which stays inside.

    Examples
    --------
    >>> found = angular_bounds(torch.tensor([0.0, 1.0, 2.0]), math.pi / 6)
    >>> [round(x, 1) for x in found.lower.tolist()], [round(x, 1) for x in found.upper.tolist()]
    ([0.0, 0.5, 1.9], [0.1, 1.5, 2.0])
    """
    angle = torch.as_tensor(theta, dtype=torch.float64, device=distances.device)
    if not bool(((angle >= 0) & (angle <= math.pi)).all()):
        raise InputError(f"theta: expected radians in [0, pi], got {_span(angle)}")
    wide = distances.double()
    if not bool(((wide >= -ROUNDING) & (wide <= 2 + ROUNDING)).all()):
        raise InputError(f"distances: expected 1 - cos in [0, 2], got {_span(wide)}")
    near = torch.arccos(1 - (wide - ROUNDING).clamp(0, 2))
    far = torch.arccos(1 - (wide + ROUNDING).clamp(0, 2))
    lower = 1 - torch.cos((near - angle).clamp_min(0))
    upper = 1 - torch.cos((far + angle).clamp_max(math.pi))
    return Bounds(
        (lower - ROUNDING).clamp(0, 2).to(distances.dtype),
        (upper + ROUNDING).clamp(0, 2).to(distances.dtype),
    )


@torch.no_grad()
def feature_bounds(
    detector: AnomalyDINO,
    x: Tensor,
    theta: float | Tensor,
    *,
    fixed_mask: bool = False,
) -> tuple[Bounds, Bounds]:
    """Certified intervals of patch and image scores while features turn by at most an angle.

    Parameters
    ----------
    detector : AnomalyDINO
        Fitted. Its features are those it compares with the bank, whitened if it whitens.
    x : Tensor, (B, 3, H, W), float32 in [0, 1]
        Prepared images.
    theta : float or Tensor, (N,) or (B, N), radians in [0, pi]
        Largest angle by which any feature turns, for all patches or for each.
    fixed_mask : bool, default False
        For detectors that score the foreground alone: whether to take the foreground for given.
        By default any patch may enter it (its upper bound counts) or leave it (its score is 0).

    Returns
    -------
    patch : Bounds
        (B, N), of the patch scores.
    image : Bounds
        (B,), of the image scores: `aggregate` rises with every patch score.

    Raises
    ------
    InputError
        If the detector is of another kind, or an angle is out of range or of another shape.
    NotFittedError
        If `fit` has not been called.

    Notes
    -----
    A statement about features, not about pixels: how far features turn under a change of pixels
    is not bounded here. `feature_angles` measures it for one attack, which certifies nothing.
    """
    from robustad.detectors import AnomalyDINO

    if not isinstance(detector, AnomalyDINO):
        raise InputError(
            f"detector: expected a nearest-neighbour detector, got {type(detector).__name__}"
        )
    distances, mask = detector.neighbour_distances(x)
    angle = torch.as_tensor(theta, device=distances.device)
    if angle.ndim and angle.shape not in (distances.shape[1:2], distances.shape[:2]):
        raise InputError(
            f"theta: expected one angle, {tuple(distances.shape[1:2])} or "
            f"{tuple(distances.shape[:2])}, got {tuple(angle.shape)}"
        )
    found = angular_bounds(distances, angle[..., None])
    lower, upper = (detector.reduced(bound) for bound in found)
    if mask is not None:
        lower = lower * mask if fixed_mask else torch.zeros_like(lower)
        upper = upper * mask if fixed_mask else upper
    return Bounds(lower, upper), Bounds(detector.aggregate(lower), detector.aggregate(upper))


@torch.no_grad()
def feature_angles(detector: FeatureScorer, clean: Tensor, attacked: Tensor) -> Tensor:
    """Measure how far the features of given images turned. Empirical: it certifies nothing.

    Parameters
    ----------
    detector : FeatureScorer
        With `patch_features`, as `AnomalyDINO`.
    clean, attacked : Tensor, (B, 3, H, W), float32 in [0, 1]
        Images before and after an attack.

    Returns
    -------
    Tensor, (B, N), float64, radians in [0, pi]
        Angles between the features; pi where exactly one of the two is zero, as a vector without a
        direction may be anywhere. Another attack may turn features further.

    Raises
    ------
    InputError
        If the detector shows no features or the shapes differ.
    """
    if not isinstance(detector, FeatureScorer):
        raise InputError(
            f"detector: expected one with patch_features, got {type(detector).__name__}"
        )
    if clean.shape != attacked.shape:
        raise InputError(
            f"clean and attacked: expected one shape, got {tuple(clean.shape)} and "
            f"{tuple(attacked.shape)}"
        )
    before, after = (detector.patch_features(x).double() for x in (clean, attacked))
    return angle_between(before, after)


def angle_between(first: Tensor, second: Tensor) -> Tensor:
    """Angles (...) in radians between vectors (..., D); exact also for nearly equal ones.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    >>> turned = torch.tensor([[1.0, 1e-9]], dtype=torch.float64)
    >>> float(angle_between(x, turned))
    1e-09
    """
    lengths = [torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in (first, second)]
    one, two = (v / n.clamp_min(1e-300) for v, n in zip((first, second), lengths, strict=True))
    # Kahan's formula: the arccosine would lose half of the digits of a small angle.
    apart = torch.linalg.vector_norm(one - two, dim=-1)
    along = torch.linalg.vector_norm(one + two, dim=-1)
    angle = 2 * torch.atan2(apart, along)
    empty = [(n == 0).squeeze(-1) for n in lengths]
    angle = angle.masked_fill(empty[0] ^ empty[1], math.pi)
    return angle.masked_fill(empty[0] & empty[1], 0.0)


def _span(values: Tensor) -> str:
    return f"{float(values.min()):g}..{float(values.max()):g}"
