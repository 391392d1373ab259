"""Held-out scores where no image can be held out: each image scored without itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.images import iter_images

if TYPE_CHECKING:
    from robustad.detectors import Detector
    from robustad.images import Images

FloatArray = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.float32]


class _Scorer(Protocol):
    monotone: bool

    def made(self, detector: Any) -> bool: ...

    def scores(self, images: Sequence[Pixels], wanted: npt.NDArray[np.bool_]) -> FloatArray: ...


class LeftOut:
    """A detector fitted on n images, K times, each time without one fold of them.

    Parameters
    ----------
    detector : Detector
        Its options; it is not changed. Any detector that has a method `fit`.
    images : path, folder, PIL image, array, tensor, or an iterable of these
        The n >= 2 normal images it was, or is to be, fitted on.
    folds : int in 2..n or None, default None
        Number of folds; None leaves out one image at a time. Image i goes into fold i mod K.

    Attributes
    ----------
    scores : array, (n,), float64
        Score of each image by the detector that was fitted without its fold.
    fold : array, (n,), int64
        Fold of each image.
    monotone : bool
        See `ConformalScores`.
    names : list of str
        Of the images.

    Raises
    ------
    InputError
        If there are fewer than two images, the number of folds is out of range, or the detector
        cannot be fitted on images.

    Notes
    -----
    `AnomalyDINO` is not fitted again: see `robustad.detectors.left_out.LeftOutBank`.
    """

    def __init__(self, detector: Detector, images: Images, *, folds: int | None = None) -> None:
        loaded = list(iter_images(images))
        count = len(loaded)
        if count < 2:
            raise InputError(
                f"images: expected at least 2 to leave one out, got {count}: with one shot there "
                "is nothing to hold out, hold out other normal images"
            )
        number = count if folds is None else folds
        if not 2 <= number <= count:
            raise InputError(f"folds: expected 2..{count} (the images), got {folds}")
        self.names = [one.name for one in loaded]
        self.fold = np.arange(count, dtype=np.int64) % number
        pixels = [one.pixels for one in loaded]
        self._scorer = _scorer(detector, pixels, self.fold)
        self.monotone = self._scorer.monotone
        own = self.fold[:, None] == np.arange(number)
        self.scores: FloatArray = self._scorer.scores(pixels, own)[own]

    def check_fitted(self, detector: Detector) -> None:
        """Raise an InputError unless a detector was fitted on all of the images, as far as known.

        A bank tells which images made it; of other detectors nothing is known.
        """
        if not self._scorer.made(detector):
            raise InputError(
                f"normals: are not the images that the detector was fitted on ({self.names[0]}, "
                "...); leave-one-out scores of other images promise nothing: hold them out instead "
                "(method 'split')"
            )

    def scores_of(self, images: Images) -> FloatArray:
        """Scores (B, K), float64, of other images by each of the K detectors."""
        pixels = [one.pixels for one in iter_images(images)]
        if not pixels:
            raise InputError("images: expected at least one image, got none")
        return self._scorer.scores(pixels, np.ones((len(pixels), self.fold.max() + 1), bool))


class _Refitted:
    """Copies of a detector, each fitted without a fold."""

    monotone = False

    def __init__(
        self, detector: Detector, images: Sequence[Pixels], fold: npt.NDArray[np.int64]
    ) -> None:
        fit = getattr(detector, "fit", None)
        if fit is None:
            raise InputError(
                f"detector: expected one with a method fit, got {type(detector).__name__}; hold "
                "out normal images for it"
            )
        self._twins = []
        for place in range(int(fold.max()) + 1):
            twin = copy.deepcopy(detector)
            kept = [one for one, where in zip(images, fold, strict=True) if where != place]
            twin.fit(kept)  # type: ignore[operator]
            self._twins.append(twin)

    def made(self, detector: Any) -> bool:
        return True

    def scores(self, images: Sequence[Pixels], wanted: npt.NDArray[np.bool_]) -> FloatArray:
        found = np.full(wanted.shape, np.nan)
        for row, fold in zip(*np.nonzero(wanted), strict=True):
            [found[row, fold]] = self._twins[fold].predict([images[row]]).score
        return found


def _scorer(detector: Detector, images: Sequence[Pixels], fold: npt.NDArray[np.int64]) -> _Scorer:
    from robustad.detectors import AnomalyDINO

    if type(detector) is AnomalyDINO:
        from robustad.detectors.left_out import LeftOutBank

        return LeftOutBank(detector, images, fold)
    return _Refitted(detector, images, fold)
