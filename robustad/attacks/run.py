"""The one entry to all attacks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from robustad.attacks.access import Target, as_scorer
from robustad.attacks.named import Preset
from robustad.attacks.objectives import LogitScale, Objective
from robustad.attacks.options import Keep, Options, check_options
from robustad.attacks.pool import Pool
from robustad.attacks.presets import preset
from robustad.attacks.probe import LinearProbe
from robustad.attacks.problem import Problem
from robustad.attacks.projection import Norm
from robustad.attacks.result import AttackResult, finish
from robustad.calibration import Calibrator
from robustad.detectors.base import PatchScorer
from robustad.errors import InputError

__all__ = ["AttackResult", "attack"]
RANGE_TOLERANCE = 1e-3


def attack(
    detector: Target,
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
    restarts: int = 1,
    seeds: Sequence[int] | None = None,
    keep: Keep = "best",
    threshold: float | None = None,
    scale: LogitScale | None = None,
    calibrator: Calibrator | None = None,
    typical: float | None = None,
    surrogate: PatchScorer | Sequence[PatchScorer] | None = None,
    probe: LinearProbe | None = None,
    queries: int | None = None,
    pool: Pool | None = None,
    query_batch: int = 64,
    precision: torch.dtype | None = None,
) -> AttackResult:
    """Perturb images so that the detector gets them wrong.

    Parameters
    ----------
    detector : PatchScorer, OnnxDetector, path or callable
        Anything with `patch_scores` and `aggregate`, or what `as_scorer` makes such a thing of: an
        exported detector, its `.onnx` file, a callable from images to scores. White-box attacks
        need its gradient.
    x : Tensor, (B, 3, H, W), floating point in [0, 1]
        Prepared clean images (`detector.prepare`); excursions up to 1e-3 are clipped.
    label : Tensor, (B,), 0 or 1
        Normal images are made to look anomalous, anomalous ones to look normal.
    mask : Tensor, (B, N), bool, optional
        Anomalous patches (`patch_mask`), where the objective needs them.
    attack : str, default "pgd10"
        A key of `PRESETS`, or a form such as `pgd<steps>[_l2|_l1][_<objective>]`; see `preset`.
    eps : float in (0, 1], default 8/255
        Radius as a fraction of the pixel range; an l2 or l1 radius, of the whole image taken as
        one vector, may be any positive number.
    objective : str or callable, optional
        Overrides the preset's: a key of `OBJECTIVES`, or a callable from `Scores` to a loss (B,).
    steps : int >= 1, optional
        Overrides the preset's number of steps.
    step_size : float > 0, optional
        Default 2.5 eps / steps.
    random : bool, default False
        Start from a random point of the ball instead of the clean image.
    restarts : int >= 1, default 1
        Runs; all but the first start from random points. More never weaken the attack.
    seeds : sequence of int, optional
        One an image for everything random; default 0..B-1.
    keep : {"best", "last", "worst"}, default "best"
        What `x_adv` is: each image's iterate of highest objective, the last iterate, or whatever
        moved the image score furthest, among the clean image and all that was tried.
    threshold : float, optional
        Image score from which the detector says anomalous; default what the detector's policy says
        of its calibrator, or else of its held-out scores, if it has them.
    scale : LogitScale, optional
        Makes logits of patch scores for objectives that need them (`LogitScale.of_normal`);
        default: none for detectors whose scores are logits, else each image's own.
    calibrator : Calibrator, optional
        From score to probability: `adaptive` then also evades the entropy flag with `x_adv`.
    typical : float, optional
        Score that normal images have: `adaptive` then leaves anomalous images there, so as not
        to look too normal.
    surrogate : PatchScorer or sequence of them, optional
        Differentiable stand-ins for transfer attacks; of several the mean is attacked.
    probe : LinearProbe, optional
        Needed by `fgsm_probe`.
    queries : int >= 1, optional
        Budget an image of black-box attacks; default 10000, of `square` 5000, or as the name says.
    pool : Tensor, (M, 3, H, W), in [0, 1], or mapping of label to such tensors, optional
        Prepared images of the other class for `hopskipjump` to start from: of `{0: normal, 1:
        anomalous}` an image is offered those of the other label, of a tensor all. Without it an
        anomalous image often finds no start (flag `no_start`).
    query_batch : int >= 1, default 64
        Images in one call of the detector where the queries of a black-box attack do not wait for
        each other's answers (`hopskipjump`, `spsa`). Fewer save memory; results differ by rounding.
    precision : torch.dtype, optional
        Autocast to this type (`torch.bfloat16`) while searching; scores that are returned are
        always float32.

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
    >>> int(result.forward), int(result.backward)
    (1, 1)
    """
    chosen = preset(attack)
    detector = as_scorer(detector)
    x, label = _checked(detector, x, label, eps, chosen.norm)
    options = Options(
        steps=steps,
        step_size=step_size,
        random=random,
        restarts=restarts,
        keep=keep,
        queries=queries,
        probe=probe,
        surrogate=surrogate,
        calibrator=calibrator,
        typical=typical,
        pool=pool,
        query_batch=query_batch,
    )
    _check_options(options, chosen)
    if seeds is not None and len(seeds) != x.shape[0]:
        raise InputError(f"seeds: expected one an image, {x.shape[0]}, got {len(seeds)}")
    own = chosen.objective in ("probe", "several") or chosen.optimiser == "segpgd"
    if objective is not None and own:
        raise InputError(f"objective: attack {attack!r} has its own, it cannot be replaced")
    if objective is None:
        objective = "image" if own else chosen.objective
    with _frozen(detector, *options.surrogates):
        problem = Problem.of(
            detector,
            x,
            label=label,
            mask=mask,
            eps=eps,
            norm=chosen.norm,
            objective=objective,
            seeds=seeds,
            scale=scale,
            threshold=_threshold(detector) if threshold is None else threshold,
            precision=precision,
        )
        _check_needs(problem, options, chosen)
        x_adv = chosen.run(problem, options)
    return finish(problem, x_adv, keep=keep)


def _check_options(options: Options, chosen: Preset) -> None:
    takes = chosen.takes
    if chosen.optimiser == "fgsm" and takes and options.steps is None:
        for name in set(options.given) & takes:
            raise InputError(
                f"{name}: attack {chosen.name!r} is one step of eps from the clean image; give "
                "`steps` as well, or take pgd10"
            )
    check_options(options, chosen.name, takes)


def _check_needs(problem: Problem, options: Options, chosen: Preset) -> None:
    """Name what is missing before anything is asked of the detector."""
    if "threshold" in chosen.needs and problem.threshold is None:
        raise InputError(
            f"threshold: attack {chosen.name!r} needs the image score from which the detector "
            "says anomalous; give it, or calibrate the detector"
        )
    if "mask" in chosen.needs and problem.mask is None and chosen.objective == "several":
        raise InputError(f"mask: attack {chosen.name!r} needs the ground-truth masks of the images")
    if "surrogate" in chosen.needs and not options.surrogates:
        raise InputError(f"surrogate: attack {chosen.name!r} needs a differentiable stand-in")


def _checked(
    detector: PatchScorer, x: Tensor, label: Tensor, eps: float, norm: Norm
) -> tuple[Tensor, Tensor]:
    if getattr(detector, "training", False):
        raise InputError("detector: is in training mode; call detector.eval() before attacking it")
    if x.ndim != 4 or not x.is_floating_point() or x.numel() == 0:
        raise InputError(
            f"x: expected a floating-point tensor (B, 3, H, W), got {tuple(x.shape)} of {x.dtype}"
        )
    if norm == "linf" and not 0.0 < eps <= 1.0:
        raise InputError(f"eps: expected a fraction of the pixel range in (0, 1], got {eps}")
    if not 0.0 < eps < float("inf"):
        raise InputError(f"eps: expected a finite {norm} radius > 0, got {eps}")
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


def _threshold(detector: PatchScorer) -> float | None:
    """Image score from which a detector rejects: by its probability, or else by its p-value."""
    policy = getattr(detector, "policy", None)
    if policy is None:
        return None
    for scale, limit in (("calibrator", "threshold"), ("conformal", "p_value_threshold")):
        score_at = getattr(getattr(detector, scale, None), "score_at", None)
        at = getattr(policy, limit, None)
        if score_at is not None and at is not None and math.isfinite(found := score_at(at)):
            return float(found)
    return None


@contextmanager
def _frozen(*modules: object) -> Iterator[None]:
    """Keep parameters out of the backward pass: only the images' gradient is wanted."""
    parameters = [p for module in modules for p in getattr(module, "parameters", list)()]
    frozen = [p for p in parameters if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
