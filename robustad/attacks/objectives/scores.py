"""What an objective looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.errors import InputError


@dataclass(frozen=True)
class LogitScale:
    """Makes logits of patch scores that are none: `z = (s - tau) / temperature`.

    Attributes
    ----------
    tau : Tensor, (B,) or ()
        Score at which a patch counts as anomalous.
    temperature : Tensor, (B,) or (), > 0
        Score difference that one logit stands for.

    Examples
    --------
    >>> scale = LogitScale.of_normal(torch.linspace(0.0, 1.0, 101))
    >>> round(float(scale.tau), 2), scale.of(torch.tensor([[0.95]])).round(decimals=3).tolist()
    (0.95, [[0.0]])
    """

    tau: Tensor
    temperature: Tensor

    @classmethod
    def of_normal(cls, patch_scores: Tensor) -> Self:
        """From the patch scores (any shape) of held-out normal images.

        The threshold is their 0.95 quantile, the temperature their standard deviation.

        Raises
        ------
        InputError
            If there are none, or not all are finite.
        """
        values = patch_scores.detach().flatten()
        if values.numel() == 0 or not bool(torch.isfinite(values).all()):
            raise InputError(
                f"patch_scores: expected finite scores of normal images, got {values.numel()}, "
                f"{int((~torch.isfinite(values)).sum())} of them not finite"
            )
        return cls(*(value[0] for value in _statistics(values[None])))

    @classmethod
    def of_images(cls, clean: Tensor) -> Self:
        """From each image's own clean patch scores (B, N), where nothing better is known.

        Never from other images of the batch: an attack must not depend on its neighbours.
        """
        return cls(*_statistics(clean.detach()))

    @classmethod
    def of_normal_patches(cls, clean: Tensor, mask: Tensor) -> Self:
        """From each image's own clean scores (B, N) of the patches that a mask (B, N) calls normal.

        From all of them where a mask leaves none.
        """
        normal = ~mask | mask.all(dim=1, keepdim=True)
        values = clean.detach()
        count = normal.sum(dim=1)
        ordered = values.masked_fill(~normal, torch.inf).sort(dim=1).values
        place = (0.95 * (count - 1).double()).round().long()
        tau = ordered.gather(1, place[:, None]).squeeze(1)
        mean = torch.where(normal, values, 0.0).sum(dim=1) / count
        spread = torch.where(normal, values - mean[:, None], 0.0).square().sum(dim=1) / count
        return cls(tau, torch.where(spread > 0, spread.sqrt(), torch.ones_like(spread)))

    def of(self, patch: Tensor) -> Tensor:
        """Logits (B, N) of patch scores (B, N); differentiable."""
        return (patch - self.tau[..., None]) / self.temperature[..., None]

    def to(self, like: Tensor, count: int) -> Self:
        """One entry for each of `count` images, of the dtype and on the device of a tensor."""
        for name, value in (("tau", self.tau), ("temperature", self.temperature)):
            shape = tuple(torch.as_tensor(value).shape)
            if shape not in ((), (count,)):
                raise InputError(f"scale: expected {name} of shape () or ({count},), got {shape}")
        if not bool((torch.as_tensor(self.temperature) > 0).all()):
            raise InputError(f"scale: expected a temperature > 0, got {self.temperature}")
        tau, temperature = (
            torch.as_tensor(value).to(like).expand(count) for value in (self.tau, self.temperature)
        )
        return replace(self, tau=tau, temperature=temperature)

    def select(self, rows: Tensor) -> Self:
        """Keep only some images, by places on the scale's device."""
        return replace(self, tau=self.tau[rows], temperature=self.temperature[rows])


def _statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Quantile and deviation of each row; a constant row gets the temperature 1."""
    place = max(round(0.95 * (values.shape[1] - 1)), 0)  # no interpolation, no size limit
    tau = values.sort(dim=1).values[:, place]
    deviation = values.std(dim=1, unbiased=False)
    return tau, torch.where(deviation > 0, deviation, torch.ones_like(deviation))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an objective may look at.

    Attributes
    ----------
    patch : Tensor, (B, N)
        Patch scores of the current images; carries the gradient.
    image : Tensor, (B,)
        Their image scores; carries the gradient.
    label : Tensor, (B,), int64
        0 normal, 1 anomalous.
    mask : Tensor, (B, N), bool, or None
        Patches that are anomalous in the ground truth.
    clean : Tensor, (B, N), or None
        Patch scores of the clean images.
    scale : LogitScale or None
        Makes logits of patch scores; None where they are logits.
    own : LogitScale or None
        Level and spread of each image's own clean normal patches; None without masks.
    top : int or None
        Patches whose mean is the image score, where known.
    progress : float in [0, 1], default 0
        Share of the schedule that is done.
    """

    patch: Tensor
    image: Tensor
    label: Tensor
    mask: Tensor | None
    clean: Tensor | None = None
    scale: LogitScale | None = None
    own: LogitScale | None = None
    top: int | None = None
    progress: float = 0.0

    @property
    def logit(self) -> Tensor:
        """Patch logits (B, N), above 0 where the detector says anomalous."""
        return self.patch if self.scale is None else self.scale.of(self.patch)

    @property
    def sign(self) -> Tensor:
        """`1 - 2y` (B,): the direction in which the attacker moves image scores."""
        return (1 - 2 * self.label).to(self.image.dtype)

    @property
    def truth(self) -> Tensor:
        """`r = 2m - 1` (B, N): 1 for anomalous patches, -1 for normal ones."""
        return require_mask(self).to(self.patch.dtype) * 2 - 1


Objective: TypeAlias = Callable[[Scores], Tensor]


def require_mask(scores: Scores) -> Tensor:
    """Return the patch masks, or raise InputError where the attack was given none."""
    if scores.mask is None:
        raise InputError("mask: this objective needs the ground-truth masks of the images")
    return scores.mask


def patch_mask(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring pixel masks to the patch grid: a patch is anomalous where any of its pixels is.

    Parameters
    ----------
    mask : Tensor, (B, H, W), bool
        Ground truth at the size of the prepared images.
    grid : (int, int)
        Rows and columns of the patch grid.

    Returns
    -------
    Tensor, (B, N), bool
        Row by row.

    Raises
    ------
    InputError
        If `mask` is not (B, H, W).
    """
    if mask.ndim != 3:
        raise InputError(f"mask: expected pixel masks (B, H, W), got {tuple(mask.shape)}")
    return F.adaptive_max_pool2d(mask.float().unsqueeze(1), grid).flatten(1) > 0
