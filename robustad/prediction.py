"""What a detector says about a batch of images. Needs numpy alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robustad.verdict import Verdict

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Scores, probabilities, verdicts and maps of B images.

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
    verdict : list of Verdict
        What the detector's policy makes of probability and entropy.
    patch_scores : list of array, (h, w), float32
        Scores on the patch grid; images of different shapes have different grids.
    anomaly_map : list of array, (H, W), float32
        Smoothed map at the size of the original image.
    probability_map : list of array, (H, W), float32 in [0, 1], or None
        Probability of each pixel to be anomalous; None where pixels are not calibrated.
    probability_interval : (low, high), each array (B,), float64 in [0, 1], or None
        Bootstrap interval of the probability; None where the calibrator has none.
    """

    names: list[str]
    score: FloatArray
    probability: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]
    verdict: list[Verdict]
    patch_scores: list[FloatArray]
    anomaly_map: list[FloatArray]
    probability_map: list[FloatArray] | None = None
    probability_interval: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-ready dict an image: name, score, probability, entropy, verdict.

        Probability and entropy are None where the detector is not calibrated, and so is any number
        that JSON cannot write (NaN, infinity). Where there is an interval of the probability, its
        ends are `probability_low` and `probability_high`.
        """
        return [
            {
                "name": self.names[i],
                "score": _or_none(self.score[i]),
                "probability": _or_none(self.probability[i]),
                **self._ends(i),
                "entropy": _or_none(self.entropy[i]),
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
