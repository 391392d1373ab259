"""The few-shot study's linear probe: a head on frozen features, only there to give gradients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.attacks.options import Options
from robustad.attacks.problem import Problem
from robustad.errors import InputError


@runtime_checkable
class FeatureScorer(Protocol):
    """A detector that shows the features its patch scores are made of."""

    def patch_features(self, x: Tensor) -> Tensor:
        """Features (B, N, D) of images (B, 3, H, W); differentiable."""
        ...


@dataclass(frozen=True)
class LinearProbe:
    """A logistic regression per patch.

    Attributes
    ----------
    weight : Tensor, (D,), float32
        Of the features.
    bias : float
        The intercept.
    """

    weight: Tensor
    bias: float

    @classmethod
    @torch.no_grad()
    def fit(
        cls, detector: FeatureScorer, batches: Iterable[tuple[Tensor, Tensor]], *, C: float = 1.0
    ) -> Self:
        """Fit on images with patch masks.

        Parameters
        ----------
        detector : FeatureScorer
            Gives the frozen features.
        batches : iterable of (x, mask)
            Images (B, 3, H, W) and their anomalous patches (B, N), bool.
        C : float, default 1
            Inverse strength of the l2 penalty on the standardised features' weights.

        Returns
        -------
        LinearProbe
            Minimising the mean binary cross-entropy over all patches (study, section 3.2).

        Raises
        ------
        InputError
            If all patches are of one kind.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        features, targets = [], []
        for x, mask in batches:
            features.append(detector.patch_features(x).flatten(0, 1).float().cpu().numpy())
            targets.append(mask.flatten().cpu().numpy())
        X = np.concatenate(features) if features else np.zeros((0, 1), np.float32)
        y = np.concatenate(targets) if targets else np.zeros(0, bool)
        if not y.any() or y.all():
            raise InputError(
                "probe: expected both normal and anomalous patches to fit on, got "
                f"{int(y.sum())} anomalous of {y.size}"
            )
        scaler = StandardScaler()  # leaves a constant feature, as whitening appends, unscaled
        model = LogisticRegression(C=C, max_iter=300).fit(scaler.fit_transform(X), y)
        weight = model.coef_[0] / scaler.scale_
        bias = float(model.intercept_[0] - weight @ scaler.mean_)
        return cls(torch.from_numpy(weight.astype(np.float32)), bias)

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, N) of features (B, N, D)."""
        return features.float() @ self.weight.to(features.device) + self.bias

    def loss(self, detector: FeatureScorer, x: Tensor, mask: Tensor) -> Tensor:
        """Mean binary cross-entropy (B,) of the patch masks (B, N), bool."""
        logits = self.logits(detector.patch_features(x))
        entropy = F.binary_cross_entropy_with_logits(logits, mask.to(logits), reduction="none")
        return entropy.mean(dim=1)


class ProbeScorer:
    """A linear probe on a detector's features, itself as a detector to attack.

    Parameters
    ----------
    detector : FeatureScorer
        Gives the features.
    probe : LinearProbe
        Makes logits of them.
    """

    scores_are_logits = True

    def __init__(self, detector: FeatureScorer, probe: LinearProbe) -> None:
        self.detector = detector
        self.probe = probe

    def patch_scores(self, x: Tensor) -> Tensor:
        """Logits (B, N) of images (B, 3, H, W)."""
        return self.probe.logits(self.detector.patch_features(x))

    def aggregate(self, patch_scores: Tensor) -> Tensor:
        """Mean logits (B,)."""
        return patch_scores.mean(dim=1)


def on_probe(problem: Problem, options: Options) -> Problem:
    """The same images, with the cross-entropy of a linear probe to maximise in place of the score.

    Parameters
    ----------
    problem : Problem
        With masks; its meter counts on, but what the probe makes of images is not recorded there.
    options : Options
        With a probe.

    Returns
    -------
    Problem
        On the probe.

    Raises
    ------
    InputError
        If the probe, the masks or the detector's features are missing.

    Notes
    -----
    Section 3.2 of the few-shot study attacks so, by one step of FGSM.
    """
    probe, detector = options.probe, problem.detector
    if probe is None or problem.mask is None:
        missing = "probe" if probe is None else "mask"
        raise InputError(f"{missing}: attack 'fgsm_probe' needs a fitted probe and masks")
    if not isinstance(detector, FeatureScorer):
        raise InputError(
            "detector: attack 'fgsm_probe' needs patch_features, which "
            f"{type(detector).__name__} does not have"
        )
    made = Problem.of(
        ProbeScorer(detector, probe),
        problem.x,
        label=problem.label,
        mask=problem.mask,
        eps=problem.eps,
        norm=problem.norm,
        objective="bce",
        seeds=problem.seeds,
        precision=problem.precision,
        clean=problem.clean,  # only its shape matters to logits
    )
    meter, counts = made.meter, problem.meter
    meter.forward, meter.backward, meter.dead = counts.forward, counts.backward, counts.dead
    return made
