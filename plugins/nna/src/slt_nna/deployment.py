"""A saved model on a chip that it was not made for: what `slt nna audit` and `slt nna cost` look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sltcore.errors import DataError
from sltcore.interfaces import AcceleratorBackend

if TYPE_CHECKING:
    from torch import nn

    from slt_nna.chip import Chip
    from slt_nna.nna import Nna
    from slt_nna.ranges import RangeRule
    from sltcore.pipeline import Item, Pipeline


class Placed(NamedTuple):
    """A pipeline with a chip attached and calibrated, and its inputs, one utterance each, as the first stage takes them."""

    pipeline: Pipeline
    transform: Any
    inputs: list[Any]
    audio_s: list[float]


def place(
    source: str, chip: Chip, items: Sequence[Item], *, overrides: Sequence[str] = (), range_rule: str | None = None
) -> Placed:
    """Load a spec or bundle, take off a chip that it has, and attach `chip` as that one was: with its `include`, `exclude`
    and other options. Ranges are its own where it is the same chip and no `range_rule` is asked for, else measured on
    `items`.

    **Raises** what loading raises, and `DataError` when nothing can be measured on.
    """
    from sltcore.bundle import load

    if not items:
        raise DataError("there is no recording to measure ranges on; give recordings, folders or manifests")
    pipeline = load(source, overrides=overrides)
    before = [each for each in pipeline.transforms if isinstance(each, AcceleratorBackend)]
    for transform in before:
        transform.detach()
        pipeline.transforms.remove(transform)
    values = [pipeline.read(item) for item in items]
    inputs = [pipeline.batch([value]) for value in values]
    transform = _attached(chip, before, pipeline.model, inputs, range_rule)
    pipeline.transforms.append(transform)
    return Placed(pipeline, transform, inputs, [getattr(value, "duration_s", 0.0) for value in values])


def _attached(
    chip: Chip, before: Sequence[AcceleratorBackend], model: nn.Module, inputs: Sequence[Any], range_rule: str | None
) -> Nna:
    """`chip` on the model, in the place of an `Nna` among those that were on it."""
    from slt_nna.nna import Nna

    own = next((each for each in before if isinstance(each, Nna)), None)
    options = {} if own is None else dict(own.options)
    if range_rule is not None:
        options["range"] = cast("RangeRule", range_rule)
    transform = Nna(chip, **options)
    ranges = {} if own is None or own.chip != chip or range_rule is not None else own.state()
    if ranges:
        transform.restore(model, ranges)
    else:
        transform.attach(model, iter(inputs))
    return transform


def scores(model: Any, value: Any) -> Any:
    """What a pipeline's model computes before any search: the output of the decoder's head on the encoder's frames, the
    frames where there is no such head, or the model's own output where there is no encoder."""
    from torch import nn

    encoder, decoder = getattr(model, "encoder", None), getattr(model, "decoder", None)
    if encoder is None:
        return model(value)
    encoded = encoder(value, {})
    head = getattr(decoder, "head", None)
    return head(encoded.values) if isinstance(head, nn.Module) else encoded.values
