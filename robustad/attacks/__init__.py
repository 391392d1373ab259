"""Attacks on anomaly detectors: objectives, optimisers, named presets, and what they cost."""

from robustad.attacks.access import as_scorer, find_access
from robustad.attacks.images import SavedImages, load_adversarial, save_adversarial
from robustad.attacks.named import Preset
from robustad.attacks.objectives import OBJECTIVES, LogitScale, Objective, Scores, patch_mask
from robustad.attacks.presets import PRESETS, preset
from robustad.attacks.probe import LinearProbe
from robustad.attacks.run import AttackResult, attack

__all__ = [
    "OBJECTIVES",
    "PRESETS",
    "AttackResult",
    "LinearProbe",
    "LogitScale",
    "Objective",
    "Preset",
    "SavedImages",
    "Scores",
    "as_scorer",
    "attack",
    "find_access",
    "load_adversarial",
    "patch_mask",
    "preset",
    "save_adversarial",
]
