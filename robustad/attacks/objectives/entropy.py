"""Evading the entropy flag: a verdict turned that also looks sure."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustad.attacks.objectives.scores import Objective, Scores
from robustad.calibration import Calibrator, Platt
from robustad.errors import InputError


def evading(objective: Objective, calibrator: Calibrator, weight: float = 1.0) -> Objective:
    """`objective - weight * H(p(S))`: an attack that is penalised for an unsure verdict.

    Parameters
    ----------
    objective : Objective
        What the attack wants besides.
    calibrator : Calibrator
        From image score to probability. Platt's curve is differentiated exactly; any other one
        through the line between its values a small step below and above the score.
    weight : float >= 0, default 1
        Of the predictive entropy, in nats.

    Returns
    -------
    Objective
        Differentiable in the image score.

    Raises
    ------
    InputError
        If `weight` is negative or not finite.

    Examples
    --------
    >>> from robustad.attacks.objectives import image
    >>> platt = Platt().fit([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
    >>> at = torch.tensor([0.25])
    >>> scores = Scores(patch=at[None], image=at, label=torch.tensor([0]), mask=None)
    >>> round(float(evading(image, platt)(scores)), 3)  # 0.25 - ln 2
    -0.443
    """
    if not 0 <= weight < float("inf"):
        raise InputError(f"weight: expected a finite number >= 0, got {weight}")

    def evasive(scores: Scores) -> Tensor:
        return objective(scores) - weight * entropy(scores.image, calibrator)

    return evasive


def entropy(image: Tensor, calibrator: Calibrator) -> Tensor:
    """Predictive entropy (B,) in nats of image scores (B,); differentiable."""
    if isinstance(calibrator, Platt):
        logit = calibrator.slope * image + calibrator.intercept
        return F.softplus(logit) - logit * torch.sigmoid(logit)
    score = image.detach().double().cpu().numpy()
    step = 1e-4 * np.maximum(np.abs(score), 1e-3)
    low, middle, high = (calibrator.predict_proba(score + way * step) for way in (-1, 0, 1))
    at, slope = (
        torch.from_numpy(np.asarray(value)).to(image) for value in (middle, (high - low) / 2 / step)
    )
    p = at + slope * (image - image.detach())
    p = p.clamp(1e-7, 1 - 1e-7)
    return -p * p.log() - (1 - p) * torch.log1p(-p)
