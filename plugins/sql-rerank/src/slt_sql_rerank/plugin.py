"""The components of the plugin `sql-rerank`, as data."""

from __future__ import annotations

from collections.abc import Sequence

from slt_sql_rerank.candidates_components import COMPONENTS as CANDIDATES
from slt_sql_rerank.linking_components import COMPONENTS as LINKING
from slt_sql_rerank.metric_components import COMPONENTS as METRICS
from slt_sql_rerank.plan_components import COMPONENTS as PLANS
from sltcore.plugin import Command, Component, hookimpl

SLT_API = (1, 0)

COMPONENTS = (*CANDIDATES, *METRICS, *PLANS, *LINKING)


@hookimpl
def slt_components() -> Sequence[Component]:
    """Its components."""
    return COMPONENTS


@hookimpl
def slt_commands() -> Sequence[Command]:
    """`slt rank` and `slt explain-rank`."""
    return [
        Command("rank", "slt_sql_rerank.commands:rank_command", "rank candidates of text-to-SQL against a database"),
        Command("explain-rank", "slt_sql_rerank.commands:explain_command", "tell every reason of such a ranking"),
    ]
