"""What a detector says about a batch of images. Needs numpy alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.verdict import NOT_KNOWN, Verdict

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Scores, probabilities, p-values, verdicts and maps of B images.

    Attributes
    ----------
    names : list of str
        File names, or `image 0`, `image 1`, ... for images given in memory.
    score : array, (B,), float32
        Raw image score, higher is more anomalous. Never clamped.
    probability : array, (B,), float64 in [0, 1]
        Calibrated probability of an anomaly; NaN where the detector is not calibrated.
    entropy : array, (B,), float64 in [0, ln 2]
        Predictive entropy in nats; NaN where the detector is not calibrated.
    p_value : array, (B,), float64 in (0, 1]
        Conformal p-value, small where a normal image would hardly score as high; NaN where the
        detector has no held-out scores (`robustad.conformal.fit`). NaN if not given.
    verdict : list of Verdict
        What the detector's policy makes of all this.
    patch_scores : list of array, (h, w), float32
        Scores on the patch grid; images of different shapes have different grids.
    anomaly_map : list of array, (H, W), float32
        Smoothed map at the size of the original image.
    pixel_threshold : float or None, default None
        Map value from which a pixel belongs to a defect, see `robustad.conformal.fit_pixels`.
    probability_map : list of array, (H, W), float32 in [0, 1], or None
        Probability of each pixel to be anomalous; None where pixels are not calibrated.
    probability_interval : (low, high), each array (B,), float64 in [0, 1], or None
        Bootstrap interval of the probability; None where the calibrator has none.

    Raises
    ------
    InputError
        If there is not one p-value an image.
    """

    names: list[str]
    score: FloatArray
    probability: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]
    verdict: list[Verdict]
    patch_scores: list[FloatArray]
    anomaly_map: list[FloatArray]
    p_value: npt.NDArray[np.float64] = NOT_KNOWN
    pixel_threshold: float | None = None
    probability_map: list[FloatArray] | None = None
    probability_interval: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None

    def __post_init__(self) -> None:
        given = np.full(len(self.names), np.nan) if self.p_value is None else self.p_value
        if np.shape(given) != (len(self.names),):
            raise InputError(f"p_value: expected shape ({len(self.names)},), got {np.shape(given)}")
        object.__setattr__(self, "p_value", given)

    def __len__(self) -> int:
        return len(self.names)

    def masks(self) -> list[npt.NDArray[np.bool_]]:
        """Defect masks (H, W), bool: where the map is at least the pixel threshold.

        Raises
        ------
        InputError
            If there is no pixel threshold.
        """
        limit = self.pixel_threshold
        if limit is None:
            raise InputError(
                "pixel_threshold: expected a number, got None; robustad.conformal.fit_pixels sets "
                "the detector's"
            )
        return [one >= limit for one in self.anomaly_map]

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-ready dict an image: name, score, probability, entropy, p_value, verdict.

        Probability, entropy and p-value are None where the detector does not know them, and so is
        any number that JSON cannot write (NaN, infinity). Where there is an interval of the
        probability, its ends are `probability_low` and `probability_high`.
        """
        return [
            {
                "name": self.names[i],
                "score": _or_none(self.score[i]),
                "probability": _or_none(self.probability[i]),
                **self._ends(i),
                "entropy": _or_none(self.entropy[i]),
                "p_value": _or_none(self.p_value[i]),
                "verdict": str(self.verdict[i]),
            }
            for i in range(len(self))
        ]

    def _ends(self, i: int) -> dict[str, float | None]:
        if self.probability_interval is None:
            return {}
        low, high = self.probability_interval
        return {"probability_low": _or_none(low[i]), "probability_high": _or_none(high[i])}


def _or_none(value: np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None
