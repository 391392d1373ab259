"""Evaluation: a detector on labelled images, clean and under attack."""

from robustad.evaluation.coverage import Coverage, coverage
from robustad.evaluation.curves import Curve, Point, eps_curves, steps_curves
from robustad.evaluation.examples import Example, collect_examples
from robustad.evaluation.result import (
    CalibrationReport,
    Check,
    Condition,
    ConformalReport,
    Evaluation,
    FlagResult,
    Measures,
    Metrics,
)
from robustad.evaluation.run import DEFAULT_ATTACKS, evaluate, evaluate_shard
from robustad.evaluation.selfcheck import selfcheck
from robustad.evaluation.store import merge_stores

__all__ = [
    "DEFAULT_ATTACKS",
    "CalibrationReport",
    "Check",
    "Condition",
    "ConformalReport",
    "Coverage",
    "Curve",
    "Evaluation",
    "Example",
    "FlagResult",
    "Measures",
    "Metrics",
    "Point",
    "collect_examples",
    "coverage",
    "eps_curves",
    "evaluate",
    "evaluate_shard",
    "merge_stores",
    "selfcheck",
    "steps_curves",
]
