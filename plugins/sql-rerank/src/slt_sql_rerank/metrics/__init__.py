"""Exact set match, execution and test-suite accuracy, as Spider's scorer counts and strictly, and what reranking gains."""

from slt_sql_rerank.metrics.accuracy import Accuracy
from slt_sql_rerank.metrics.distillation import Distilled, distilled, neighbours
from slt_sql_rerank.metrics.execution import WIDE, Execution
from slt_sql_rerank.metrics.hardness import LEVELS, hardness
from slt_sql_rerank.metrics.instances import make_instances
from slt_sql_rerank.metrics.reranking import gains, oracle_at, recovered_gap, wins_losses
from slt_sql_rerank.metrics.set_match import official_match
from slt_sql_rerank.metrics.strict_match import strict_match

__all__ = [
    "LEVELS",
    "WIDE",
    "Accuracy",
    "Distilled",
    "Execution",
    "distilled",
    "gains",
    "hardness",
    "make_instances",
    "neighbours",
    "official_match",
    "oracle_at",
    "recovered_gap",
    "strict_match",
    "wins_losses",
]
