"""The one entry to all attacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustad.attacks.gradient import ImageLoss
from robustad.attacks.objectives import Objective, Scores, resolve
from robustad.attacks.pgd import distance, fgsm, pgd, random_start
from robustad.attacks.presets import Preset, preset
from robustad.attacks.probe import FeatureScorer, LinearProbe
from robustad.detectors.base import PatchScorer
from robustad.errors import InputError

RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """Adversarial images and what the detector makes of them.

    Attributes
    ----------
    x_adv : Tensor, (B, 3, H, W), float32 in [0, 1]
        Adversarial images.
    clean_patch_scores, patch_scores : Tensor, (B, N)
        The detector's patch scores before and after.
    clean_score, score : Tensor, (B,)
        The detector's image scores before and after.
    distance : Tensor, (B,)
        Distance of `x_adv` to the clean images in the attack's norm.
    """

    x_adv: Tensor
    clean_patch_scores: Tensor
    patch_scores: Tensor
    clean_score: Tensor
    score: Tensor
    distance: Tensor


def attack(
    detector: PatchScorer,
    x: Tensor,
    *,
    label: Tensor,
    mask: Tensor | None = None,
    attack: str = "pgd10",
    eps: float = 8 / 255,
    objective: str | Objective | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    random: bool = False,
    seeds: list[int] | None = None,
    keep_best: bool = True,
    probe: LinearProbe | None = None,
) -> AttackResult:
    """Perturb images so that the detector gets them wrong.

    Parameters
    ----------
    detector : PatchScorer
        Anything with `patch_scores` (differentiable) and `aggregate`.
    x : Tensor, (B, 3, H, W), floating point in [0, 1]
        Prepared clean images (`detector.prepare`); excursions up to 1e-3 are clipped.
    label : Tensor, (B,), 0 or 1
        Normal images are made to look anomalous, anomalous ones to look normal.
    mask : Tensor, (B, N), bool, optional
        Anomalous patches (`patch_mask`), where the objective needs them.
    attack : str, default "pgd10"
        `fgsm_probe`, `fgsm`, or `pgd<steps>[_l2][_<objective>]` with the objective `image` (the
        default), `flip` or `bce`: `pgd10`, `pgd1000_flip`, `pgd100_l2`.
    eps : float in (0, 1], default 8/255
        Radius as a fraction of the pixel range; an l2 radius, of the whole image taken as one
        vector, may be any positive number.
    objective : str or callable, optional
        Overrides the preset's: `image`, `flip`, `bce`, or a callable from `Scores` to a loss (B,).
    steps : int, optional
        Overrides the preset's number of steps.
    step_size : float, optional
        Default 2.5 eps / steps.
    random : bool, default False
        Start from a random point of the ball instead of the clean image.
    seeds : list of int, optional
        One an image for the random start; default 0..B-1.
    keep_best : bool, default True
        Keep each image's best iterate rather than the last one; FGSM always returns its step.
    probe : LinearProbe, optional
        Needed by `fgsm_probe`.

    Returns
    -------
    AttackResult
        Scored by the detector itself, whatever the attack optimised.

    Raises
    ------
    InputError
        If an argument is missing or out of range, the detector is in training mode, or it gives
        no finite gradient.

    Examples
    --------
    >>> import torch
    >>> from robustad import AnomalyDINO, attack
    >>> x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> detector = AnomalyDINO("filters", image_size=64).fit(x[:1])
    >>> result = attack(detector, x[1:], label=torch.tensor([0]), attack="fgsm")
    >>> bool(result.score > result.clean_score), bool(result.distance <= 8 / 255 + 1e-6)
    (True, True)
    """
    chosen = preset(attack)
    x, label = _checked(detector, x, label, eps, chosen)
    single = chosen.optimiser == "fgsm" and steps is None
    if single and (random or step_size is not None):
        raise InputError(
            f"{'random' if random else 'step_size'}: attack {attack!r} is one step of eps from the "
            "clean image; give `steps` as well, or take pgd10"
        )
    if seeds is not None and len(seeds) != x.shape[0]:
        raise InputError(f"seeds: expected one an image, {x.shape[0]}, got {len(seeds)}")
    with torch.no_grad():
        clean_patch_scores = detector.patch_scores(x)
    if mask is not None and mask.shape != clean_patch_scores.shape:
        raise InputError(
            f"mask: expected patch masks {tuple(clean_patch_scores.shape)}, got "
            f"{tuple(mask.shape)}; `patch_mask` makes them from pixel masks"
        )
    loss = _loss(detector, chosen, label, mask, objective, probe)
    frozen = [p for p in getattr(detector, "parameters", list)() if p.requires_grad]
    for parameter in frozen:  # only the images' gradient is wanted
        parameter.requires_grad_(False)
    try:
        if single:
            x_adv = fgsm(loss, x, eps=eps)
        else:
            start = None
            if random:
                places = seeds or [*range(x.shape[0])]
                start = random_start(x, eps, seeds=places, norm=chosen.norm)
            x_adv = pgd(
                loss,
                x,
                eps=eps,
                steps=chosen.steps if steps is None else steps,
                step_size=step_size,
                start=start,
                keep_best=keep_best,
                norm=chosen.norm,
            )
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    with torch.no_grad():
        patch_scores = detector.patch_scores(x_adv)
        return AttackResult(
            x_adv=x_adv,
            clean_patch_scores=clean_patch_scores,
            patch_scores=patch_scores,
            clean_score=detector.aggregate(clean_patch_scores),
            score=detector.aggregate(patch_scores),
            distance=distance(x_adv, x, chosen.norm),
        )


def _checked(
    detector: PatchScorer, x: Tensor, label: Tensor, eps: float, chosen: Preset
) -> tuple[Tensor, Tensor]:
    if getattr(detector, "training", False):
        raise InputError("detector: is in training mode; call detector.eval() before attacking it")
    if x.ndim != 4 or not x.is_floating_point() or x.numel() == 0:
        raise InputError(
            f"x: expected a floating-point tensor (B, 3, H, W), got {tuple(x.shape)} of {x.dtype}"
        )
    if chosen.norm == "linf" and not 0.0 < eps <= 1.0:
        raise InputError(f"eps: expected a fraction of the pixel range in (0, 1], got {eps}")
    if not 0.0 < eps < float("inf"):
        raise InputError(f"eps: expected a finite l2 radius > 0, got {eps}")
    low, high = float(x.min()), float(x.max())
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise InputError(
            f"x: expected finite values in [0, 1], got {low:g}..{high:g}; normalisation belongs "
            "inside the detector"
        )
    label = torch.as_tensor(label, device=x.device)
    if label.shape != (x.shape[0],) or not bool(((label == 0) | (label == 1)).all()):
        raise InputError(
            f"label: expected {x.shape[0]} values of 0 or 1, got shape {tuple(label.shape)}"
            + (f" with values {sorted(set(label.tolist()))}" if label.ndim == 1 else "")
        )
    return x.detach().clamp(0.0, 1.0), label.long()


def _loss(
    detector: PatchScorer,
    chosen: Preset,
    label: Tensor,
    mask: Tensor | None,
    objective: str | Objective | None,
    probe: LinearProbe | None,
) -> ImageLoss:
    if objective is None and chosen.objective == "probe":
        if probe is None or mask is None:
            missing = "probe" if probe is None else "mask"
            raise InputError(f"{missing}: attack {chosen.name!r} needs a fitted probe and masks")
        if not isinstance(detector, FeatureScorer):
            raise InputError(
                f"detector: attack {chosen.name!r} needs patch_features, which "
                f"{type(detector).__name__} does not have"
            )
        scorer, patches = detector, mask  # what mypy has learned does not reach into a lambda
        return lambda images: probe.loss(scorer, images, patches)
    function = resolve(chosen.objective if objective is None else objective)

    def loss(images: Tensor) -> Tensor:
        patch = detector.patch_scores(images)
        image = detector.aggregate(patch)
        return function(Scores(patch=patch, image=image, label=label, mask=mask))

    return loss
