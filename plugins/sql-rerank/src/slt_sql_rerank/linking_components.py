"""The schema-linking reranker and combinations, as data."""

from __future__ import annotations

from sltcore.plugin import Component

BUILD = "slt_sql_rerank.build_linking"
CONFIG = "slt_sql_rerank.config_linking"
PAPER = "arXiv:2210.10668"
NO_ROWS = "it asks a database, which the kit does not have; tests/test_schema_linking.py keeps the promise"
PROMISES = ("permutation", "stable", "impossible-last", "one-score-each", "deterministic", "reload")
ASKS = {"skip": dict.fromkeys(PROMISES, NO_ROWS)}
PAIR = [{"use": "likelihood"}, {"use": "likelihood", "per": "token"}]

COMPONENTS: tuple[Component, ...] = (
    Component(
        "reranker",
        "schema-linking",
        impl=f"{BUILD}:schema_linking",
        config=f"{CONFIG}:SchemaLinkingConfig",
        summary="candidates that use the tables, columns and cells that the question names come first",
        source=PAPER,
        small=ASKS,
    ),
    Component(
        "reranker",
        "in-turn",
        impl=f"{BUILD}:in_turn",
        config=f"{CONFIG}:InTurnConfig",
        summary="one reranker decides, the next one among what it finds equal",
        source=PAPER,
        small={"config": {"rerankers": PAIR}},
    ),
    Component(
        "reranker",
        "weighted",
        impl=f"{BUILD}:weighted",
        config=f"{CONFIG}:WeightedConfig",
        summary="a linear combination of what several rerankers know, with learned weights",
        source=PAPER,
        small={"config": {"rerankers": PAIR, "notes": False}},
    ),
)
