"""Calibration: from a raw score to a probability that can be believed."""

from collections.abc import Mapping
from typing import Any

from robustad.calibration.base import Calibrator
from robustad.calibration.fit import calibrate
from robustad.calibration.platt import Platt
from robustad.calibration.raw import RawScore
from robustad.errors import StateError

__all__ = ["Calibrator", "Platt", "RawScore", "calibrate", "calibrator_from_dict"]

_METHODS: dict[str, type[Platt] | type[RawScore]] = {
    kind.method: kind for kind in (Platt, RawScore)
}


def calibrator_from_dict(state: Mapping[str, Any]) -> Calibrator:
    """Restore a calibrator from what its `to_dict` gave.

    Parameters
    ----------
    state : mapping
        With the key `method`.

    Returns
    -------
    Calibrator
        Of the class that `method` names.

    Raises
    ------
    StateError
        If `method` is missing or unknown, or the rest does not fit it.

    Examples
    --------
    >>> calibrator_from_dict({"method": "raw"}).predict_proba([0.25]).tolist()
    [0.25]
    """
    method = state.get("method") if isinstance(state, Mapping) else None
    if not isinstance(method, str) or method not in _METHODS:
        raise StateError(
            f"calibration: expected a method of {', '.join(sorted(_METHODS))}, got {method!r}"
        )
    return _METHODS[method].from_dict(state)
