"""Detectors: from an image to patch scores, an image score, a probability and a verdict."""

from robustad.detectors.anomaly_dino import AnomalyDINO
from robustad.detectors.base import Detector, PatchScorer
from robustad.detectors.ensemble import BankEnsemble
from robustad.detectors.patchguard import PatchGuard
from robustad.detectors.state import load

__all__ = ["AnomalyDINO", "BankEnsemble", "Detector", "PatchGuard", "PatchScorer", "load"]
