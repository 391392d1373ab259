"""Measures of ranking, localisation, calibration, deferral and flags: arrays in, floats out."""

from robustad.metrics.bootstrap import Interval, auroc_interval, bootstrap_interval
from robustad.metrics.brier import BrierParts, brier, brier_parts
from robustad.metrics.calibration import (
    ece_adaptive,
    ece_positive,
    ece_top_label,
    mean_entropy,
    nll,
)
from robustad.metrics.flag import (
    FlagCurve,
    FlagRates,
    entropy_threshold,
    flag_auroc,
    flag_curve,
    flag_rates,
)
from robustad.metrics.pixel import PixelMetrics, PixelResult
from robustad.metrics.ranking import (
    Best,
    Rates,
    auroc,
    average_precision,
    f1_max,
    gmean_max,
    rates_at,
    threshold_at_fpr,
    trivial_f1,
)
from robustad.metrics.reliability import ReliabilityCurve, reliability_curve, wilson_interval
from robustad.metrics.selective import RiskCoverage, augrc, aurc, risk_at_coverage, risk_coverage

__all__ = [
    "Best",
    "BrierParts",
    "FlagCurve",
    "FlagRates",
    "Interval",
    "PixelMetrics",
    "PixelResult",
    "Rates",
    "ReliabilityCurve",
    "RiskCoverage",
    "augrc",
    "aurc",
    "auroc",
    "auroc_interval",
    "average_precision",
    "bootstrap_interval",
    "brier",
    "brier_parts",
    "ece_adaptive",
    "ece_positive",
    "ece_top_label",
    "entropy_threshold",
    "f1_max",
    "flag_auroc",
    "flag_curve",
    "flag_rates",
    "gmean_max",
    "mean_entropy",
    "nll",
    "rates_at",
    "reliability_curve",
    "risk_at_coverage",
    "risk_coverage",
    "threshold_at_fpr",
    "trivial_f1",
    "wilson_interval",
]
