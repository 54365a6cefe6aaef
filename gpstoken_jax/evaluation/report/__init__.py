"""Evaluations as HTML files that stand alone."""

from gpstoken_jax.evaluation.report.figures import (
    FOCUS_NOTE,
    MAP_NOTE,
    Figure,
    ReportRow,
    make_row,
    map_figures,
    unfocused_figures,
)
from gpstoken_jax.evaluation.report.page import ReportSummary, write_report

__all__ = [
    "FOCUS_NOTE",
    "MAP_NOTE",
    "Figure",
    "ReportRow",
    "ReportSummary",
    "make_row",
    "map_figures",
    "unfocused_figures",
    "write_report",
]
