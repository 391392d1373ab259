"""Attacks on anomaly detectors, white-box through the true score or the study's linear probe."""

from robustad.attacks.objectives import OBJECTIVES, Objective, Scores, patch_mask
from robustad.attacks.presets import PRESETS, Preset, preset
from robustad.attacks.probe import LinearProbe
from robustad.attacks.run import AttackResult, attack

__all__ = [
    "OBJECTIVES",
    "PRESETS",
    "AttackResult",
    "LinearProbe",
    "Objective",
    "Preset",
    "Scores",
    "attack",
    "patch_mask",
    "preset",
]
