"""What every attack is given: images, a ball, an objective, and a meter of what it asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from robustad.attacks.gradient import value_and_gradient
from robustad.attacks.harm import PixelHarm
from robustad.attacks.meter import Meter
from robustad.attacks.objectives import LogitScale, Objective, Scores, resolve
from robustad.attacks.projection import (
    SPARSITY,
    Norm,
    direction,
    distance,
    held,
    project,
    random_start,
    slack,
    sparse_direction,
)
from robustad.detectors.base import PatchScorer
from robustad.errors import InputError
from robustad.ops.reference.topk_mean import resolve_k


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One batch to attack; made by `Problem.of`.

    Attributes
    ----------
    detector : PatchScorer
        Asked only through `scores`, so that the meter misses nothing.
    x : Tensor, (B, 3, H, W), float32 in [0, 1]
        Clean images.
    label : Tensor, (B,), int64
        0 normal, 1 anomalous.
    mask : Tensor, (B, N), bool, or None
        Anomalous patches.
    eps : float
        Radius of the ball in `norm` that is searched.
    norm : {"linf", "l2", "l1"}
        Of the ball.
    objective : Objective
        Maximised.
    seeds : tuple of int
        One an image: draws do not depend on the batch.
    scale : LogitScale or None
        Makes logits of patch scores, for objectives that need them and for the record of the
        patches' worst; None where they are logits.
    own : LogitScale or None
        Level and spread of each image's own clean normal patches; None without masks.
    threshold : float or None
        Image score from which the detector says anomalous; decision attacks need it.
    precision : torch.dtype or None
        Of autocast while searching; None for none.
    radius : float
        Of the ball whose images count: `eps` unless a schedule searches a wider one for a while.
    top : int or None
        Patches whose mean is the image score, where the detector says.
    meter : Meter
        Shared with every problem made of this one.
    rows : Tensor, (B,), int64, on the CPU
        Places of these images in the meter; may repeat.
    clean : Tensor, (B, N)
        The clean patch scores, asked once.
    judge : Objective or None
        Says which iterate is best, where that is not the objective: one that changes during the
        schedule cannot.
    """

    detector: PatchScorer
    x: Tensor
    label: Tensor
    mask: Tensor | None
    eps: float
    norm: Norm
    objective: Objective
    seeds: tuple[int, ...]
    scale: LogitScale | None
    own: LogitScale | None
    threshold: float | None
    precision: torch.dtype | None
    radius: float
    top: int | None
    meter: Meter = field(repr=False)
    rows: Tensor
    clean: Tensor = field(repr=False)
    judge: Objective | None = None

    @classmethod
    def of(
        cls,
        detector: PatchScorer,
        x: Tensor,
        *,
        label: Tensor,
        mask: Tensor | None = None,
        eps: float,
        norm: Norm = "linf",
        objective: str | Objective = "image",
        seeds: Sequence[int] | None = None,
        scale: LogitScale | None = None,
        threshold: float | None = None,
        precision: torch.dtype | None = None,
        clean: Tensor | None = None,
    ) -> Self:
        """Score the clean images and fill in what was not given.

        Parameters
        ----------
        detector, x, label, mask, eps, norm, objective, threshold, precision
            See the attributes; checked by `attack`, not here.
        seeds : sequence of int, optional
            Default 0..B-1.
        scale : LogitScale, optional
            Default: none for detectors that say `scores_are_logits`, else each image's own.
        clean : Tensor, (B, N), optional
            The clean patch scores, where they are known already.

        Raises
        ------
        InputError
            If the masks do not fit the patch scores.
        """
        if clean is None:
            with torch.no_grad():
                clean = detector.patch_scores(x)
        if mask is not None and mask.shape != clean.shape:
            raise InputError(
                f"mask: expected patch masks {tuple(clean.shape)}, got "
                f"{tuple(mask.shape)}; `patch_mask` makes them from pixel masks"
            )
        count = x.shape[0]
        if scale is not None:
            scale = scale.to(clean, count)
        elif not getattr(detector, "scores_are_logits", False):
            scale = LogitScale.of_images(clean)
        if threshold is None and getattr(detector, "decides", False):
            threshold = 0.5  # its scores are its verdicts
        mask = None if mask is None else mask.to(x.device).bool()
        fraction: Any = getattr(detector, "top_fraction", None)
        return cls(
            detector=detector,
            x=x,
            label=label,
            mask=mask,
            eps=eps,
            norm=norm,
            objective=resolve(objective),
            seeds=tuple(range(count)) if seeds is None else tuple(seeds),
            scale=scale,
            own=None if mask is None else LogitScale.of_normal_patches(clean, mask),
            threshold=threshold,
            precision=precision,
            radius=eps,
            top=None if fraction is None else resolve_k(fraction, clean.shape[1]),
            meter=Meter.zero(x, clean, pixel=mask is not None),
            rows=torch.arange(count),
            clean=clean,
        )

    def __len__(self) -> int:
        return self.x.shape[0]

    @cached_property
    def sign(self) -> Tensor:
        """`1 - 2y` (B,): the direction in which the attacker moves image scores."""
        return (1 - 2 * self.label).to(self.x.dtype)

    def select(self, keep: Tensor | Sequence[int]) -> Self:
        """Keep only some of the images, by mask (B,), bool, or places, which may repeat."""
        places = torch.as_tensor(keep)
        places = places.nonzero().flatten() if places.dtype == torch.bool else places
        cpu, there = places.cpu(), places.to(self.x.device)
        return replace(
            self,
            x=self.x[there],
            label=self.label[there],
            mask=None if self.mask is None else self.mask[there],
            seeds=tuple(self.seeds[i] for i in cpu.tolist()),
            scale=None if self.scale is None else self.scale.select(there),
            own=None if self.own is None else self.own.select(there),
            rows=self.rows[cpu],
            clean=self.clean[there],
        )

    def aimed(self, objective: str | Objective, judge: Objective | None = None) -> Self:
        """Maximise something else on the same images, on the same meter."""
        return replace(self, objective=resolve(objective), judge=judge)

    def within(self, eps: float) -> Self:
        """Search another radius; what is seen outside the first one is not recorded."""
        return replace(self, eps=eps)

    def generator(self, place: int, purpose: int = 0) -> torch.Generator:
        """Random numbers of one image, on the CPU; every purpose has a stream of its own."""
        return torch.Generator().manual_seed(self.stream(purpose)[place])

    def stream(self, purpose: int = 0) -> list[int]:
        """Seeds, one an image, for one purpose."""
        return [(seed * 1_000_003 + purpose) % 2**63 for seed in self.seeds]

    def start(self, purpose: int = 0) -> Tensor:
        """A random point of each image's ball."""
        return random_start(self.x, self.eps, seeds=self.stream(purpose), norm=self.norm)

    def require_mask(self, attack: str) -> Tensor:
        """Return the patch masks, or raise InputError where there are none."""
        if self.mask is None:
            raise InputError(f"mask: attack {attack!r} needs the ground-truth masks of the images")
        return self.mask

    def worst(self) -> Tensor:
        """Of everything asked about so far inside the ball, what moved the image score farthest.

        The clean images where nothing was.
        """
        return self.meter.image.images[self.rows.to(self.x.device)]

    def direction(self, gradient: Tensor, current: Tensor) -> Tensor:
        """The unit step (B, 3, H, W) along a gradient; in l1 not wasted on what the box holds."""
        if self.norm == "l1":
            share = torch.full((len(self),), SPARSITY, device=gradient.device)
            return sparse_direction(gradient, share, held(gradient, current))
        return direction(gradient, self.norm)

    def step(self, current: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """A new point (B, 3, H, W) a step of one length, or one an image (B,), along a gradient.

        In the ball. `current` and `gradient` are not written into.
        """
        if isinstance(size, Tensor):
            size = size[:, None, None, None]
        if self.norm != "linf":
            return self.project(self.direction(gradient, current).mul_(size).add_(current))
        # A sign times the size is exact: at once with the sum it rounds the same.
        move = gradient.sign()
        if isinstance(size, Tensor):
            torch.addcmul(current, move, size, out=move)
        else:
            torch.add(current, move, alpha=size, out=move)
        return self.project(move)

    def project(self, images: Tensor) -> Tensor:
        """Bring images (B, 3, H, W) into the ball and [0, 1]; may write into them."""
        if self.norm == "linf":
            return torch.clamp(images, *self._box, out=None if images.requires_grad else images)
        return project(images, self.x, self.eps, self.norm)

    def inside(self, images: Tensor) -> Tensor:
        """Which images (B,) are within `radius`, up to rounding."""
        reach = self.radius + slack(self.radius, self.norm)
        return distance(images, self.x, self.norm) <= reach

    @cached_property
    def hurts(self) -> PixelHarm:
        """From patch scores (B, N) to how much they hurt pixel metrics, (2, B); needs masks."""
        assert self.mask is not None
        assert self.own is not None
        return PixelHarm.of(self.mask, self.scale, self.own, self.clean)

    def scores(self, images: Tensor, *, progress: float = 0.0) -> Scores:
        """Ask the detector; the one way to it.

        Parameters
        ----------
        images : Tensor, (B, 3, H, W), in [0, 1]
            One candidate for each image.
        progress : float in [0, 1], default 0
            Share of the schedule that is done, for objectives that look at it.

        Returns
        -------
        Scores
            With the gradient, where it is enabled.
        """
        with torch.autocast(
            images.device.type, dtype=self.precision, enabled=self.precision is not None
        ):
            patch = self.detector.patch_scores(images)
            if self.precision is not None:
                patch = patch.float()
            image = self.detector.aggregate(patch)
        self._count(self.meter.forward)
        self._remember(images.detach(), patch.detach(), image.detach())
        return Scores(
            patch=patch,
            image=image,
            label=self.label,
            mask=self.mask,
            clean=self.clean,
            scale=self.scale,
            own=self.own,
            top=self.top,
            progress=progress,
        )

    @torch.no_grad()
    def values(self, images: Tensor, *, progress: float = 0.0) -> Tensor:
        """Objective (B,) of images (B, 3, H, W), or what the judge says, without a gradient."""
        return (self.judge or self.objective)(self.scores(images, progress=progress))

    def gradient(self, images: Tensor, *, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """Objective (B,) of images (B, 3, H, W), and its gradient (B, 3, H, W).

        With a judge its values come in place of the objective's, from the same pass.

        Raises
        ------
        InputError
            See `value_and_gradient`. With `precision` an infinite or undefined gradient entry
            counts as zero and raises the flag `nonfinite_gradient`.
        """
        judge, judged = self.judge, []

        def loss(leaf: Tensor) -> Tensor:
            scores = self.scores(leaf, progress=progress)
            if judge is not None:
                with torch.no_grad():
                    judged.append(judge(scores))
            return self.objective(scores)

        values, gradient = self.differentiate(loss, images)
        return (judged[0] if judged else values), gradient

    def differentiate(
        self, loss: Callable[[Tensor], Tensor], images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Any loss (B,) of images (B, 3, H, W) and its gradient, on the meter's backward count."""
        values, gradient, largest = value_and_gradient(
            loss, images, lenient=self.precision is not None
        )
        self._count(self.meter.backward)
        if 0.0 in largest:
            dead = torch.tensor([size == 0.0 for size in largest])
            self.meter.dead.index_add_(0, self.rows, dead.to(self.rows))
        if not all(map(math.isfinite, largest)):
            self.meter.flags.add("nonfinite_gradient")
        return values, gradient

    def _count(self, passes: Tensor) -> None:
        """One pass more over each of these images."""
        if self._places is None:
            passes += 1
        else:
            passes.index_add_(0, self.rows, torch.ones_like(self.rows))

    @cached_property
    def _box(self) -> tuple[Tensor, Tensor]:
        return (self.x - self.eps).clamp_(min=0.0), (self.x + self.eps).clamp_(max=1.0)

    @cached_property
    def _places(self) -> Tensor | None:
        """Places in the meter on the images' device, None for all in order."""
        if self.rows.tolist() == [*range(len(self.meter.forward))]:
            return None
        return self.rows.to(self.x.device)

    @torch.no_grad()
    def _remember(self, images: Tensor, patch: Tensor, image: Tensor) -> None:
        harm = (self.sign.to(image.dtype) * image)[None].to(self.meter.values.dtype)
        if self.mask is not None:
            harm = torch.cat([harm, self.hurts(patch).to(harm)])
        harm = harm.masked_fill(~self.inside(images), -torch.inf)
        self.meter.record(self._places, harm, images, patch)
