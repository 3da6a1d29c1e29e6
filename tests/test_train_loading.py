"""Promises of the loader: the same steps however they are divided, continued or kept; and what is left out, by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_data import fields, make_examples, recording, small_pipeline

from sltcore.data.examples import Example, Examples
from sltcore.errors import AudioError, ContextError, DataError, SpecError
from sltcore.interfaces import Augmentation, Decoder, Part
from sltcore.pipeline import Pipeline
from sltcore.train.loading import Batch, Loader, Step
from sltcore.types import ContextKey, Item, Port, Waveform

SECONDS = [0.30, 0.45, 0.62, 0.38, 0.91, 0.55, 0.70, 0.33, 0.48, 0.81]


class Noise(Augmentation):
    """Noise under the generator, so that a test sees whose generator it was."""

    consumes = produces = Port("Waveform")

    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: torch.Generator) -> Waveform:
        return x._replace(samples=x.samples + torch.rand(x.samples.shape, generator=generator))


class Halved(Noise):
    """Every second sample."""

    def output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths + 1) // 2

    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: torch.Generator) -> Waveform:
        return x._replace(samples=x.samples[:, ::2], lengths=self.output_lengths(x.lengths))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return small_pipeline()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return make_examples(tmp_path_factory.mktemp("sounds"), SECONDS)


def loader(
    pipeline: Pipeline, examples: list[Example], *, augment: tuple[Augmentation, ...] = (), **batch: Any
) -> Loader:
    return Loader(pipeline, examples, fields(batch={"size": 3, "seconds": 2.0, **batch}), seed=5, augment=augment)


def own(step: Step) -> list[tuple[str, bytes]]:
    """Each utterance that counts in a step with its samples, in a fixed order."""
    found = []
    for batch in step.batches:
        for row, name in enumerate(batch.ids):
            if batch.weights[row]:
                found.append((name, batch.value.samples[row, : int(batch.value.lengths[row])].numpy().tobytes()))
    return sorted(found)


def test_an_epoch_has_every_utterance_once(pipeline: Pipeline, examples: list[Example]) -> None:
    loading = loader(pipeline, examples)
    count = loading.steps_in_epoch(0)
    steps = list(loading.steps(stop=count))
    assert sorted(name for step in steps for batch in step.batches for name in batch.ids) == [
        f"u{i}" for i in range(10)
    ]
    assert [step.number for step in steps] == list(range(count))
    assert steps[-1].epoch == 1.0
    assert sum(step.utterances for step in steps) == 10
    assert sum(batch.seconds for step in steps for batch in step.batches) == pytest.approx(sum(SECONDS))


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 1), (1, 2), (2, 2), (3, 1)])
def test_dividing_a_step_changes_nothing_in_it(
    pipeline: Pipeline, examples: list[Example], processes: int, accumulate: int
) -> None:
    """One process with the whole batch, against several processes and accumulated batches of a part of it."""
    share = processes * accumulate
    whole = loader(pipeline, examples, augment=(Noise(),), size=3 * share, seconds=2.0 * share)
    parts = loader(pipeline, examples, augment=(Noise(),), accumulate=accumulate)
    count = whole.steps_in_epoch(0)
    assert parts.steps_in_epoch(0, processes=processes) == count
    expected = [own(step) for step in whole.steps(stop=count + 1)]
    ranks = [list(parts.steps(stop=count + 1, rank=rank, processes=processes)) for rank in range(processes)]
    for number, steps in enumerate(zip(*ranks, strict=True)):
        assert sorted(one for step in steps for one in own(step)) == expected[number]
        assert all(len(step.batches) == accumulate for step in steps)
        assert {step.utterances for step in steps} == {len(expected[number])}
        assert all(len(batch.ids) > 0 and len(batch.ids) <= 3 for step in steps for batch in step.batches)


def test_a_process_without_an_utterance_gets_one_that_does_not_count(
    pipeline: Pipeline, examples: list[Example]
) -> None:
    loading = loader(pipeline, examples[:1])
    first, second = (next(loading.steps(stop=1, rank=rank, processes=2)).batches[0] for rank in range(2))
    assert (first.ids, first.weights.tolist(), first.seconds) == (["u0"], [1.0], pytest.approx(0.3))
    assert (second.ids, second.weights.tolist(), second.seconds) == (["u0"], [0.0], 0.0)


def equal(a: Batch, b: Batch) -> bool:
    return (
        a.ids == b.ids
        and a.seeds == b.seeds
        and torch.equal(a.value.samples, b.value.samples)
        and torch.equal(a.targets.ids, b.targets.ids)  # type: ignore[union-attr]
        and torch.equal(a.clean.samples, b.clean.samples)
    )


def test_beginning_later_gives_the_same_steps(pipeline: Pipeline, examples: list[Example]) -> None:
    whole = list(loader(pipeline, examples, augment=(Noise(),)).steps(stop=13))
    for start in (1, 5, 12):
        later = list(loader(pipeline, examples, augment=(Noise(),)).steps(start=start, stop=13))
        assert [step.number for step in later] == list(range(start, 13))
        assert all(equal(a.batches[0], b.batches[0]) for a, b in zip(whole[start:], later, strict=True))
        assert [step.epoch for step in later] == [step.epoch for step in whole[start:]]


def test_two_views_are_kept(pipeline: Pipeline, examples: list[Example]) -> None:
    plain = next(loader(pipeline, examples).steps(stop=1)).batches[0]
    assert plain.clean is plain.value
    changed = next(loader(pipeline, examples, augment=(Halved(),)).steps(stop=1)).batches[0]
    assert torch.equal(changed.clean.samples, plain.value.samples)
    assert changed.value.lengths.tolist() == [(int(n) + 1) // 2 for n in plain.value.lengths]


def test_an_augmentation_differs_between_epochs_and_not_between_batches(
    pipeline: Pipeline, examples: list[Example]
) -> None:
    large = loader(pipeline, examples, augment=(Noise(),), size=10, seconds=100.0)
    small = loader(pipeline, examples, augment=(Noise(),), size=1)
    first, second = ({**dict(own(step))} for step in large.steps(stop=2))
    alone = dict(one for step in small.steps(stop=10) for one in own(step))
    assert alone == first
    assert all(first[name] != second[name] for name in first)


def test_kept_sound_equals_sound_read_again(pipeline: Pipeline, tmp_path: Path) -> None:
    """16-bit files are kept as int16, others as float32, both exactly; what does not fit is read again."""
    rows = []
    for index, subtype in enumerate(["PCM_16", "FLOAT", "PCM_16"]):
        path = recording(tmp_path / f"{index}.wav", 0.4, seed=index, subtype=subtype)
        rows.append(Example(Item(str(index), str(path), "ab"), 0.4))
    loading = Loader(pipeline, rows, fields(batch={"size": 3}), seed=0, cache_bytes=6400 * (2 + 4) + 100)
    steps = list(loading.steps(stop=2))
    held = {name: samples.dtype for name, samples in loading._reader._held.items()}
    assert loading._reader.held_bytes <= 6400 * 6 + 100
    assert len(held) == 2
    assert held.get(1, np.dtype("float32")) == np.float32
    assert set(held.values()) <= {np.dtype("int16"), np.dtype("float32")}
    assert own(steps[0]) == own(steps[1])


def test_sound_is_kept_by_place_where_ids_repeat(pipeline: Pipeline, tmp_path: Path) -> None:
    """A privacy mechanism may mix private and public utterances, which are named apart from each other."""
    paths = [recording(tmp_path / f"{index}.wav", 0.4, seed=index) for index in range(2)]
    rows = [Example(Item("same", str(path), "ab"), 0.4) for path in paths]
    loading = Loader(pipeline, rows, fields(batch={"size": 2}), seed=0)
    for step in loading.steps(stop=2, sampler=[[0, 1], [0, 1]]):
        sounds = [samples for _, samples in own(step)]
        assert sounds[0] != sounds[1]


def test_a_sampler_chooses_the_utterances_of_each_step(pipeline: Pipeline, examples: list[Example]) -> None:
    drawn = [[0, 3], [], [1, 2, 4, 5, 6, 7], [9]]
    steps = list(loader(pipeline, examples).steps(stop=10, sampler=drawn))
    names = [sorted(name for batch in step.batches for name in batch.ids if batch.weights.any()) for step in steps]
    assert names == [["u0", "u3"], [], ["u1", "u2", "u4", "u5", "u6", "u7"], ["u9"]]
    assert [step.utterances for step in steps] == [2, 0, 6, 1]
    assert len(steps[2].batches) > 1  # two batches of at most three
    assert steps[1].batches[0].weights.tolist() == [0.0]
    later = list(loader(pipeline, examples).steps(start=2, stop=10, sampler=drawn))
    assert [own(step) for step in later] == [own(step) for step in steps[2:]]


def test_what_cannot_be_learned_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    good, short, strange, silent = make_examples(tmp_path, [0.5, 0.2, 0.5, 0.5])
    rows = Examples(
        [
            good,
            short._replace(item=short.item._replace(text="a text of many letters")),
            strange._replace(item=strange.item._replace(text="été")),
            silent._replace(item=silent.item._replace(text=None)),
        ],
        {"gone": "no file gone.wav"},
    )
    loading = loader(pipeline, rows)
    assert sorted(loading.skipped) == ["gone", "u1", "u2", "u3"]
    assert loading.skipped["u1"] == "its text needs 23 encoder frames, but 0.20 s give 6: no alignment can exist"
    assert "'é'" in loading.skipped["u2"]
    assert loading.skipped["u3"] == "it has no text"
    assert [e.item.id for e in loading.examples] == ["u0"]
    everything = Loader(pipeline, rows, fields(), seed=0, needs_targets=False)
    assert sorted(everything.skipped) == ["gone"]
    assert next(everything.steps(stop=1)).batches[0].targets is None


def test_frames_needed_are_those_of_the_loss(pipeline: Pipeline, tmp_path: Path) -> None:
    """The shortest sound that the loader takes has a finite loss, one frame less is impossible (loss 0)."""
    (example,) = make_examples(tmp_path, [0.5], text="aabb")  # 4 labels, 2 blanks between equal neighbours
    encoder, decoder = pipeline.parts["encoder"], pipeline.parts["decoder"]
    targets = decoder.targets(["aabb"], {})
    assert decoder.frames_needed(targets).tolist() == [6]
    for frames, possible in ((6, True), (5, False)):
        values = torch.randn(1, frames, 8, generator=torch.Generator().manual_seed(0))
        encoded = encoder(pipeline.batch([pipeline.read(example.item)]), {})._replace(
            values=values, lengths=torch.tensor([frames])
        )
        assert bool(decoder.loss(encoded, targets, {}) > 0) is possible


def test_capitals_are_spelled_in_the_letters_there_are(pipeline: Pipeline) -> None:
    decoder: Decoder = pipeline.parts["decoder"]
    upper, lower = decoder.targets(["Hello You", "a"], {}), decoder.targets(["hello you", "a"], {})
    assert torch.equal(upper.ids, lower.ids)
    assert upper.lengths.tolist() == [9, 1]


def test_nothing_left_is_one_error(pipeline: Pipeline, tmp_path: Path) -> None:
    rows = make_examples(tmp_path, [0.5, 0.5], text="été")
    with pytest.raises(
        DataError, match=r"none of 2 utterances can be learned from; the first, 'u0': the vocabulary has no"
    ):
        loader(pipeline, rows)


def test_a_reading_error_names_its_utterance_in_the_consumer(pipeline: Pipeline, tmp_path: Path) -> None:
    rows = make_examples(tmp_path, [0.5, 0.5, 0.5])
    Path(rows[1].item.source).write_bytes(b"no sound at all")
    with pytest.raises(AudioError, match=r"^utterance 'u1': .*u1\.wav"):
        list(loader(pipeline, rows, size=1).steps(stop=3))
    assert not [thread for thread in threading.enumerate() if thread.name == "sltcore-loader"]


def test_the_thread_ends_with_the_iterator_and_reads_ahead_boundedly(
    pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = loader(pipeline, examples, size=1)
    made: list[int] = []
    step = loading._step
    monkeypatch.setattr(loading, "_step", lambda plan: (made.append(plan.number), step(plan))[1])
    steps = loading.steps(stop=1000)
    next(steps)
    time.sleep(0.3)
    assert 1 < len(made) <= 5
    steps.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "sltcore-loader"]


class Listening(Augmentation):
    """Keeps the context it was given; it reads words, a number, and a signal beside the sound."""

    consumes = produces = Port("Waveform")

    def __init__(self) -> None:
        self.heard: list[Mapping[str, Any]] = []

    def context_keys(self) -> tuple[ContextKey, ...]:
        return (
            ContextKey("phrases", "texts", "phrases"),
            ContextKey("age", "number", "years"),
            ContextKey("whole", "text", "for all", per_utterance=False),
            ContextKey("reference", "waveform", "beside"),
        )

    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: torch.Generator) -> Waveform:
        self.heard.append(context)
        return x


def test_columns_feed_the_context(pipeline: Pipeline, tmp_path: Path) -> None:
    sound = recording(tmp_path / "beside.wav", 0.2)
    rows = make_examples(tmp_path, [0.5, 0.5], years="41", phrases="new york; boston", reference=str(sound), other=1)
    rows[1] = rows[1]._replace(item=rows[1].item._replace(extra={"years": "", "phrases": ["x"]}))
    listening = Listening()
    loading = Loader(pipeline, rows, fields(context={"age": "years"}), seed=0, augment=[listening])
    batch = next(loading.steps(stop=1)).batches[0]
    values = {name: dict(zip(batch.ids, batch.context[name], strict=True)) for name in batch.context}
    assert values["age"] == {"u0": 41.0, "u1": None}
    assert values["phrases"] == {"u0": ["new york", "boston"], "u1": ["x"]}
    assert len(values["reference"]["u0"]) == 3200
    assert values["reference"]["u1"] is None
    assert sorted(values) == ["age", "phrases", "reference"]
    assert {context["age"][0] for context in listening.heard} == {41.0, None}


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"agge": "years"}, r"context.agge: no component of this run reads 'agge'; .*Did you mean 'age'\?"),
        ({"age": "year"}, r"context.age: no example has a column 'year'; there are: .*Did you mean 'years'\?"),
        ({"whole": "years"}, r"context.whole: 'whole' is one value for a whole call"),
    ],
)
def test_context_that_does_not_fit_is_refused(
    pipeline: Pipeline, tmp_path: Path, context: dict[str, str], message: str
) -> None:
    rows = make_examples(tmp_path, [0.5], years="41")
    with pytest.raises(SpecError, match=message):
        Loader(pipeline, rows, fields(context=context), seed=0, augment=[Listening()])


def test_a_cell_of_the_wrong_type_is_refused_by_name(pipeline: Pipeline, tmp_path: Path) -> None:
    rows = make_examples(tmp_path, [0.5], age="old")
    with pytest.raises(
        ContextError, match=r"'u0': column age is 'old', which is no value for context 'age' \(number\)"
    ):
        Loader(pipeline, rows, fields(), seed=0, augment=[Listening()])


def test_a_signal_beside_the_sound_refuses_another_length(pipeline: Pipeline, tmp_path: Path) -> None:
    rows = make_examples(tmp_path, [0.5], reference=str(recording(tmp_path / "beside.wav", 0.5)))
    with pytest.raises(SpecError, match="augment Halved changes the length of the sound, but context 'reference' runs"):
        Loader(pipeline, rows, fields(), seed=0, augment=[Halved(), Listening()])


def test_an_augmentation_without_a_place_is_refused(pipeline: Pipeline, examples: list[Example]) -> None:
    class Texts(Noise):
        consumes = produces = Port("Text")

    class Low(Noise):
        consumes = produces = Port("Waveform", {"sample_rate_hz": 8000})

    with pytest.raises(
        SpecError, match=r"augment Texts acts on Text, but the pipeline reads Waveform\(sample_rate_hz=16000\)"
    ):
        loader(pipeline, examples, augment=(Texts(),))
    with pytest.raises(Exception, match=r"produces Waveform with sample_rate_hz=16000, but augment Low consumes"):
        loader(pipeline, examples, augment=(Low(),))


def test_steps_of_epochs(pipeline: Pipeline, examples: list[Example]) -> None:
    loading = loader(pipeline, examples)
    counts = [loading.steps_in_epoch(epoch) for epoch in range(3)]
    assert loading.steps_of(2) == counts[0] + counts[1]
    assert loading.steps_of(2.5) == counts[0] + counts[1] + round(counts[2] / 2)
    assert loading.steps_of(0.001) == 1


def test_weights_that_draw_nobody_are_refused(pipeline: Pipeline, examples: list[Example], monkeypatch: Any) -> None:
    monkeypatch.setattr("sltcore.train.loading.MOST_EMPTY_EPOCHS", 3)
    rows = [example._replace(weight=1e-12) for example in examples]
    with pytest.raises(DataError, match="epochs without an utterance: the weights of the data are too small"):
        list(loader(pipeline, rows).steps(stop=1))


def test_reading_leaves_the_global_random_state_alone(pipeline: Pipeline, examples: list[Example]) -> None:
    before = torch.get_rng_state()
    list(loader(pipeline, examples, augment=(Noise(),)).steps(stop=3))
    assert torch.equal(before, torch.get_rng_state())


def test_parts_that_are_no_encoder_read_context_too(pipeline: Pipeline, tmp_path: Path) -> None:
    class Reads(Part):
        consumes = produces = Port("Scores")

        def context_keys(self) -> tuple[ContextKey, ...]:
            return (ContextKey("mood", "text", "mood"),)

    rows = make_examples(tmp_path, [0.5], mood="glad")
    loading = Loader(pipeline, rows, fields(), seed=0, also=[Reads()])
    assert next(loading.steps(stop=1)).batches[0].context == {"mood": ["glad"]}
