"""The labelled scores that calibrators are fitted to, checked once for all of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.metrics._checks import BoolArray, FloatArray, check_scored, check_scores


@dataclass(frozen=True, eq=False)
class Labelled:
    """A calibration set.

    Attributes
    ----------
    scores : array, (n,), float64
        Finite, not all the same.
    truth : array, (n,), bool
        True for anomalous; both occur.
    weight : array, (n,), float64, or None
        Positive: how often each score counts; None for once each.
    """

    scores: FloatArray
    truth: BoolArray
    weight: FloatArray | None

    @property
    def n_anomalous(self) -> int:
        """Scores of anomalous images."""
        return int(self.truth.sum())

    @property
    def n_normal(self) -> int:
        """Scores of normal images."""
        return self.truth.size - self.n_anomalous

    @property
    def totals(self) -> tuple[float, float]:
        """Weight of the normal and of the anomalous images."""
        if self.weight is None:
            return float(self.n_normal), float(self.n_anomalous)
        return float(self.weight[~self.truth].sum()), float(self.weight[self.truth].sum())

    @property
    def prevalence(self) -> float:
        """Share of anomalies, by weight."""
        normal, anomalous = self.totals
        return anomalous / (normal + anomalous)

    def targets(self) -> FloatArray:
        """Platt's smoothed targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2), for 1 and 0."""
        normal, anomalous = self.totals
        return np.where(self.truth, (anomalous + 1) / (anomalous + 2), 1 / (normal + 2))


def check_labelled(
    scores: npt.ArrayLike, labels: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
) -> Labelled:
    """Check a calibration set; scores of weight 0 are left out.

    Raises
    ------
    InputError
        If the lengths differ, a score or weight is not finite, a label is neither 0 nor 1, a
        weight is negative, a class is missing or has no weight, or the scores are constant.
    """
    values, truth = check_scored(scores, labels)
    weight = None
    if sample_weight is not None:
        weight = check_scores(sample_weight, "sample_weight")
        if weight.size != values.size:
            raise InputError(
                "scores and sample_weight: expected equal lengths, got "
                f"{values.size} and {weight.size}"
            )
        if (weight < 0.0).any():
            index = int(np.flatnonzero(weight < 0.0)[0])
            raise InputError(
                f"sample_weight: expected numbers >= 0, got {weight[index]:g} at index {index}"
            )
        for label, name in ((0, "0 (normal)"), (1, "1 (anomalous)")):
            if not weight[truth == label].any():
                raise InputError(
                    f"sample_weight: expected a positive weight in each class, got only 0 for "
                    f"label {name}"
                )
        if (weight == 0.0).any():
            kept = weight > 0.0
            values, truth, weight = values[kept], truth[kept], weight[kept]
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise InputError(
            f"scores: expected different values to fit to, got {low:g} {values.size} times"
        )
    return Labelled(values, truth, weight)


def standardised(scores: FloatArray, weight: FloatArray | None) -> tuple[FloatArray, float, float]:
    """Scores with mean 0 and standard deviation 1, and the (slope, offset) that made them.

    Raises
    ------
    InputError
        If their spread is below the smallest normal float64.
    """
    low, high = float(scores.min()), float(scores.max())
    # Halves first: the spread of finite scores may be more than the largest float64.
    centre, half_range = low / 2 + high / 2, high / 2 - low / 2
    if half_range < np.finfo(np.float64).tiny:
        raise too_close(low, high)
    scaled = (scores - centre) / half_range
    mean = float(np.average(scaled, weights=weight))
    spread = float(np.sqrt(np.average(np.square(scaled - mean), weights=weight)))
    with np.errstate(over="ignore"):
        slope = np.float64(1.0) / spread / half_range
    if not np.isfinite(slope):
        raise too_close(low, high)
    return (scaled - mean) / spread, float(slope), float(-mean / spread - slope * centre)


def too_close(low: float, high: float) -> InputError:
    """The error for scores that no float64 slope could tell apart."""
    return InputError(
        f"scores: expected a spread that a float64 can hold the slope for, got {low:g}..{high:g}"
    )
