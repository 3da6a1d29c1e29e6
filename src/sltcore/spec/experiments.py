"""The grammar of `kind: experiment`: stages, arms, and claims that are written before the run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sltcore.spec.grammar import Deferred, Head
from sltcore.spec.slots import Block, Slot
from sltcore.spec.sources import Start
from sltcore.spec.training import DataConfig, TrainFields, data_given

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*(/[0-9]+)?$")]


class StageHead(Deferred):
    """How every stage that works on a pipeline begins. It stands last among the bases of a stage, so that its fields
    are the first ones."""

    do: str = Field(description="what this stage does")
    from_: Name | None = Field(None, alias="from", description="the stage whose bundle is the start")


def _one_start(stage: Any) -> None:
    given = [name for name, value in (("from", stage.from_), ("pipeline", stage.pipeline)) if value is not None]
    if len(given) != 1:
        raise ValueError(f"name one start: from or pipeline; given: {' and '.join(given) or 'none of them'}")


class TrainStage(TrainFields, StageHead):
    """Training; leaves a bundle. `from` takes the bundle of an earlier stage in place of `pipeline`."""

    do: Literal["train"] = Field(description="what this stage does")
    seed: Seed | None = Field(
        None, description="its own, for one start that every seed shares; empty: each of the experiment's"
    )
    grid: dict[str, list[Any]] = Field(default_factory=dict, description="PATH: values; one stage for each combination")

    @model_validator(mode="after")
    def _complete(self) -> TrainStage:
        _one_start(self)
        data_given(self)
        return self


class TransformStage(StageHead):
    """Transforms attached, measured and finished without training; leaves a bundle."""

    do: Literal["transform"] = Field(description="what this stage does")
    pipeline: Start | None = Field(None, description="the fields of a pipeline, a spec or a bundle, in place of from")
    set: dict[str, Any] = Field(default_factory=dict, description="PATH: VALUE, places of the pipeline replaced")
    calibration: list[DataConfig] = Field(default_factory=list, description="examples for transforms that measure")
    finish: bool = Field(True, description="keep the transforms in their deployed form")
    grid: dict[str, list[Any]] = Field(default_factory=dict, description="PATH: values; one stage for each combination")

    @model_validator(mode="after")
    def _complete(self) -> TransformStage:
        _one_start(self)
        return self


class DecodeStage(StageHead):
    """A pipeline on data; leaves outputs, one row for each utterance, n-best lists included."""

    do: Literal["decode"] = Field(description="what this stage does")
    pipeline: Start | None = Field(None, description="the fields of a pipeline, a spec or a bundle, in place of from")
    set: dict[str, Any] = Field(default_factory=dict, description="PATH: VALUE, places of the pipeline replaced")
    data: list[DataConfig] = Field(min_length=1, description="what is decoded")
    context: dict[str, Any] = Field(default_factory=dict, description="side information of the call, by key")
    columns: dict[str, str] = Field(default_factory=dict, description="context key: column, one value an utterance")
    audio: int = Field(0, ge=0, le=100, description="recordings, in and out, that the report lets people hear")
    grid: dict[str, list[Any]] = Field(default_factory=dict, description="PATH: values; one stage for each combination")

    @model_validator(mode="after")
    def _complete(self) -> DecodeStage:
        _one_start(self)
        return self


class MeasureStage(Deferred):
    """Metrics of decode stages; leaves sufficient statistics of each item, and values with intervals."""

    do: Literal["measure"] = Field(description="what this stage does")
    of: list[Name] = Field(min_length=1, description="decode stages")
    metrics: list[Annotated[Block, Slot("metric")]] = Field(min_length=1, description="what is measured")
    reference: str = Field("text", description="column of the data that holds what should have come out")
    where: dict[str, list[Any]] = Field(default_factory=dict, description="column: values of the items that count")
    cost: list[Literal["bytes", "seconds", "parameters"]] = Field(
        ["bytes", "seconds", "parameters"], description="what the runs cost, beside the gain"
    )


Stage = Annotated[TrainStage | TransformStage | DecodeStage | MeasureStage, Field(discriminator="do")]
STAGES: dict[str, type[TrainStage] | type[TransformStage] | type[DecodeStage] | type[MeasureStage]] = {
    "train": TrainStage,
    "transform": TransformStage,
    "decode": DecodeStage,
    "measure": MeasureStage,
}


class Arm(Deferred):
    """A decode stage that is compared."""

    role: Literal["technique", "baseline", "control"] = Field(description="technique, baseline or control")
    label: str = Field("", max_length=200, description="how tables call it; empty: the stage's name")


class Claim(Deferred):
    """What the experiment is to show, written before it runs.

    Supported where the whole interval of the difference arm - versus lies beyond the margin on the claimed side, not
    supported where it lies beyond it on the other, else undecided.
    """

    text: str = Field("", max_length=500, description="the claim in words")
    measure: Name = Field(description="the measure stage that holds the value")
    value: str = Field(pattern=r"^[a-z0-9-]+\.[A-Za-z0-9_ .-]+$", description="METRIC.VALUE, such as wer.wer")
    arm: Name = Field(description="the arm that is claimed to be better")
    versus: Name = Field(description="the arm it is compared with")
    direction: Literal["better", "not-worse", "different"] = Field("better", description="the claimed side")
    margin: float = Field(0.0, ge=0, description="by how much, in the value's unit, or in percent of versus")
    relative: bool = Field(False, description="the difference in percent of the value of versus")
    level: float = Field(0.95, gt=0.5, lt=1, description="of the interval")
    clusters: str | None = Field(None, description="column whose equal values are resampled together; empty: each item")


class Published(Deferred):
    """A figure of the paper, shown apart, in a row marked: published, other data."""

    arm: str = Field(description="the arm, or the paper's name of the system")
    value: str = Field(description="METRIC.VALUE, or the paper's name of the measure")
    figure: float = Field(description="the number as printed")
    unit: str = Field("%", description="its unit")
    data: str = Field(description="what it was measured on")
    source: str = Field(description="where it stands: paper, table")


class ExperimentFields(Deferred):
    """Everything of an experiment but its head."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="names its folder and report")
    title: str = Field("", max_length=200, description="heading of the report")
    description: str = Field("", max_length=4000, description="what is asked, in a paragraph")
    limits: str = Field("", max_length=4000, description="what this size cannot show, in a paragraph")
    claims: list[Claim] = Field(min_length=1, max_length=64, description="what is to be shown, written before the run")
    correction: Literal["holm", "benjamini-hochberg", "none"] = Field(
        "holm", description="of the p-values where there are several claims"
    )
    seeds: list[Seed] = Field(
        default_factory=lambda: [0], min_length=1, description="each stage that draws at random runs once for each"
    )
    replicates: int = Field(10_000, ge=100, le=1_000_000, description="of the bootstrap")
    stages: dict[Name, Stage] = Field(min_length=1, description="the work")
    arms: dict[Name, Arm] = Field(min_length=1, description="decode stages that are compared")
    published: list[Published] = Field(default_factory=list, description="figures of the paper")
    sizes: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="other sizes: PATH: VALUE; smoke is the one that continuous integration runs"
    )

    @model_validator(mode="after")
    def _each_seed_once(self) -> ExperimentFields:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"a seed stands twice in seeds {self.seeds}; keep one")
        return self


class ExperimentSpec(ExperimentFields, Head, defer_build=True):
    """Arms, seeds, stages, and claims."""

    kind: Literal["experiment"] = Field(description="what this spec describes")
