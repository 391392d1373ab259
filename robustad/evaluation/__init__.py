"""Evaluation: a detector on labelled images, clean and under attack."""

from robustad.evaluation.examples import Example, collect_examples
from robustad.evaluation.result import (
    CalibrationReport,
    Condition,
    Evaluation,
    Measures,
    Metrics,
)
from robustad.evaluation.run import DEFAULT_ATTACKS, evaluate

__all__ = [
    "DEFAULT_ATTACKS",
    "CalibrationReport",
    "Condition",
    "Evaluation",
    "Example",
    "Measures",
    "Metrics",
    "collect_examples",
    "evaluate",
]
