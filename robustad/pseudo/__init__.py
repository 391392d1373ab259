"""Pseudo-anomalies: patches of normal images, changed and pasted elsewhere, with exact masks."""

from robustad.pseudo.bounds import published
from robustad.pseudo.config import TRANSFORMATIONS, PseudoConfig, Transformation
from robustad.pseudo.generator import PseudoAnomalies, PseudoBatch

__all__ = [
    "TRANSFORMATIONS",
    "PseudoAnomalies",
    "PseudoBatch",
    "PseudoConfig",
    "Transformation",
    "published",
]
