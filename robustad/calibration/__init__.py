"""Calibration: from a raw score to a probability that can be believed."""

from robustad.calibration.base import Calibrator
from robustad.calibration.beta import Beta
from robustad.calibration.bootstrap import with_bootstrap_band
from robustad.calibration.choose import Choice, choose
from robustad.calibration.fit import calibrate
from robustad.calibration.fit_pixels import calibrate_pixels
from robustad.calibration.isotonic import Isotonic
from robustad.calibration.pixel import PixelPlatt
from robustad.calibration.platt import Platt
from robustad.calibration.raw import RawScore
from robustad.calibration.registry import FITTED, METHODS, calibrator_from_dict, create
from robustad.calibration.score_calibrator import ScoreCalibrator
from robustad.calibration.splits import cross_probabilities, repeated_splits, stratified_folds
from robustad.calibration.state import Band
from robustad.calibration.temperature import Temperature

__all__ = [
    "FITTED",
    "METHODS",
    "Band",
    "Beta",
    "Calibrator",
    "Choice",
    "Isotonic",
    "PixelPlatt",
    "Platt",
    "RawScore",
    "ScoreCalibrator",
    "Temperature",
    "calibrate",
    "calibrate_pixels",
    "calibrator_from_dict",
    "choose",
    "create",
    "cross_probabilities",
    "repeated_splits",
    "stratified_folds",
    "with_bootstrap_band",
]
