"""Objectives on patch scores, with the ground-truth masks."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.attacks.objectives.scores import LogitScale, Objective, Scores, require_mask


def flip(scores: Scores) -> Tensor:
    """Mean over normal patches minus mean over anomalous ones, PatchGuard's published attack.

    Minus the mean pairwise margin between anomalous and normal patches.

    Returns
    -------
    Tensor, (B,)
        An image without patches of one kind contributes the other kind's term alone.
    """
    return _apart(scores.patch, require_mask(scores))


def misorder(scores: Scores) -> Tensor:
    """`flip` of squashed patch logits: closer to pixel AUROC, which counts pairs, not margins.

    A move counts most where both kinds of patches meet, and little where their order is settled.
    Where they meet is not known image by image, so that two levels are taken: the one from which
    the detector calls a patch anomalous, and the one of the image's own normal patches.

    Returns
    -------
    Tensor, (B,)
        In [-2, 2]; of the mean of `z / (1 + |z|)` for the logits z by `scale` and by `own`. An
        image without patches of one kind contributes the other kind's term alone.
    """
    mask, own = require_mask(scores), scores.own
    if own is None:
        clean = scores.patch if scores.clean is None else scores.clean
        own = LogitScale.of_normal_patches(clean, mask)
    squashed = F.softsign(scores.logit) + F.softsign(own.of(scores.patch))
    return _apart(squashed / 2, mask)


def section_l(scores: Scores) -> Tensor:
    """Normal images: the mean logit. Anomalous ones: minus the mean over anomalous patches.

    Unlike `flip` it leaves the normal patches of anomalous images alone, whose rise would raise
    the image score (PatchGuard, supplement L).

    Returns
    -------
    Tensor, (B,)
        An anomalous image whose mask is empty counts as anomalous everywhere.
    """
    mask, logit = require_mask(scores), scores.logit
    empty = ~mask.any(dim=1, keepdim=True)
    inside = (mask | empty).to(logit.dtype)
    lowered = (logit * inside).sum(dim=1) / inside.sum(dim=1)
    return torch.where(scores.label == 0, logit.mean(dim=1), -lowered)


def bce(scores: Scores) -> Tensor:
    """Mean binary cross-entropy of the patch logits.

    Weighs every patch by how much it costs, where `flip` weighs the two kinds alike.

    Returns
    -------
    Tensor, (B,)
        In nats; larger is better for the attacker.
    """
    return _losses(scores).mean(dim=1)


def segpgd(scores: Scores) -> Tensor:
    """Cross-entropy that first weighs patches still right, towards the end all alike.

    Returns
    -------
    Tensor, (B,)
        Comparable between iterates of the same `progress` only.

    Notes
    -----
    Gu et al., "SegPGD", ECCV 2022, equation 6: weights 1 - lam and lam, lam = (t - 1) / 2T.
    """
    lam = scores.progress / 2
    right = _right(scores)
    return (_losses(scores) * (right * (1 - lam) + (1 - right) * lam)).mean(dim=1)


def masked_ce(scores: Scores) -> Tensor:
    """Cross-entropy of the patches that are still right, over all patches.

    Returns
    -------
    Tensor, (B,)
        Without a gradient once every patch is wrong.

    Notes
    -----
    Croce et al., "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation
    Models" (SEA), ECCV 2024.
    """
    return (_losses(scores) * _right(scores)).mean(dim=1)


def masked_ce_balanced(scores: Scores) -> Tensor:
    """`masked_ce` with normal and anomalous patches weighed alike, however few they are.

    Returns
    -------
    Tensor, (B,)
        Mean over the kinds that the mask has of their mean masked losses.

    Notes
    -----
    SEA, see `masked_ce`.
    """
    loss, mask = _losses(scores) * _right(scores), require_mask(scores).to(scores.patch.dtype)
    kinds = torch.stack([mask, 1 - mask])
    counts = kinds.sum(dim=2)
    means = (kinds * loss).sum(dim=2) / counts.clamp_min(1)
    return means.sum(dim=0) / (counts > 0).sum(dim=0)


def js(scores: Scores) -> Tensor:
    """Mean Jensen-Shannon divergence between predicted and true distribution of each patch.

    Returns
    -------
    Tensor, (B,)
        In nats, at most ln 2: patches that are wrong already gain ever less.

    Notes
    -----
    SEA, see `masked_ce`; with p the probability of the true class, half of
    `p ln(2p / (1 + p)) + (1 - p) ln 2 + ln(2 / (1 + p))`.
    """
    z = scores.truth * scores.logit
    p, log_p = torch.sigmoid(z), F.logsigmoid(z)
    half = p * log_p + (1 - p) * math.log(2) + (1 + p) * (math.log(2) - torch.log1p(p))
    return (half / 2).mean(dim=1)


def margin(kappa: float = 50.0) -> Objective:
    """`-relu(r z + kappa)`, averaged: linear until a patch is wrong by kappa logits.

    Parameters
    ----------
    kappa : float, default 50
        Confidence asked for.

    Returns
    -------
    Objective
        At most 0.

    Notes
    -----
    Carlini and Wagner, S&P 2017, as in CAA (Mao et al., AAAI 2021).
    """

    def carlini_wagner(scores: Scores) -> Tensor:
        return -F.relu(scores.truth * scores.logit + kappa).mean(dim=1)

    return carlini_wagner


def _apart(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (B,) over patches outside of the mask minus mean over those inside; 0 for none."""
    inside = mask.to(values.dtype)
    outside = 1 - inside
    raised = (values * outside).sum(dim=1) / outside.sum(dim=1).clamp_min(1)
    return raised - (values * inside).sum(dim=1) / inside.sum(dim=1).clamp_min(1)


def _losses(scores: Scores) -> Tensor:
    """Cross-entropy (B, N) of each patch."""
    target = require_mask(scores).to(scores.patch.dtype)
    return F.binary_cross_entropy_with_logits(scores.logit, target, reduction="none")


def _right(scores: Scores) -> Tensor:
    """1 where a patch is still classified as its mask says; a constant to the gradient."""
    return (scores.truth * scores.logit.detach() > 0).to(scores.patch.dtype)
