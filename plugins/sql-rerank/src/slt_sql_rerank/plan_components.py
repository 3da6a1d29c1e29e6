"""The plan models and the rerankers that use them or none, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sltcore.plugin import Component
from sltcore.types import Port

BUILD = "slt_sql_rerank.build_plan"
CONFIG = "slt_sql_rerank.config_plan"
TEXT = Port("Text")
TINY = {"weights": "random", "buckets": 64, "width": 8}
QUESTION = "How many singers are older than 20?"
SMALL_PLAN: Mapping[str, Any] = {"config": {"plan": {"use": "plan-labels", **TINY}, "notes": False}, "query": QUESTION}
JUDGE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 1024,
}
NO_ROWS = "it runs candidates and needs a database, which the kit does not have; tests/test_simple_rerankers.py keeps the promise"
OF_THE_HUB = "a bundle names its judge and does not hold it; the kit's has random weights of its own"
RUNS = {"skip": {"one-score-each": NO_ROWS, "deterministic": NO_ROWS, "reload": NO_ROWS}}
PAPER = "arXiv:2210.10668"

COMPONENTS: tuple[Component, ...] = (
    Component(
        "decoder",
        "plan-labels",
        impl=f"{BUILD}:plan_labels",
        config=f"{CONFIG}:PlanLabelsConfig",
        summary="the clauses that a question's query needs, each by its probability",
        source=PAPER,
        small={"config": TINY, "upstream": TEXT},
    ),
    Component(
        "decoder",
        "plan-sequence",
        impl=f"{BUILD}:plan_sequence",
        config=f"{CONFIG}:PlanSequenceConfig",
        summary="the clauses that a question's query needs, written one after another",
        source=PAPER,
        small={"config": {**TINY, "hidden": 8}, "upstream": TEXT},
    ),
    Component(
        "reranker",
        "query-plan",
        impl=f"{BUILD}:query_plan",
        config=f"{CONFIG}:QueryPlanConfig",
        summary="candidates with the clauses that an independent plan model expects come first",
        source=PAPER,
        small=SMALL_PLAN,
    ),
    Component(
        "reranker",
        "shuffled-plan",
        impl=f"{BUILD}:shuffled_plan",
        config=f"{CONFIG}:ShuffledPlanConfig",
        summary="negative control: the plan of another question",
        source=PAPER,
        small=SMALL_PLAN,
    ),
    Component(
        "reranker",
        "gold-plan",
        impl=f"{BUILD}:gold_plan",
        config=f"{CONFIG}:GoldPlanConfig",
        summary="upper bound for experiments: the clauses of the gold query",
        source=PAPER,
        small={"query": QUESTION, "contexts": [{"sql": "SELECT count(*) FROM singer WHERE age > 20"}]},
    ),
    Component(
        "reranker",
        "likelihood",
        impl=f"{BUILD}:likelihood",
        config=f"{CONFIG}:LikelihoodConfig",
        summary="the first-pass score alone, by length where asked",
    ),
    Component(
        "reranker",
        "first-executable",
        impl=f"{BUILD}:first_executable",
        config=f"{CONFIG}:FirstExecutableConfig",
        summary="the first candidate that runs on the database, in a sandbox",
        source="arXiv:2302.05965",
        small=RUNS,
    ),
    Component(
        "reranker",
        "majority-vote",
        impl=f"{BUILD}:majority_vote",
        config=f"{CONFIG}:MajorityVoteConfig",
        summary="candidates that give the same rows vote for each other",
        source="arXiv:2203.11171; arXiv:2204.11454",
        small=RUNS,
    ),
    Component(
        "reranker",
        "llm-judge",
        impl=f"{BUILD}:llm_judge",
        config=f"{CONFIG}:LlmJudgeConfig",
        summary="a causal language model on this machine judges each candidate",
        source="arXiv:2207.05221; arXiv:2204.07496",
        small={"config": {"architecture": JUDGE, "tokens": 256}, "query": QUESTION, "skip": {"reload": OF_THE_HUB}},
    ),
)
