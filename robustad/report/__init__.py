"""Evaluation results as one HTML file to look at."""

from robustad.report.page import write_report

__all__ = ["write_report"]
