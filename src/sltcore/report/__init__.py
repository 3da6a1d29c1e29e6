"""Reports: a document of plain values, and the page it becomes."""

from sltcore.report.comparison import compare
from sltcore.report.document import (
    AudioRow,
    Chart,
    Column,
    Point,
    Report,
    SeedEffect,
    Series,
    Table,
    UnitRow,
    Verdict,
)
from sltcore.report.page import write

__all__ = [
    "AudioRow",
    "Chart",
    "Column",
    "Point",
    "Report",
    "SeedEffect",
    "Series",
    "Table",
    "UnitRow",
    "Verdict",
    "compare",
    "write",
]
