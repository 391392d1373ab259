"""Published studies run again: their tables with our figures beside the printed ones."""

from robustad.reproduce.fewshot import Outcome, Study, run_fewshot
from robustad.reproduce.tables import Table, tables

__all__ = ["Outcome", "Study", "Table", "run_fewshot", "tables"]
