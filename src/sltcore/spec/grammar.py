"""The grammar of `kind: pipeline`, and the head that every spec begins with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sltcore.interfaces import TRANSFORM_KINDS
from sltcore.spec.slots import Block, Config, Slot

SPEC_VERSION = 1
SPEC_KINDS = ("pipeline", "train", "experiment")
RUNNABLE_KINDS = SPEC_KINDS


class Head(Config):
    """How every spec begins. It stands last among the bases of a spec, so that its fields are the first ones."""

    slt: Literal[1] = Field(description="version of the spec's shape")
    kind: str = Field(description="what this spec describes")


class Deferred(Config, defer_build=True):
    """A part of the grammar that few processes need; its validator is built when a spec first does."""


class BatchConfig(Config):
    """How utterances are put together for one call of the model."""

    size: int = Field(16, ge=1, le=4096, description="most utterances in a batch")
    seconds: float = Field(120.0, gt=0, le=36000, description="most seconds of padded audio in a batch")


class SegmentConfig(Config):
    """How long recordings are cut for decoding, so that memory stays bounded."""

    above_s: float = Field(
        60.0, ge=5, le=1e6, description="recordings longer than this are streamed and decoded in segments, in seconds"
    )
    longest_s: float = Field(30.0, ge=2, le=600, description="longest segment, in seconds")
    pause_s: float = Field(
        0.4, ge=0.02, le=10, description="shortest run of blank or quiet frames that ends a segment, in seconds"
    )


class PipelineFields(Config):
    """What runs on an input, stage by stage: encoder, decoder, reranker, vocoder; each one a slot."""

    name: str = Field("", max_length=200, description="shown in reports and model cards")
    description: str = Field("", max_length=4000, description="one paragraph for the model card")
    encoder: Annotated[Block | None, Slot("encoder")] = Field(
        None, description="from a recording, text or features to frames"
    )
    decoder: Annotated[Block | None, Slot("decoder")] = Field(
        None, description="from frames or text to hypotheses or features"
    )
    reranker: Annotated[Block | None, Slot("reranker")] = Field(None, description="another order for the n-best list")
    vocoder: Annotated[Block | None, Slot("vocoder")] = Field(
        None, description="from features to a waveform; alone: copy synthesis"
    )
    transforms: list[Annotated[Block, Slot(*TRANSFORM_KINDS)]] = Field(
        default_factory=list,
        max_length=64,
        description="quantizers, accelerators and adapters, attached in this order; quantizers before accelerators",
    )
    metrics: list[Annotated[Block, Slot("metric")]] = Field(
        default_factory=list, max_length=64, description="what `slt run` measures on a manifest with a text column"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the weights that no file brings")
    batch: BatchConfig = Field(default_factory=BatchConfig, description="how utterances are put together")
    segment: SegmentConfig = Field(default_factory=SegmentConfig, description="how long recordings are cut")

    @field_validator("transforms")
    @classmethod
    def _quantizers_before_chips(cls, transforms: list[Block]) -> list[Block]:
        """A chip measures its ranges when it is attached: on the weights that a quantizer behind it would yet replace."""
        kinds = [block.kind for block in transforms]
        chip = kinds.index("accelerator") if "accelerator" in kinds else len(kinds)
        late = kinds.index("quantizer", chip) if "quantizer" in kinds[chip:] else None
        if late is not None:
            order = sorted(transforms, key=lambda block: block.kind != "quantizer")
            message = (
                f"quantizer '{transforms[late].use}' stands behind accelerator '{transforms[chip].use}', whose ranges would be "
                f"measured on weights that are not quantized yet; put quantizers first: {', '.join(b.use for b in order)}"
            )
            raise PydanticCustomError("slot_problem", "slot", {"inner": late, "message": message, "given": None})
        return transforms

    @model_validator(mode="after")
    def _does_something(self) -> PipelineFields:
        if self.encoder is None and self.decoder is None and self.vocoder is None:
            raise ValueError("a pipeline needs an encoder, a decoder or a vocoder")
        return self


class PipelineSpec(PipelineFields, Head):
    """What runs on an input, stage by stage, as a spec of its own."""

    kind: Literal["pipeline"] = Field(description="what this spec describes")
