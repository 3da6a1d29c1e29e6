"""Builders of the decoders that give candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from slt_sql_rerank.candidates.endpoint import SqlEndpoint
    from slt_sql_rerank.candidates.generate import SqlGenerate
    from slt_sql_rerank.candidates.given import Candidates
    from slt_sql_rerank.config_candidates import (
        CandidatesConfig,
        SqlConstrainedConfig,
        SqlEndpointConfig,
        SqlGenerateConfig,
    )
    from slt_sql_rerank.constrained.decoder import SqlConstrained
    from sltcore.plugin import Ports


Kind = TypeVar("Kind", bound="SqlGenerate")


def candidates(config: CandidatesConfig, ports: Ports) -> Candidates:
    """With the lists of a file, where one is named."""
    from slt_sql_rerank.candidates.given import Candidates

    return Candidates(str(config.file) if config.file else "")


def sql_generate(config: SqlGenerateConfig, ports: Ports) -> SqlGenerate:
    """With the model of a folder or hub name, or a fresh one."""
    from slt_sql_rerank.candidates.generate import SqlGenerate

    return _writing(SqlGenerate, config)


def sql_constrained(config: SqlConstrainedConfig, ports: Ports) -> SqlConstrained:
    """With the model of a folder or hub name, or a fresh one."""
    from slt_sql_rerank.constrained.decoder import SqlConstrained

    return _writing(SqlConstrained, config)


def _writing(kind: type[Kind], config: SqlGenerateConfig) -> Kind:
    from slt_sql_rerank.candidates.generate import fresh_writer, load_writer
    from slt_sql_rerank.simple.llm_judge import Source

    source = Source(config.model, config.revision, config.download)
    return kind(
        fresh_writer(config.architecture) if config.architecture else load_writer(source),
        n=config.n,
        search=config.search,
        temperature=config.temperature,
        per=config.per,
        prompt=config.prompt,
        new_tokens=config.new_tokens,
        tokens=config.tokens,
    )


def sql_endpoint(config: SqlEndpointConfig, ports: Ports) -> SqlEndpoint:
    """Of one service."""
    from slt_sql_rerank.candidates.endpoint import Service, SqlEndpoint

    service = Service(config.base_url, config.model, config.key_variable, config.seconds)
    return SqlEndpoint(
        service, n=config.n, temperature=config.temperature, prompt=config.prompt, allow_network=config.allow_network
    )
