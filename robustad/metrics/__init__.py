"""Measures of ranking, localisation, calibration and the entropy flag: arrays in, floats out."""

from robustad.metrics.bootstrap import Interval, auroc_interval
from robustad.metrics.calibration import (
    ReliabilityCurve,
    brier,
    ece_positive,
    ece_top_label,
    mean_entropy,
    nll,
    reliability_curve,
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

__all__ = [
    "Best",
    "FlagCurve",
    "FlagRates",
    "Interval",
    "PixelMetrics",
    "PixelResult",
    "Rates",
    "ReliabilityCurve",
    "auroc",
    "auroc_interval",
    "average_precision",
    "brier",
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
    "threshold_at_fpr",
    "trivial_f1",
]
