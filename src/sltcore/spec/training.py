"""The grammar of `kind: train`: how a pipeline learns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sltcore.spec.grammar import BatchConfig, Deferred, Head, PipelineFields
from sltcore.spec.slots import Block, EnvText, File, Slot
from sltcore.spec.sources import Start

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=100)]
Label = Annotated[str, Field(min_length=1)]
Word = Annotated[str, Field(pattern=r"^\S+$")]


class DataConfig(Deferred):
    """One source of utterances, and what to take of it. Exactly one of corpus, manifest, dataset and stage is given."""

    corpus: str | None = Field(None, description="a name that `slt data list` shows")
    manifest: File | None = Field(None, description="a csv, tsv or jsonl file, as `slt run` takes it")
    dataset: EnvText | None = Field(
        None,
        description="a data set for `datasets`: a hub id, a folder that save_to_disk wrote, or parquet files (glob)",
    )
    stage: str | None = Field(None, description="in an experiment: the outputs of an earlier decode stage")
    config: str | None = Field(None, description="the configuration of a hub data set")
    revision: str | None = Field(None, description="the revision of a hub data set")
    split: str | None = Field(None, description="train, test, or what else the source has; empty: all of it")
    part: tuple[Share, Share] | None = Field(
        None, description="from and to, as shares of the utterances ordered by a hash of their text"
    )
    where: dict[str, list[Any]] = Field(default_factory=dict, description="column: the values that are kept")
    with_words: list[Word] = Field(default_factory=list, description="texts that hold one of these words are kept")
    without_words: list[Word] = Field(default_factory=list, description="texts that hold one of these are left out")
    columns: dict[str, str] = Field(default_factory=dict, description="our name of a column: the source's")
    limit: int | None = Field(None, ge=1, description="most utterances, the first ones by a hash of their id")
    max_seconds: float | None = Field(None, gt=0, le=36000, description="longer utterances are left out, in seconds")
    weight: float = Field(1.0, gt=0, le=1e6, description="utterances drawn in an epoch, times their number")
    optional: bool = Field(False, description="left out, and said so, where it is not at hand on this machine")

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        given = [name for name in ("corpus", "manifest", "dataset", "stage") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"name one source: corpus, manifest, dataset or stage; given: {', '.join(given) or 'none of them'}"
            )
        if self.dataset is None and (self.config is not None or self.revision is not None):
            raise ValueError(f"config and revision are those of a dataset, and this is a {given[0]}")
        if self.part is not None and self.part[0] >= self.part[1]:
            raise ValueError("part goes from a share to a larger one, as [0.9, 1.0]")
        return self


class DataSets(Deferred):
    """What a run learns from and looks at."""

    train: list[DataConfig] = Field(default_factory=list, description="what is learned from, mixed by weight")
    dev: list[DataConfig] = Field(default_factory=list, description="what evaluation looks at")
    private: list[DataConfig] = Field(default_factory=list, description="instead of train, where there is a privacy")
    public: list[DataConfig] = Field(default_factory=list, description="beside private, where there is a privacy")


class Auxiliary(Deferred):
    """A further loss, added with a weight."""

    objective: Annotated[Block, Slot("objective")] = Field(description="a loss over the encoder")
    weight: float = Field(1.0, gt=0, le=1e6, description="factor of its loss")


class Row(Deferred):
    """One row of a head taken from a row of another."""

    label: Label = Field(description="label of the source's row")
    scale: float = Field(1.0, ge=0, le=100, description="factor of its weights and bias")
    bias: float = Field(0.0, ge=-100, le=100, description="added to its bias")


class CopyRows(Deferred):
    """Rows of a new output head taken from another head, label by label; labels that neither list names stay new.

    Equal labels, blank to blank and word boundary to word boundary are copied without being listed.
    """

    source: str = Field(
        "encoder.head", description="the head to copy from, such as encoder.head, or start.decoder.head of a bundle"
    )
    to: str = Field("decoder.head", description="the head to copy to")
    rows: dict[str, Label | Row] = Field(
        default_factory=dict, description="label of the new head: label of the old one"
    )


class OptimizerGroup(Deferred):
    """Parameters with settings of their own; the first group whose pattern matches a name counts."""

    match: list[Label] = Field(min_length=1, description="patterns of parameter names, such as encoder.*")
    learning_rate: Rate | None = Field(None, description="highest learning rate; empty: the optimizer's")
    weight_decay: float | None = Field(
        None, ge=0, le=100, description="weight decay of this group; empty: the optimizer's"
    )


class OptimizerConfig(Deferred):
    """The optimizer and its settings."""

    name: Literal["adamw", "adam", "sgd"] = Field("adamw", description="update rule")
    learning_rate: Rate = Field(5e-4, description="highest learning rate")
    weight_decay: float = Field(
        0.01,
        ge=0,
        le=100,
        description="weight decay of matrices (decoupled; added to the gradient for adam); norms and biases have none",
    )
    betas: tuple[Decay, Decay] = Field((0.9, 0.98), description="decay of the moments of adam and adamw")
    epsilon: float = Field(1e-8, gt=0, le=1, description="of adam and adamw")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    groups: list[OptimizerGroup] = Field(default_factory=list, description="patterns with settings of their own")
    clip_norm: float | None = Field(5.0, gt=0, description="largest norm of the whole gradient; empty: no clipping")


class ScheduleConfig(Deferred):
    """The learning rate over the run, as a share of the highest."""

    shape: Literal["constant", "linear", "cosine", "noam", "hold-decay"] = Field(
        "cosine",
        description="after warm-up: constant; linear or cosine down to `final`; noam: sqrt(warmup / step); hold-decay: "
        "constant, then linear down over the last fifth",
    )
    warmup_steps: int = Field(
        100, ge=0, le=10**9, description="steps of linear warm-up; at most a tenth of the run is used"
    )
    final: Share = Field(0.0, description="share of the highest rate at the end")


class BudgetConfig(Deferred):
    """How long a run lasts: steps or epochs, one of the two."""

    steps: int | None = Field(None, ge=1, le=10**9, description="optimizer steps")
    epochs: float | None = Field(None, gt=0, le=10**6, description="passes over the training data")

    @model_validator(mode="after")
    def _one_of_two(self) -> BudgetConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, one of the two")
        return self


class TrainBatch(BatchConfig, defer_build=True):
    """How utterances are put together for a step, for one process."""

    size: int = Field(64, ge=1, le=4096, description="most utterances in a batch of one process")
    seconds: float = Field(60.0, gt=0, le=36000, description="most seconds of padded audio in a batch of one process")
    accumulate: int = Field(1, ge=1, le=1024, description="batches of one process that are summed before a step")
    bucket: int = Field(
        20, ge=1, le=10_000, description="batches whose utterances are sorted by length together; 1: in random order"
    )


class EvaluateConfig(Deferred):
    """When the dev data is looked at, and what decides."""

    every_steps: int = Field(500, ge=1, description="steps between evaluations; the last step is always evaluated")
    best: str = Field(
        "auto",
        pattern=r"^(auto|loss|[a-z0-9-]+\.[A-Za-z0-9_ .-]+)$",
        description="METRIC.VALUE or loss, which decides the best weights; auto: the first metric, else loss",
    )
    patience: int | None = Field(None, ge=1, description="evaluations without a gain before stopping; empty: never")
    keep: int = Field(1, ge=1, le=100, description="best bundles that are kept")


class CheckpointConfig(Deferred):
    """When the whole state is written."""

    every_steps: int = Field(500, ge=1, description="steps between checkpoints; the last step always has one")
    keep: int = Field(2, ge=1, le=100, description="newest checkpoints that are kept")


class LogConfig(Deferred):
    """What is written while it runs."""

    every_steps: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    tensorboard: bool = Field(True, description="write TensorBoard events")


class TrainFields(Deferred):
    """What `kind: train` and the train stages of an experiment share."""

    name: str = Field("", max_length=200, description="shown in reports and model cards")
    description: str = Field("", max_length=4000, description="one paragraph for the model card")
    pipeline: Start | None = Field(
        None, description="what is trained: the fields of a pipeline, a spec, or a bundle whose weights are the start"
    )
    set: dict[str, Any] = Field(default_factory=dict, description="PATH: VALUE, places of the pipeline replaced")
    data: DataSets = Field(default_factory=DataSets, description="what is learned from and looked at")
    calibration: list[DataConfig] = Field(
        default_factory=list, description="examples for transforms that measure before they begin"
    )
    context: dict[str, str] = Field(
        default_factory=dict, description="context key: column; a column named as a key feeds it anyway"
    )
    objective: Annotated[Block | None, Slot("objective")] = Field(
        None, description="a loss over the encoder, in place of the decoder's"
    )
    auxiliary: list[Auxiliary] = Field(default_factory=list, max_length=16, description="further losses, added")
    augment: list[Annotated[Block, Slot("augmentation")]] = Field(
        default_factory=list, max_length=16, description="applied in order, to the sound or to the front end's features"
    )
    privacy: Annotated[Block | None, Slot("privacy")] = Field(
        None, description="may replace the sampling of batches and the gradient"
    )
    trainable: list[Label] = Field(
        default_factory=lambda: ["*"],
        min_length=1,
        description="patterns of the parameters that may change; one that begins with ! takes names away again",
    )
    copy_rows: list[CopyRows] = Field(
        default_factory=list, max_length=16, description="rows of a new head taken from another one"
    )
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="update rule and rates")
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig, description="the learning rate over the run")
    budget: BudgetConfig = Field(default_factory=lambda: BudgetConfig(steps=1000), description="how long it lasts")
    batch: TrainBatch = Field(default_factory=TrainBatch, description="how utterances are put together for a step")
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the arithmetic")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="when the dev data is looked at")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="when the state is written")
    log: LogConfig = Field(default_factory=LogConfig, description="what is written while it runs")


class TrainSpec(TrainFields, Head, defer_build=True):
    """How a pipeline learns."""

    kind: Literal["train"] = Field(description="what this spec describes")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, sampling, dropout and augmentation")

    @model_validator(mode="after")
    def _complete(self) -> TrainSpec:
        if self.pipeline is None:
            raise ValueError("a training run needs a pipeline: its fields, a spec file, or a bundle")
        data_given(self)
        return self


def data_given(run: TrainFields) -> None:
    """**Raises** `ValueError` where a run has no data to learn from, or data that it would not look at."""
    data = run.data
    if run.privacy is None:
        if not data.train:
            raise ValueError("training needs data.train, a list of data")
        if data.private or data.public:
            raise ValueError("data.private and data.public are for a run with privacy; without one, write data.train")
    elif not data.private:
        raise ValueError("training with privacy needs data.private, a list of data")
    elif data.train:
        raise ValueError(
            "a run with privacy learns from data.private and data.public, not from data.train; move it there"
        )


__all__ = [
    "Auxiliary",
    "BudgetConfig",
    "CheckpointConfig",
    "CopyRows",
    "DataConfig",
    "DataSets",
    "EvaluateConfig",
    "LogConfig",
    "OptimizerConfig",
    "OptimizerGroup",
    "PipelineFields",
    "Row",
    "ScheduleConfig",
    "TrainBatch",
    "TrainFields",
    "TrainSpec",
    "data_given",
]
