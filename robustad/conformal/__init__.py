"""Conformal guarantees: p-values, thresholds with a stated error rate, risk control. Torch-free."""

from robustad.conformal.fit import fit, fit_pixels
from robustad.conformal.jackknife import JackknifePlus, jackknife_plus_p_values
from robustad.conformal.left_out import LeftOut
from robustad.conformal.multiple import (
    adjusted_p_values,
    benjamini_hochberg,
    storey_null_share,
)
from robustad.conformal.pixels import PixelRisk
from robustad.conformal.pvalues import p_values, weighted_p_values
from robustad.conformal.risk import RiskControl, RiskThreshold, control_risk
from robustad.conformal.scores import ConformalScores
from robustad.conformal.thresholds import (
    Threshold,
    smallest_n,
    threshold_for_fnr,
    threshold_for_fpr,
)

__all__ = [
    "ConformalScores",
    "JackknifePlus",
    "LeftOut",
    "PixelRisk",
    "RiskControl",
    "RiskThreshold",
    "Threshold",
    "adjusted_p_values",
    "benjamini_hochberg",
    "control_risk",
    "fit",
    "fit_pixels",
    "jackknife_plus_p_values",
    "p_values",
    "smallest_n",
    "storey_null_share",
    "threshold_for_fnr",
    "threshold_for_fpr",
    "weighted_p_values",
]
