"""Augmentations at their places: on the sound while it is read, on features behind the encoder's front end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.context import SYNCHRONOUS, select
from sltcore.errors import PluginError, SpecError
from sltcore.interfaces import Augmentation
from sltcore.pipeline import Pipeline, check_ports
from sltcore.train.sampling import utterance_seed
from sltcore.types import Encoded, Features, Port

FRONT_END = "encoder.frontend"


def utterance_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one utterance and one purpose; `seed` as `utterance_seed` gives it."""
    return torch.Generator().manual_seed(utterance_seed(seed, 0, purpose))


def on_input(pipeline: Pipeline, augment: Sequence[Augmentation]) -> list[Augmentation]:
    """Those that act on what the pipeline reads."""
    return [part for part in augment if part.consumes.type == pipeline.consumes.type]


def on_features(pipeline: Pipeline, augment: Sequence[Augmentation]) -> list[Augmentation]:
    """Those that act on the output of the encoder's front end."""
    return [part for part in augment if part.consumes.type != pipeline.consumes.type]


def check_augmentations(pipeline: Pipeline, augment: Sequence[Augmentation]) -> None:
    """**Raises** `SpecError` when an augmentation acts on something that the pipeline has nowhere, and `PortError` when
    the attributes differ (another sample rate, another number of features)."""
    for part in on_input(pipeline, augment):
        check_ports("the pipeline's input", pipeline.consumes, f"augment {type(part).__name__}", part.consumes)
    for part in on_features(pipeline, augment):
        who = f"augment {type(part).__name__}"
        module = front_end(pipeline)
        if module is None or part.consumes.type != "Features":
            raise SpecError(
                f"{who} acts on {part.consumes}, but the pipeline reads {pipeline.consumes} and its encoder offers no "
                f"front end whose features could be changed; leave it out, or take an encoder with a front end such as "
                f"conformer or hama-conformer"
            )
        port = getattr(module, "produces", None)
        if isinstance(port, Port) and port.type == "Features":
            check_ports("the encoder's front end", port, who, part.consumes)


def front_end(pipeline: Pipeline) -> nn.Module | None:
    """The module whose output is the features: what the encoder offers as `frontend`, or the encoder itself where it is
    a front end; None where there is none."""
    module = pipeline.scope.offers().get(FRONT_END)
    if isinstance(module, nn.Module):
        return module
    encoder: Any = pipeline.parts.get("encoder")
    if encoder is None or encoder.produces.type != "Features":
        return None
    return encoder if isinstance(encoder, nn.Module) else None


def augmented_input(value: Any, augment: Sequence[Augmentation], context: Mapping[str, Any], seed: int) -> Any:
    """One utterance (a batch of one on the CPU) after the augmentations in order, under its own generator."""
    generator = utterance_generator(seed, "input")
    for part in augment:
        value = _checked(part, value, part(value, context, generator))
    return value


def _checked(part: Augmentation, before: Any, after: Any) -> Any:
    if type(after) is not type(before):
        raise PluginError(
            f"augment {type(part).__name__} made a {type(after).__name__} of a {type(before).__name__}, expected the "
            f"same type"
        )
    return after


@contextmanager
def features_augmented(pipeline: Pipeline, augment: Sequence[Augmentation], seeds: Sequence[int]) -> Iterator[None]:
    """While it is open, the features of the encoder's front end are changed, each utterance's under its own seed.

    `augment` may hold augmentations of the input too; only those of features count here. `seeds` has one number for each
    utterance of the batch, in order (`Batch.seeds`), so the result does not depend on how utterances are batched. Called
    twice, as gradient checkpointing does, it changes them in the same way. In evaluation (`pipeline.model.eval()`)
    nothing is changed. A front end whose output is a plain tensor [b t f] takes (samples, lengths) and has
    `output_lengths`; its number of frames stays.

    **Raises** `PluginError` when the number of utterances is not the number of seeds, and at the end when the front end
    was never called although the pipeline is in training.
    """
    chosen = on_features(pipeline, augment)
    module = front_end(pipeline) if chosen else None
    if not chosen or module is None:
        check_augmentations(pipeline, chosen)
        yield
        return
    calls = 0

    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        nonlocal calls
        calls += 1
        return _changed(module, arguments, output, chosen, seeds, pipeline) if pipeline.model.training else None

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if not calls and len(seeds) and pipeline.model.training:
        raise PluginError(
            f"augment {type(chosen[0]).__name__} acts on the features of the encoder's front end, but the encoder did not "
            f"call it as a module; call it as self.frontend(...), not by another method"
        )


def _changed(
    module: nn.Module,
    arguments: tuple[Any, ...],
    output: Any,
    augment: Sequence[Augmentation],
    seeds: Sequence[int],
    pipeline: Pipeline,
) -> Any:
    features, restored = _as_features(module, arguments, output)
    if len(features.lengths) != len(seeds):
        raise PluginError(
            f"augment: the front end was called with {len(features.lengths)} utterances for {len(seeds)} seeds; give "
            f"features_augmented the seeds of the utterances that the encoder gets"
        )
    given = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], Mapping) else {}
    rows = []
    for row, (length, seed) in enumerate(zip(features.lengths.tolist(), seeds, strict=True)):
        generator = utterance_generator(seed, "features")
        one = Features(features.values[row : row + 1, :length], features.lengths[row : row + 1], features.frame_shift_s)
        context = select(given, pipeline.context_keys, [row])
        for part in augment if length else ():
            one = _checked(part, one, part(one, context, generator))
        rows.append(one)
    return restored(_stacked(rows, features))


def _stacked(rows: Sequence[Features], features: Features) -> Features:
    lengths = torch.cat([row.lengths for row in rows])
    room = max(features.values.shape[1], int(lengths.max()))
    values = features.values.new_zeros(len(rows), room, features.values.shape[2])
    kept = [
        nn.functional.pad(row.values[0, : int(row.lengths[0])], (0, 0, 0, room - int(row.lengths[0]))) for row in rows
    ]
    values = torch.stack(kept) if kept else values
    return Features(values, lengths, features.frame_shift_s)


def _as_features(
    module: nn.Module, arguments: tuple[Any, ...], output: Any
) -> tuple[Features, Callable[[Features], Any]]:
    """The front end's output as Features, and the way back."""
    if isinstance(output, Features):
        return output, lambda features: features
    if isinstance(output, Encoded):
        same: Encoded = output
        shown = Features(output.values, output.lengths, output.frame_shift_s)
        return shown, lambda features: same._replace(values=features.values, lengths=features.lengths)
    if isinstance(output, Tensor) and output.ndim == 3 and len(arguments) > 1 and hasattr(module, "output_lengths"):
        lengths: Tensor = module.output_lengths(arguments[1])  # type: ignore[operator]
        shift_s = float(getattr(module, "frame_shift_s", 0.01))

        def plain(features: Features) -> Tensor:
            if features.lengths.tolist() != lengths.tolist():
                raise PluginError(
                    f"augment: {type(module).__name__} gives a plain tensor, whose number of frames cannot change; leave "
                    f"out augmentations of features that make them longer or shorter"
                )
            return features.values

        return Features(output, lengths, shift_s), plain
    raise PluginError(
        f"augment: the front end {type(module).__name__} gave a {type(output).__name__}, expected Features, Encoded, or a "
        f"tensor [b t f] with output_lengths"
    )


def check_synchronous(augment: Sequence[Augmentation], fed: Sequence[str]) -> None:
    """**Raises** `SpecError` when a signal that runs beside the sound would no longer fit it, because an augmentation
    changes the length."""
    beside = [name for name in fed if name in SYNCHRONOUS]
    lengths = torch.tensor([16000, 23456])
    for part in augment if beside else ():
        law = part.output_lengths(lengths)
        if law is None or law.tolist() != lengths.tolist():
            raise SpecError(
                f"augment {type(part).__name__} changes the length of the sound, but context '{beside[0]}' runs beside it "
                f"sample by sample; leave one of them out"
            )


__all__ = [
    "augmented_input",
    "check_augmentations",
    "check_synchronous",
    "features_augmented",
    "front_end",
    "on_features",
    "on_input",
    "utterance_generator",
    "utterance_seed",
]
