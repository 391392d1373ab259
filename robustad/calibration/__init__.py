"""Calibration: from a raw score to a probability that can be believed."""

from robustad.calibration.base import Calibrator
from robustad.calibration.beta import Beta
from robustad.calibration.bootstrap import with_bootstrap_band
from robustad.calibration.choose import Choice, choose
from robustad.calibration.fit import calibrate
from robustad.calibration.isotonic import Isotonic
from robustad.calibration.platt import Platt
from robustad.calibration.raw import RawScore
from robustad.calibration.registry import FITTED, METHODS, calibrator_from_dict, create
from robustad.calibration.score_calibrator import Band, ScoreCalibrator
from robustad.calibration.splits import cross_probabilities, repeated_splits, stratified_folds
from robustad.calibration.temperature import Temperature

__all__ = [
    "FITTED",
    "METHODS",
    "Band",
    "Beta",
    "Calibrator",
    "Choice",
    "Isotonic",
    "Platt",
    "RawScore",
    "ScoreCalibrator",
    "Temperature",
    "calibrate",
    "calibrator_from_dict",
    "choose",
    "create",
    "cross_probabilities",
    "repeated_splits",
    "stratified_folds",
    "with_bootstrap_band",
]
