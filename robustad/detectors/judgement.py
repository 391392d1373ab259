"""What a detector makes of its image scores: probability, p-values, verdict."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robustad.calibration import Calibrator, PixelPlatt
from robustad.conformal.risk import RiskThreshold
from robustad.conformal.scores import ConformalScores, evidence
from robustad.errors import InputError
from robustad.verdict import Evidence, Policy, Verdict


class Judgement:
    """The part of a detector that gives its scores a meaning; all of it can be replaced.

    Attributes
    ----------
    calibrator : Calibrator or None
        Maps image scores to probabilities; None until `calibrate` is called or one is assigned.
    pixel_calibrator : PixelPlatt or None
        Maps values of the anomaly map to probabilities; None until `calibrate_pixels` is called.
    conformal : ConformalScores or None
        Held-out scores that give p-values; None until `robustad.conformal.fit` sets them.
    pixel_threshold : RiskThreshold or None
        From which map value on a pixel is marked; None until `robustad.conformal.fit_pixels`.
    policy : Policy
        Maps probabilities, p-values and what else is known to verdicts.
    """

    calibrator: Calibrator | None = None
    pixel_calibrator: PixelPlatt | None = None
    conformal: ConformalScores | None = None
    pixel_threshold: RiskThreshold | None = None
    policy: Policy = Policy()

    def probability(self, score: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Calibrated probability of an anomaly for image scores (B,); NaN if not calibrated."""
        if self.calibrator is None:
            return np.full(np.shape(score), np.nan)
        return self.calibrator.predict_proba(np.asarray(score, np.float64))

    def evidence(self, score: npt.NDArray[np.floating]) -> Evidence:
        """Probabilities and p-values of image scores (B,); NaN where something is not known."""
        return evidence(score, self.probability(score), self.conformal)

    def decide(
        self,
        score: npt.NDArray[np.floating],
        *,
        interval: npt.NDArray[np.floating] | None = None,
    ) -> list[Verdict]:
        """Verdicts on image scores, as `predict` gives them.

        Parameters
        ----------
        score : array, (B,)
            Finite image scores.
        interval : array, (B, 2), optional
            Low and high end of each image's certified score interval; NaN or infinite where the
            certificate abstained. A part is deferred whose interval straddles a threshold of the
            policy.

        Returns
        -------
        list of Verdict
            See `robustad.Policy`.

        Raises
        ------
        InputError
            If a score is not finite, or the interval does not fit.
        """
        known = self.evidence(score)
        if interval is None:
            return self.policy.decide(known)
        ends = np.asarray(interval, np.float64)
        if ends.shape != (len(known), 2):
            raise InputError(f"interval: expected shape ({len(known)}, 2), got {ends.shape}")
        turned = np.flatnonzero(ends[:, 0] > ends[:, 1])
        if turned.size:
            raise InputError(f"interval: expected low <= high, got {ends[turned[0]].tolist()}")
        return self.policy.decide(known, interval=(self._at(ends[:, 0]), self._at(ends[:, 1])))

    def forget_calibration(self) -> None:
        """Drop what no longer fits a detector that has changed: calibrators, scores, policy."""
        self.calibrator = self.pixel_calibrator = self.conformal = self.pixel_threshold = None
        self.policy = Policy()

    def _at(self, end: npt.NDArray[np.float64]) -> Evidence:
        """Evidence at one end of intervals, unknown where the end is."""
        known = np.isfinite(end)
        found = self.evidence(np.where(known, end, 0.0))
        return Evidence(
            probability=np.where(known, found.probability, np.nan),
            p_value=np.where(known, found.p_value, np.nan),
            low_p_value=np.where(known, found.low_p_value, np.nan),
            anomaly_p_value=np.where(known, found.anomaly_p_value, np.nan),
        )
