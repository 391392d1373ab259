"""Certificates: bounds on a score that no attack within a radius can break."""

from robustad.certificates.angles import angular_bounds, feature_angles, feature_bounds
from robustad.certificates.features import certify_features, measure_angles
from robustad.certificates.figures import certified_auroc, certified_rates
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
from robustad.certificates.result import Certification
from robustad.certificates.run import DEFAULT_RADII, certify
from robustad.certificates.scores import noisy_scores
from robustad.certificates.smoothed import SmoothedDetector
from robustad.certificates.topk import Bounds, topk_bounds, topk_lipschitz

__all__ = [
    "DEFAULT_RADII",
    "Bounds",
    "Certification",
    "Denoiser",
    "Intervals",
    "Ranks",
    "Sides",
    "SmoothedDetector",
    "angular_bounds",
    "certified_auroc",
    "certified_rates",
    "certify",
    "certify_features",
    "content_seed",
    "draws_needed",
    "feature_angles",
    "feature_bounds",
    "measure_angles",
    "median_intervals",
    "median_ranks",
    "noisy_scores",
    "reach",
    "topk_bounds",
    "topk_lipschitz",
]
