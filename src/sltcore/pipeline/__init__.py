"""Pipelines: built from a spec, called on recordings, batched and streamed."""

from __future__ import annotations

from sltcore.pipeline.build import build_component, check_ports
from sltcore.pipeline.inputs import Output
from sltcore.pipeline.pipeline import Pipeline, Prepared
from sltcore.pipeline.streaming import PipelineSession
from sltcore.types import Item

__all__ = ["Item", "Output", "Pipeline", "PipelineSession", "Prepared", "build_component", "check_ports"]
