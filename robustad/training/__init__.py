"""Adversarial training of patch-wise detectors on pseudo-anomalies."""

from robustad.training.config import TrainingConfig
from robustad.training.presets import PRESETS, preset
from robustad.training.run import train

__all__ = ["PRESETS", "TrainingConfig", "preset", "train"]
