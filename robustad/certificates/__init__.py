"""Certificates: bounds on a score that no attack within a radius can break."""

from robustad.certificates.noise import Denoiser, content_seed
from robustad.certificates.orders import (
    Intervals,
    Ranks,
    Sides,
    draws_needed,
    median_intervals,
    median_ranks,
    reach,
)
from robustad.certificates.scores import noisy_scores
from robustad.certificates.smoothed import SmoothedDetector

__all__ = [
    "Denoiser",
    "Intervals",
    "Ranks",
    "Sides",
    "SmoothedDetector",
    "content_seed",
    "draws_needed",
    "median_intervals",
    "median_ranks",
    "noisy_scores",
    "reach",
]
