"""The decoders that give candidates, as data."""

from __future__ import annotations

from sltcore.plugin import Component
from sltcore.types import Port

BUILD = "slt_sql_rerank.build_candidates"
CONFIG = "slt_sql_rerank.config_candidates"
TEXT = Port("Text")
WRITER = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
OF_THE_HUB = "a bundle names its model and does not hold it; the kit's has random weights of its own"
NO_SERVICE = "it asks a service, which the kit does not have; tests/test_sql_endpoint.py keeps the promise"
NO_SCHEMA = "it writes over a database, which the kit does not have; tests/test_sql_constrained.py keeps the promise"
ASKS = ("one-each", "sorted", "deterministic", "context-identity", "reload")

COMPONENTS: tuple[Component, ...] = (
    Component(
        "decoder",
        "candidates",
        impl=f"{BUILD}:candidates",
        config=f"{CONFIG}:CandidatesConfig",
        summary="candidates that the call or a JSONL file gives, spellings of one query merged",
        small={"upstream": TEXT},
    ),
    Component(
        "decoder",
        "sql-generate",
        impl=f"{BUILD}:sql_generate",
        config=f"{CONFIG}:SqlGenerateConfig",
        summary="n-best of a transformers model on this machine, by beam or sampling",
        small={
            "config": {"architecture": WRITER, "n": 3, "new_tokens": 6, "tokens": 256},
            "upstream": TEXT,
            "skip": {"reload": OF_THE_HUB},
        },
    ),
    Component(
        "decoder",
        "sql-constrained",
        impl=f"{BUILD}:sql_constrained",
        config=f"{CONFIG}:SqlConstrainedConfig",
        summary="as sql-generate, but every candidate is a query that the database accepts",
        small={
            "config": {"architecture": WRITER, "n": 3, "new_tokens": 40, "tokens": 256},
            "upstream": TEXT,
            "skip": dict.fromkeys(ASKS, NO_SCHEMA),
        },
    ),
    Component(
        "decoder",
        "sql-endpoint",
        impl=f"{BUILD}:sql_endpoint",
        config=f"{CONFIG}:SqlEndpointConfig",
        summary="n choices of an OpenAI-compatible service, where allow_network is set",
        small={
            "config": {"allow_network": True, "base_url": "http://127.0.0.1:1"},
            "upstream": TEXT,
            "skip": dict.fromkeys(ASKS, NO_SERVICE),
        },
    ),
)
