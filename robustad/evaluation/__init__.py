"""Evaluation: a detector on labelled images, clean and under attack."""

from robustad.evaluation.evaluate import DEFAULT_ATTACKS, evaluate
from robustad.evaluation.examples import Example, collect_examples
from robustad.evaluation.result import (
    CalibrationReport,
    Condition,
    Evaluation,
    Measures,
    Metrics,
)

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
