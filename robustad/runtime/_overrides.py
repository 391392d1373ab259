"""What replaces a file's own calibration and held-out scores, as the graph takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from robustad.errors import InputError
from robustad.probability import check_state
from robustad.runtime import _metadata

if TYPE_CHECKING:
    from robustad.conformal.scores import ConformalScores

# Slope and intercept, a calibrator's saved state, or anything that gives one by `to_dict`.
Calibration: TypeAlias = "tuple[float, float] | Mapping[str, Any] | HasState"


class HasState(Protocol):
    """A calibrator, as far as the runtime needs one."""

    def to_dict(self) -> dict[str, Any]:
        """With `method` and its parameters."""
        ...


def calibration_state(value: Calibration) -> dict[str, Any]:
    """State of a calibrator, of whatever is taken for one; see `robustad.runtime.load`."""
    if isinstance(value, Mapping):
        return check_state(value)
    if (state := getattr(value, "to_dict", None)) is not None:
        return check_state(state())
    try:
        pair = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        pair = np.empty(0)
    if pair.shape != (2,) or not np.isfinite(pair).all():
        raise InputError(
            f"calibration: expected two finite numbers, a calibrator or its state, got {value!r}"
        )
    slope, intercept = pair.tolist()
    return {"method": "platt", "slope": slope, "intercept": intercept}


def held_out_scores(
    scores: ConformalScores | None, *, anomalous: bool
) -> dict[str, npt.NDArray[np.float32]]:
    """Held-out scores by the graph's input; NaN stands for none of a kind."""
    nothing = np.array([np.nan], np.float32)
    fed = {_metadata.CONFORMAL: None if scores is None else scores.normal}
    if anomalous:
        fed[_metadata.ANOMALOUS] = None if scores is None else scores.anomalous
    return {name: nothing if found is None else found for name, found in fed.items()}
