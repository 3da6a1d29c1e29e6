"""Typed specs: slots, loading, overrides, errors with places, JSON Schema."""

from __future__ import annotations

from sltcore.spec.document import Document, Mark, dump_document, parse_document, read_document
from sltcore.spec.experiments import ExperimentSpec
from sltcore.spec.filled import MISSING, diff, fill, pipeline_source, spec_of_fields
from sltcore.spec.grammar import RUNNABLE_KINDS, SPEC_KINDS, SPEC_VERSION, PipelineFields, PipelineSpec
from sltcore.spec.load import Spec, load_spec
from sltcore.spec.problems import Problem, path_text
from sltcore.spec.references import references
from sltcore.spec.slots import Block, Config, EnvText, File, Ref, Slot
from sltcore.spec.training import TrainFields, TrainSpec

__all__ = [
    "MISSING",
    "RUNNABLE_KINDS",
    "SPEC_KINDS",
    "SPEC_VERSION",
    "Block",
    "Config",
    "Document",
    "EnvText",
    "ExperimentSpec",
    "File",
    "Mark",
    "PipelineFields",
    "PipelineSpec",
    "Problem",
    "Ref",
    "Slot",
    "Spec",
    "TrainFields",
    "TrainSpec",
    "diff",
    "dump_document",
    "fill",
    "load_spec",
    "parse_document",
    "path_text",
    "pipeline_source",
    "read_document",
    "references",
    "spec_of_fields",
]
