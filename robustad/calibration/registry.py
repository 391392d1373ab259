"""Calibrators by the name they are chosen, saved and found again by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robustad.calibration.base import Calibrator
from robustad.calibration.beta import Beta
from robustad.calibration.isotonic import Isotonic
from robustad.calibration.platt import Platt
from robustad.calibration.raw import RawScore
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.calibration.temperature import Temperature
from robustad.errors import InputError, StateError

if TYPE_CHECKING:
    from robustad.detectors.base import Detector

# The ones that are fitted; `RawScore` is no choice for a detector, only for a comparison.
FITTED: dict[str, type[ScoreCalibrator[Any]]] = {
    kind.method: kind for kind in (Platt, Temperature, Beta, Isotonic)
}
METHODS: dict[str, type[ScoreCalibrator[Any]] | type[RawScore]] = {
    **FITTED,
    RawScore.method: RawScore,
}


def create(method: str, *, detector: Detector | None = None) -> ScoreCalibrator[Any]:
    """Make a calibrator that is yet to be fitted.

    Parameters
    ----------
    method : {"platt", "temperature", "beta", "isotonic"}
        Its name.
    detector : Detector, optional
        Says which range its scores have, for `beta`; without one (0, 1) is assumed.

    Returns
    -------
    ScoreCalibrator
        Not fitted.

    Raises
    ------
    InputError
        If the method is unknown, or `beta` is asked for a detector that states no range.

    Examples
    --------
    >>> create("isotonic")
    Isotonic()
    """
    if method not in FITTED:
        raise InputError(f"method: expected one of {', '.join(FITTED)}, got {method!r}")
    if method == Beta.method and detector is not None:
        known, score_range = range_of(detector)
        if not known:
            raise InputError(
                f"method: beta needs the range of the scores, which {type(detector).__name__} "
                "does not state; give Beta(score_range=...) itself"
            )
        return Beta(score_range=score_range)
    return FITTED[method]()


def range_of(detector: Detector) -> tuple[bool, tuple[float, float] | None]:
    """Whether it is known which scores a detector gives, and their range; None for logits."""
    if getattr(detector, "scores_are_logits", False):
        return True, None
    score_range = getattr(detector, "score_range", None)
    return score_range is not None, score_range


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
    if not isinstance(method, str) or method not in METHODS:
        raise StateError(
            f"calibration: expected a method of {', '.join(sorted(METHODS))}, got {method!r}"
        )
    return METHODS[method].from_dict(state)
