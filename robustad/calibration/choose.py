"""Choosing a method by what it says of images it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustad.calibration.beta import Beta
from robustad.calibration.isotonic import ENOUGH, Isotonic
from robustad.calibration.platt import Platt
from robustad.calibration.registry import range_of
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.calibration.splits import cross_probabilities
from robustad.calibration.temperature import Temperature
from robustad.errors import InputError
from robustad.metrics._checks import FloatArray, check_scored

if TYPE_CHECKING:
    from robustad.detectors.base import Detector

REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `choose` found.

    Attributes
    ----------
    calibrator : ScoreCalibrator
        Of the chosen method, not fitted.
    nll : dict of str to float
        Cross-validated negative log-likelihood in nats of each method that was tried.
    """

    calibrator: ScoreCalibrator[Any]
    nll: dict[str, float]


def choose(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    *,
    detector: Detector | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Choice:
    """Choose a method by its cross-validated log-likelihood.

    Parameters
    ----------
    scores, labels, sample_weight
        The calibration set; see `ScoreCalibrator.fit`.
    detector : Detector, optional
        Says which range its scores have. Without one `beta` is tried where all scores lie in
        (0, 1).
    folds, seed
        See `stratified_folds`; repeated 5 times with other seeds.

    Returns
    -------
    Choice
        The method of least loss if its mean loss an image is below that of Platt's by more than
        the standard error of the difference (over images), else Platt: between methods that the
        data cannot tell apart, the plainest.

    Raises
    ------
    InputError
        If the calibration set is refused, or has fewer than two images of a label.

    Notes
    -----
    Tried are: `platt`; `temperature` where there are scores on both sides of 0; `beta` where the
    range of the scores is known; `isotonic` from 1000 images on. The loss is the negative
    log-likelihood in nats, as in `robustad.metrics.nll`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(400) % 2
    >>> choose(rng.normal(2.0 * labels, 1.0), labels).calibrator
    Platt()
    """
    values, truth = check_scored(scores, labels)
    weight = np.ones(values.size) if sample_weight is None else np.asarray(sample_weight, float)
    losses: dict[str, FloatArray] = {}
    candidates = {one.method: one for one in _candidates(values, detector)}
    for name, candidate in candidates.items():
        try:
            losses[name] = np.mean(
                [
                    _losses(candidate, values, truth, sample_weight, folds, seed + repeat)
                    for repeat in range(REPEATS)
                ],
                axis=0,
            )
        except InputError:
            if name == Platt.method:
                raise
    nll = {name: float(np.average(loss, weights=weight)) for name, loss in losses.items()}
    best = min(nll, key=nll.__getitem__)
    gain = losses[Platt.method] - losses[best]
    mean = float(np.average(gain, weights=weight))
    spread = np.sqrt(np.average(np.square(gain - mean), weights=weight) / values.size)
    return Choice(calibrator=candidates[best if mean > spread else Platt.method], nll=nll)


def _candidates(values: FloatArray, detector: Detector | None) -> list[ScoreCalibrator[Any]]:
    found: list[ScoreCalibrator[Any]] = [Platt()]
    low, high = float(values.min()), float(values.max())
    if low < 0.0 < high:
        found.append(Temperature())
    if detector is None:
        if low > 0.0 and high < 1.0:
            found.append(Beta())
    else:
        known, stated = range_of(detector)
        if known:
            found.append(Beta(score_range=stated))
    if values.size >= ENOUGH:
        found.append(Isotonic())
    return found


def _losses(
    candidate: ScoreCalibrator[Any],
    values: FloatArray,
    truth: npt.NDArray[np.bool_],
    sample_weight: npt.ArrayLike | None,
    folds: int,
    seed: int,
) -> FloatArray:
    p = cross_probabilities(candidate, values, truth, sample_weight, folds=folds, seed=seed)
    happened = np.where(truth, p, 1.0 - p)
    return -np.log(np.maximum(happened, np.finfo(np.float64).eps))
