"""Candidates run here: in another process, read-only, with a deadline that holds."""

from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.outcome import Result, Verdict
from slt_sql_rerank.sandbox.sandbox import Sandbox

__all__ = ["Limits", "Result", "Sandbox", "Verdict"]
