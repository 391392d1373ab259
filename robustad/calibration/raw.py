"""The raw score taken for a probability: what published uncalibrated figures do."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from robustad.errors import StateError
from robustad.metrics._checks import check_scores


class RawScore:
    """The score itself, clipped to [0, 1].

    A raw score is no probability; nothing in robustad falls back to this. It exists to be asked
    for by name, for the uncalibrated columns of a comparison.

    Examples
    --------
    >>> RawScore().predict_proba([-0.2, 0.3, 1.7]).tolist()
    [0.0, 0.3, 1.0]
    """

    method: ClassVar[str] = "raw"

    def fit(
        self,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Do nothing: there is nothing to fit."""
        return self

    def predict_proba(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Clip scores to [0, 1].

        Parameters
        ----------
        scores : array, (n,)
            Finite raw scores.

        Returns
        -------
        array, (n,), float64 in [0, 1]
            The clipped scores.

        Raises
        ------
        InputError
            If a score is not finite or the shape is not (n,).
        """
        return np.clip(check_scores(scores, at_least=0), 0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Give `{"method": "raw"}`."""
        return {"method": self.method}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore from `to_dict`; a StateError if `state` is anything else."""
        if dict(state) != {"method": cls.method}:
            raise StateError(f"calibration: expected {{'method': 'raw'}}, got {dict(state)}")
        return cls()
