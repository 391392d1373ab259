"""Published studies run again: their tables with our figures beside the printed ones."""

from robustad.reproduce.calibration import (
    CalibrationOutcome,
    CalibrationStudy,
    run_calibration,
)
from robustad.reproduce.fewshot import Outcome, Study, run_fewshot
from robustad.reproduce.tables import Table, tables

__all__ = [
    "CalibrationOutcome",
    "CalibrationStudy",
    "Outcome",
    "Study",
    "Table",
    "run_calibration",
    "run_fewshot",
    "tables",
]
