"""What turns a raw score into a probability."""

from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt


@runtime_checkable
class Calibrator(Protocol):
    """A map from raw image scores to the probability of an anomaly.

    Attributes
    ----------
    method : str
        Name under which it is saved and found again.
    """

    method: ClassVar[str]

    def fit(
        self,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Fit to scores (n,) and labels (n,), 0 normal and 1 anomalous; gives itself back."""
        ...

    def predict_proba(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Probability of an anomaly in [0, 1] for scores (n,)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to restore it, ready for JSON; has the key `method`."""
        ...
