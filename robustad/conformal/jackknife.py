"""Jackknife+ and CV+ p-values: a guarantee where the detector was fitted on all normals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from robustad.conformal.left_out import LeftOut
from robustad.errors import InputError
from robustad.metrics._checks import FloatArray, check_scores

if TYPE_CHECKING:
    from robustad.detectors import Detector
    from robustad.images import Images


def jackknife_plus_p_values(
    scores: npt.ArrayLike, left_out: npt.ArrayLike, fold: npt.ArrayLike | None = None
) -> FloatArray:
    """p-values that compare each left-out score with the new score by the same detector.

    Parameters
    ----------
    scores : array-like, (B, K)
        Finite scores of the images in question by K detectors, each fitted without one fold.
    left_out : array-like, (n,)
        Finite score of each normal image by the detector that was fitted without it.
    fold : array-like, (n,), int, optional
        Column of `scores` that belongs to each normal image; by default 0..n-1 (K = n).

    Returns
    -------
    array, (B,), float64 in (0, 1]
        (1 + #{i: left_out_i >= scores[fold_i]}) / (n + 1).

    Raises
    ------
    InputError
        If a score is not finite or the shapes do not fit.

    Notes
    -----
    For a normal image exchangeable with the n, and a detector that does not depend on the order of
    its images, for every alpha

    - K = n (jackknife+): P(p <= alpha) <= 2 alpha. Barber, Candès, Ramdas & Tibshirani,
      "Predictive inference with the jackknife+" (Annals of Statistics 2021), theorem 1, whose
      proof compares any scores, not residuals alone: in a tournament of the n + 1 images, where i
      beats j if it scores higher by the detector fitted without both, at most 2 alpha (n + 1) - 1
      images can beat all but alpha (n + 1) - 1 of the others.
    - K equal folds (CV+): P(p <= alpha) <= 2 alpha + min(2 (1 - 1/K) / (n/K + 1),
      (1 - K/n) / (K + 1)), theorem 4 there; the second term is below sqrt(2 / n).

    In practice the rate is near alpha. For a monotone detector these p-values are never above the
    leave-one-out ones of `ConformalScores`, which promise alpha itself.

    Examples
    --------
    >>> jackknife_plus_p_values([[0.3, 0.1, 0.4]], [0.2, 0.2, 0.2]).tolist()
    [0.5]
    """
    held_out = check_scores(left_out, "left_out")
    new = np.asarray(scores, np.float64)
    column = np.arange(held_out.size) if fold is None else np.asarray(fold)
    if new.ndim != 2 or column.shape != held_out.shape:
        raise InputError(
            f"scores: expected shape (B, K) and one fold a left-out score, got {new.shape}, "
            f"{held_out.size} scores and {column.size} folds"
        )
    if column.dtype.kind not in "iu" or column.min() < 0 or column.max() >= new.shape[1]:
        raise InputError(f"fold: expected columns 0..{new.shape[1] - 1}, got {column.tolist()[:9]}")
    check_scores(new.ravel(), at_least=0)
    reached = (held_out >= new[:, column]).sum(axis=1)
    found: FloatArray = (1.0 + reached) / (1.0 + held_out.size)
    return found


class JackknifePlus:
    """p-values of a few-shot detector from the very images it is fitted on.

    Parameters
    ----------
    detector : Detector
        Its options; it is not changed.
    images : path, folder, PIL image, array, tensor, or an iterable of these
        The n >= 2 normal images, all of which the detectors are fitted on but for one fold.
    folds : int in 2..n or None, default None
        None is jackknife+, a number CV+.

    Attributes
    ----------
    left_out : LeftOut
        The scores.

    Raises
    ------
    InputError
        As `LeftOut`.

    Notes
    -----
    Scoring an image takes K scores; for `AnomalyDINO` about the time of one. The object lives in
    memory: what is saved with a detector and exported are the leave-one-out scores, see
    `robustad.conformal.fit`.

    Examples
    --------
    >>> import robustad
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(0, 50, (5, 64, 64, 3), dtype=np.uint8)
    >>> detector = robustad.AnomalyDINO("filters", image_size=64)
    >>> jackknife = JackknifePlus(detector, normal[:4])
    >>> defect = normal[4:].copy()
    >>> defect[:, 20:40, 20:40] = 255
    >>> jackknife.p_values(defect).tolist()
    [0.2]
    """

    def __init__(self, detector: Detector, images: Images, *, folds: int | None = None) -> None:
        self.left_out = LeftOut(detector, images, folds=folds)

    def p_values(self, images: Images) -> FloatArray:
        """p-values (B,) of images; see `jackknife_plus_p_values`."""
        left_out = self.left_out
        return jackknife_plus_p_values(left_out.scores_of(images), left_out.scores, left_out.fold)

    def bound(self, alpha: float) -> float:
        """Largest chance that a normal image has a p-value of at most `alpha`; 1 at most."""
        n = self.left_out.fold.size
        k = int(self.left_out.fold.max()) + 1
        extra = 0.0 if k == n else min(2 * (1 - 1 / k) / (n / k + 1), (1 - k / n) / (k + 1))
        return min(1.0, 2.0 * alpha + extra)
