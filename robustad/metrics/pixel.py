"""Pixel-wise AUROC, AP and AUPRO over a whole data set, without keeping a map."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.metrics._checks import FloatArray, check_bins, check_fraction
from robustad.metrics._histogram import FloatHistogram

MAX_BINS = 1 << 29  # bin numbers are 32-bit
_PIXELS, _ANOMALOUS, _OVERLAP = range(3)


@dataclass(frozen=True, kw_only=True)
class PixelResult:
    """Pixel-wise measures of a data set, all in [0, 1].

    Attributes
    ----------
    auroc : float
        Area under the ROC curve over all pixels of all images.
    ap : float
        Average precision over all pixels, by steps.
    aupro : float
        Area under the per-region overlap, up to the limit of the false positive rate and divided
        by it.
    n_images, n_pixels, n_anomalous_pixels, n_regions : int
        What was counted. Regions are 8-connected.
    """

    auroc: float
    ap: float
    aupro: float
    n_images: int
    n_pixels: int
    n_anomalous_pixels: int
    n_regions: int


class PixelMetrics:
    """Running pixel-wise measures: feed image by image, compute at the end.

    Parameters
    ----------
    bins : int, default 2**18
        Upper limit for the bins of the score histogram, for each sign, 2 to 2**29; a bin takes
        24 bytes. With the default, scores that differ by 0.2% never share a bin. It gets finer
        where the magnitudes span less than the whole float32 range: 0.01% is enough if they lie
        between 1e-4 and 0.5.
    fpr_limit : float in (0, 1], default 0.3
        AUPRO integrates over false positive rates from 0 to this.

    Raises
    ------
    InputError
        If a parameter lies outside its range.

    Notes
    -----
    Scores may have any range, sign and tail, and it need not be known beforehand: the bins follow
    the floating point representation, and that of 1 - x for scores just below 1. Scores count
    in float32; those in one bin count as equal. Against sorting all scores that changes the
    measures by less than 1e-4 on typical maps.

    AUPRO (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021): at each threshold,
    the share of its pixels that is found, averaged over all ground-truth regions of all images
    with equal weight, over the false positive rate among all normal pixels. Between thresholds,
    at equal scores and at the limit the curve is interpolated linearly; it starts at (0, 0), so
    it never exceeds 1.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.zeros((4, 4), bool)
    >>> mask[:2, :2] = True
    >>> metrics = PixelMetrics()
    >>> metrics.update(np.where(mask, 0.9, 0.1), mask)
    >>> result = metrics.compute()
    >>> result.auroc, result.ap, result.aupro, result.n_regions
    (1.0, 1.0, 1.0, 1)
    """

    def __init__(self, *, bins: int = 1 << 18, fpr_limit: float = 0.3) -> None:
        if not 2 <= check_bins(bins) <= MAX_BINS:
            raise InputError(f"bins: expected 2 to {MAX_BINS}, got {bins}")
        self._fpr_limit = check_fraction(fpr_limit, "fpr_limit", low=False)
        self._histogram = FloatHistogram(bins, channels=3)
        self._images = 0
        self._regions = 0

    def update(
        self, anomaly_map: npt.NDArray[np.floating[Any]], mask: npt.NDArray[np.bool_]
    ) -> None:
        """Count one image.

        Parameters
        ----------
        anomaly_map : array, (H, W), floating point
            Finite score of each pixel, higher is more anomalous.
        mask : array, (H, W), bool
            True where the pixel is anomalous; all False for a normal image.

        Raises
        ------
        InputError
            If shapes or types do not fit or a score is not finite in float32. Nothing is counted
            then.
        """
        scores, truth = np.asarray(anomaly_map), np.asarray(mask)
        self._check(scores, truth)
        histogram = self._histogram
        bins = histogram.bins_of(scores.astype(np.float32, copy=False))
        histogram.add(_PIXELS, bins.ravel())
        if truth.any():
            found = bins[truth]
            weights, regions = _region_weights(truth)
            histogram.add(_ANOMALOUS, found)
            histogram.add(_OVERLAP, found, weights)
            self._regions += regions
        self._images += 1

    def compute(self) -> PixelResult:
        """Measures of all images so far; more may follow.

        Raises
        ------
        InputError
            If no image, no anomalous or no normal pixel has been counted.
        """
        sums = self._histogram.sums[:, ::-1]  # from the highest score down
        pixels, hits, overlap = sums[:, sums[_PIXELS] > 0]
        alarms = pixels - hits
        normal, anomalous = alarms.sum(), hits.sum()
        if normal == 0 or anomalous == 0:
            what = "anomalous pixel" if anomalous == 0 else "normal pixel"
            raise InputError(
                f"masks: expected anomalous and normal pixels, found no {what} "
                f"in {self._images} images"
            )
        fpr = _rates(alarms, normal)
        return PixelResult(
            auroc=_area(fpr, _rates(hits, anomalous), 1.0),
            ap=_average_precision(hits, alarms),
            aupro=_area(fpr, _rates(overlap, self._regions), self._fpr_limit),
            n_images=self._images,
            n_pixels=int(normal + anomalous),
            n_anomalous_pixels=int(anomalous),
            n_regions=self._regions,
        )

    def _check(self, scores: npt.NDArray[Any], truth: npt.NDArray[Any]) -> None:
        where = f"image {self._images}"
        if scores.ndim != 2 or scores.size == 0 or scores.dtype.kind != "f":
            raise InputError(
                f"anomaly_map of {where}: expected floating point (H, W), "
                f"got {scores.dtype} {scores.shape}"
            )
        if truth.dtype != np.bool_ or truth.shape != scores.shape:
            raise InputError(
                f"mask of {where}: expected bool {scores.shape} like its anomaly_map, "
                f"got {truth.dtype} {truth.shape}"
            )
        limit = np.finfo(np.float32).max
        # Two passes without a temporary; NaN fails both comparisons.
        if not (scores.min() >= -limit and scores.max() <= limit):
            row, column = np.argwhere(~(np.abs(scores) <= limit))[0].tolist()
            raise InputError(
                f"anomaly_map of {where}: expected finite float32 values, "
                f"got {scores[row, column]} at row {row}, column {column}"
            )


def _region_weights(mask: npt.NDArray[np.bool_]) -> tuple[FloatArray, int]:
    """For each anomalous pixel 1 / size of its region, and the number of regions."""
    from scipy.ndimage import label

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    regions, count = label(box, structure=np.ones((3, 3), np.int8))
    region = regions[box]  # row-major, as the boolean index into the whole map
    return 1.0 / np.bincount(region)[region], int(count)


def _rates(sums: FloatArray, total: float) -> FloatArray:
    # Weights that add up to 1 a region may exceed it by rounding; no rate does.
    return np.concatenate([[0.0], np.minimum(np.cumsum(sums) / total, 1.0)])


def _area(x: FloatArray, y: FloatArray, limit: float) -> float:
    """Area under the polygon up to x = limit, over limit."""
    inside = int(np.searchsorted(x, limit, side="right"))
    area = (np.diff(x[:inside]) * (y[1:inside] + y[: inside - 1])).sum() / 2.0
    if inside < x.size:
        cut, width = limit - x[inside - 1], x[inside] - x[inside - 1]
        at_limit = y[inside - 1] + (y[inside] - y[inside - 1]) * cut / width
        area += cut * (y[inside - 1] + at_limit) / 2.0
    return min(float(area / limit), 1.0)


def _average_precision(hits: FloatArray, alarms: FloatArray) -> float:
    found = np.cumsum(hits)
    precision = found / (found + np.cumsum(alarms))
    return min(float((hits * precision).sum() / found[-1]), 1.0)
