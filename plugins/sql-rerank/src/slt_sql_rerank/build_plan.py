"""Builders of the plan models and of the rerankers that use them or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slt_sql_rerank.config_plan import (
        FirstExecutableConfig,
        GoldPlanConfig,
        LikelihoodConfig,
        LlmJudgeConfig,
        MajorityVoteConfig,
        PlanLabelsConfig,
        PlanSequenceConfig,
        QueryPlanConfig,
        ShuffledPlanConfig,
    )
    from slt_sql_rerank.query_plan.model import QueryPlan
    from slt_sql_rerank.query_plan.reranker import QueryPlanReranker
    from slt_sql_rerank.simple.first_executable import FirstExecutable
    from slt_sql_rerank.simple.gold_plan import GoldPlan
    from slt_sql_rerank.simple.likelihood import LikelihoodReranker
    from slt_sql_rerank.simple.llm_judge import LlmJudge
    from slt_sql_rerank.simple.majority_vote import MajorityVote
    from slt_sql_rerank.simple.shuffled_plan import ShuffledPlan
    from sltcore.plugin import Ports


def plan_labels(config: PlanLabelsConfig, ports: Ports) -> QueryPlan:
    """The trained model, or a fresh one; a bundle's weights follow."""
    from slt_sql_rerank.query_plan.heads import LabelHead

    return _plan(config, LabelHead(config.width), "labels", ports)


def plan_sequence(config: PlanSequenceConfig, ports: Ports) -> QueryPlan:
    """The trained model, or a fresh one; a bundle's weights follow."""
    from slt_sql_rerank.query_plan.heads import SequenceHead

    return _plan(config, SequenceHead(config.width, config.hidden), "sequence", ports)


def _plan(config: PlanLabelsConfig, head: object, name: str, ports: Ports) -> QueryPlan:
    from slt_sql_rerank.query_plan.features import QuestionEncoder
    from slt_sql_rerank.query_plan.model import QueryPlan
    from slt_sql_rerank.query_plan.trained import fill

    encoder = QuestionEncoder(config.buckets, config.width, dropout=config.dropout, drop_features=config.drop_features)
    model = QueryPlan(encoder, head, beam=config.beam)  # type: ignore[arg-type]
    if config.weights == "spider":
        fill(model, name)
    return model


def query_plan(config: QueryPlanConfig, ports: Ports) -> QueryPlanReranker:
    """With the plan model in its slot."""
    from slt_sql_rerank.query_plan.reranker import QueryPlanReranker

    return QueryPlanReranker(
        ports.slots["plan"], rule=config.rule, weight=config.weight, among=config.among, notes=config.notes
    )


def shuffled_plan(config: ShuffledPlanConfig, ports: Ports) -> ShuffledPlan:
    """Around the same reranker, without reasons."""
    from slt_sql_rerank.simple.shuffled_plan import FILE, ShuffledPlan, read_donors

    place = config.donors
    if place is not None and not place.is_file() and ports.folder is not None:
        place = ports.folder / FILE
    return ShuffledPlan(query_plan(config, ports), read_donors(place) if place is not None else ())


def gold_plan(config: GoldPlanConfig, ports: Ports) -> GoldPlan:
    """For experiments."""
    from slt_sql_rerank.simple.gold_plan import GoldPlan

    return GoldPlan(rule=config.rule, weight=config.weight, among=config.among)


def likelihood(config: LikelihoodConfig, ports: Ports) -> LikelihoodReranker:
    """It needs nothing."""
    from slt_sql_rerank.simple.likelihood import LikelihoodReranker

    return LikelihoodReranker(per=config.per)


def first_executable(config: FirstExecutableConfig, ports: Ports) -> FirstExecutable:
    """With sandboxes of its own."""
    from slt_sql_rerank.simple.first_executable import FirstExecutable, build_sandboxes

    sandboxes = build_sandboxes(config.memory_mb, config.rows)
    return FirstExecutable(sandboxes, check=config.check, empty=config.empty, seconds=config.seconds)


def majority_vote(config: MajorityVoteConfig, ports: Ports) -> MajorityVote:
    """With sandboxes of its own."""
    from slt_sql_rerank.simple.first_executable import build_sandboxes
    from slt_sql_rerank.simple.majority_vote import MajorityVote

    sandboxes = build_sandboxes(config.memory_mb, config.rows)
    return MajorityVote(
        sandboxes, votes=config.votes, empty=config.empty, ordered=config.ordered, seconds=config.seconds
    )


def llm_judge(config: LlmJudgeConfig, ports: Ports) -> LlmJudge:
    """With the model of a folder or hub name, or a fresh one."""
    from slt_sql_rerank.simple.llm_judge import LlmJudge, Source, fresh_judge, load_judge

    source = Source(config.model, config.revision, config.download)
    judge = fresh_judge(config.architecture) if config.architecture else load_judge(source)
    return LlmJudge(
        judge, ask=config.ask, prompt=config.prompt, weight=config.weight, tokens=config.tokens, batch=config.batch
    )
