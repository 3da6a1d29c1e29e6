"""Typed specs: slots, loading, overrides, errors with places, JSON Schema."""

from __future__ import annotations

from sltcore.spec.document import Document, Mark, dump_document, parse_document, read_document
from sltcore.spec.grammar import SPEC_KINDS, SPEC_VERSION, PipelineSpec
from sltcore.spec.load import MISSING, Spec, diff, fill, load_spec, references
from sltcore.spec.problems import Problem, path_text
from sltcore.spec.slots import Block, Config, EnvText, File, Ref, Slot

__all__ = [
    "MISSING",
    "SPEC_KINDS",
    "SPEC_VERSION",
    "Block",
    "Config",
    "Document",
    "EnvText",
    "File",
    "Mark",
    "PipelineSpec",
    "Problem",
    "Ref",
    "Slot",
    "Spec",
    "diff",
    "dump_document",
    "fill",
    "load_spec",
    "parse_document",
    "path_text",
    "read_document",
    "references",
]
