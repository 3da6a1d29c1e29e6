"""Builders of the schema-linking reranker and of combinations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slt_sql_rerank.combination.in_turn import InTurn
    from slt_sql_rerank.combination.weighted import Weighted
    from slt_sql_rerank.config_linking import InTurnConfig, SchemaLinkingConfig, WeightedConfig
    from slt_sql_rerank.schema_linking.reranker import SchemaLinkingReranker
    from sltcore.plugin import Ports


def schema_linking(config: SchemaLinkingConfig, ports: Ports) -> SchemaLinkingReranker:
    """With sandboxes and indexes of its own."""
    from slt_sql_rerank.databases import Sandboxes
    from slt_sql_rerank.linking.indexes import Indexes
    from slt_sql_rerank.sandbox.limits import Limits
    from slt_sql_rerank.schema_linking.reranker import SchemaLinkingReranker

    sandboxes = Sandboxes(Limits(memory_bytes=config.memory_mb << 20))
    indexes = Indexes(sandboxes, cells=config.cells, most=config.most_cells)
    return SchemaLinkingReranker(
        indexes,
        sandboxes,
        rule=config.rule,
        weight=config.weight,
        points={str(name): value for name, value in config.points.items()},
        notes=config.notes,
    )


def in_turn(config: InTurnConfig, ports: Ports) -> InTurn:
    """Around the rerankers in its slots."""
    from slt_sql_rerank.combination.in_turn import InTurn

    return InTurn(ports.slots["rerankers"])


def weighted(config: WeightedConfig, ports: Ports) -> Weighted:
    """Around the rerankers in its slots."""
    from slt_sql_rerank.combination.weighted import Weighted

    return Weighted(ports.slots["rerankers"], config.weights, notes=config.notes)
