"""Side information stays with its utterance, however inputs are batched; failures stay with theirs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fake_plugins import Site
from toy_components import toy_registry

import sltcore
from sltcore.audio import Recording
from sltcore.context import check_context, is_per_utterance, select
from sltcore.errors import AudioError, ContextError, PluginError, PortError
from sltcore.pipeline import Item
from sltcore.pipeline.pipeline import LOOK_AHEAD
from sltcore.types import ContextKey

SPEC = {"slt": 1, "kind": "pipeline", "encoder": "echo", "decoder": "tally"}
LSTM = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {"use": "lstm", "hidden": 24, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}},
    "decoder": {"use": "ctc-greedy", "characters": "abcdefgh"},
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[object]:
    site = Site(tmp_path_factory.mktemp("toys") / "site")
    sys.path.insert(0, str(site.folder))
    yield toy_registry(site)
    sys.path.remove(str(site.folder))


@pytest.fixture
def pipeline(registry):
    return sltcore.load(SPEC, registry=registry)


def ones(count: int, value: float = 1.0) -> Recording:
    """`count` samples whose sum tells their number."""
    return Recording(np.full(count, value / 128, np.float32), 16000)


def said(*samples: int) -> list[str]:
    return [f"{count / 128:.2f}" for count in samples]


def test_lists_stay_with_their_utterance_through_sorting_and_many_windows(registry):
    pipeline = sltcore.load(SPEC, registry=registry, overrides=["batch.size=2"])
    random = np.random.default_rng(0)
    counts = [int(n) for n in random.integers(200, 3000, 5 * LOOK_AHEAD)]
    phrases = [None if n % 3 == 0 else [] if n % 3 == 1 else [f"p{n}"] for n in counts]
    languages = [f"l{n}" for n in counts]
    results = pipeline([ones(n) for n in counts], phrases=phrases, language=languages)
    expected = [
        f"{n / 128:.2f} 0.00 {'-' if p is None else ''.join(p)} {language}"
        for n, p, language in zip(counts, phrases, languages, strict=True)
    ]
    assert [result.text for result in results] == expected


def test_a_generator_of_inputs_takes_lists_too(pipeline):
    results = pipeline((ones(n) for n in (300, 200)), language=["a", "b"])
    assert [result.text.split()[-1] for result in results] == ["a", "b"]
    with pytest.raises(
        ContextError, match="'language' holds 2 values for 3 inputs; give one for each input, or one for all"
    ):
        pipeline((ones(n) for n in (300, 200, 100)), language=["a", "b"])


def test_nothing_in_gives_nothing_out(pipeline):
    assert pipeline([]) == []
    assert pipeline(iter(())) == []
    assert pipeline([], phrases=["a"]) == []
    assert pipeline([], language=[]) == []


def test_a_prepared_list_is_prepared_once_for_any_number_of_calls(pipeline):
    decoder = pipeline.parts["decoder"]
    prepared = pipeline.prepare(phrases=["b", "a"])
    assert decoder.prepared == 1
    for _ in range(3):
        assert pipeline(ones(200), prepared=prepared, language="x").text.split()[2:] == ["a+b", "x"]
    assert decoder.prepared == 1


def test_lists_of_each_utterance_are_prepared_one_by_one(pipeline):
    prepared = pipeline.prepare(phrases=[["a"], None, ["b"]])
    assert pipeline.parts["decoder"].prepared == 2
    results = pipeline([ones(300), ones(200), ones(100)], prepared=prepared)
    assert [result.text.split()[2] for result in results] == ["a", "-", "b"]
    assert pipeline.parts["decoder"].prepared == 2
    with pytest.raises(ContextError, match="'phrases' holds 3 values for 1 inputs"):
        pipeline([ones(300)], prepared=prepared)


def test_what_another_pipeline_prepared_is_refused(registry, pipeline):
    other = sltcore.load(SPEC, registry=registry).prepare(phrases=["a"])
    with pytest.raises(
        ContextError, match="made by another pipeline; make it with the prepare of the one that is called"
    ):
        pipeline(ones(200), prepared=other)


@pytest.mark.parametrize("wrong", [Path("names.txt"), {"a", "b"}, iter(["a"]), {"a": 1}, "a", 3])
def test_what_looks_like_phrases_but_is_none_is_refused(pipeline, wrong):
    with pytest.raises(ContextError, match="context 'phrases' expects a list of strings"):
        pipeline(ones(200), phrases=wrong)


def test_a_recording_beside_the_input_stays_with_its_utterance(pipeline, tmp_path: Path):
    soundfile.write(tmp_path / "r.wav", np.full(800, 0.5, np.float32), 16000, subtype="FLOAT")
    results = pipeline([ones(3000), ones(1000), ones(2000)], reference=[ones(300), None, tmp_path / "r.wav"])
    assert [result.text.split()[:2] for result in results] == [
        [*said(3000), *said(300)],
        [*said(1000), "0.00"],
        [*said(2000), "400.00"],
    ]


def test_a_stereo_files_other_channel_can_be_the_reference(pipeline, tmp_path: Path):
    stereo = np.stack([np.full(1600, 1 / 128), np.full(1600, 2 / 128)], 1).astype(np.float32)
    soundfile.write(tmp_path / "s.wav", stereo, 16000, subtype="FLOAT")
    item = Item("s", tmp_path / "s.wav", channel=0)
    (output,) = pipeline.run([item], reference=[item._replace(channel=1)], count=1)
    assert output.value.text.split()[:2] == said(1600, 3200)


@pytest.mark.parametrize("size", [1, 3, 16])
def test_whatever_fails_is_one_output_and_the_rest_of_its_batch_is_done(registry, size):
    pipeline = sltcore.load(SPEC, registry=registry, overrides=[f"batch.size={size}"])
    loud = Recording(np.full(1000, 1.0, np.float32), 16000)
    decoder = pipeline.parts["decoder"]
    inner = type(decoder).decode

    def decode(encoded, context):
        if (encoded.values[:, :5, 0] > 100).any():
            raise RuntimeError("louder than\nanything foreseen")
        return inner(decoder, encoded, context)

    decoder.decode = decode
    items = [Item("a", ones(900)), Item("loud", loud), Item("gone", "no such file.wav"), Item("b", ones(1100))]
    outputs = list(pipeline.run(items, keep_going=True, language=["x", "y", "z", "w"]))
    assert [output.item.id for output in outputs] == ["a", "loud", "gone", "b"]
    assert [output.value and output.value.text.split()[-1] for output in outputs] == ["x", None, None, "w"]
    assert isinstance(outputs[1].error, PluginError)
    assert str(outputs[1].error) == "input 'loud': RuntimeError in stage 'decoder': louder than anything foreseen"
    assert isinstance(outputs[1].error.__cause__, RuntimeError)
    assert outputs[1].duration_s == pytest.approx(1 / 16)
    assert isinstance(outputs[2].error, AudioError)
    with pytest.raises(RuntimeError, match="louder"):
        list(pipeline.run(items[:2]))


def test_inputs_read_ahead_are_bounded_by_seconds_and_by_number(registry):
    pipeline = sltcore.load(SPEC, registry=registry, overrides=["batch.size=4", "batch.seconds=1.0"])
    taken = 0

    def stream(samples: int) -> Iterator[Item]:
        nonlocal taken
        taken = 0
        for index in range(200):
            taken += 1
            yield Item(str(index), ones(samples))

    next(pipeline.run(stream(1600)))
    assert taken == 4 * LOOK_AHEAD
    next(pipeline.run(stream(16000)))
    assert taken == LOOK_AHEAD


def test_a_text_pipelines_reranker_sees_the_input_and_the_side_information_of_each(registry):
    spec = {"slt": 1, "kind": "pipeline", "decoder": "lines", "reranker": "judge"}
    pipeline = sltcore.load(spec, registry=registry)
    assert [result.text for result in pipeline(["abc", "xyz"])] == ["cba", "zyx"]
    assert [result.text for result in pipeline(["abc", "xyz", "q r"], language=["abc", "zyx", None])] == [
        "abc",
        "zyx",
        "r q",
    ]
    with pytest.raises(ContextError, match="this pipeline reads text, got a Recording"):
        pipeline(ones(100))


def test_the_pair_the_wrong_way_round_is_explained():
    pipeline = sltcore.load(LSTM)
    samples = np.zeros(1600, np.float32)
    assert pipeline((samples, np.int64(16000))) == pipeline(samples)
    with pytest.raises(AudioError, match=r"scipy's order is \(rate, array\)"):
        pipeline((16000, samples))


def test_open_files_and_byte_arrays_are_one_input(tmp_path: Path):
    pipeline = sltcore.load(LSTM)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32), 16000, subtype="FLOAT")
    with path.open("rb") as file:
        assert pipeline(file) == pipeline(path)
    assert pipeline(bytearray(path.read_bytes())) == pipeline(path)
    assert pipeline(memoryview(path.read_bytes())) == pipeline(path)
    assert pipeline({"bytes": path.read_bytes(), "path": None}) == pipeline(path)


def test_batching_moves_frames_by_no_more_than_the_encoders_tolerance():
    encoder_alone = {"slt": 1, "kind": "pipeline", "encoder": LSTM["encoder"]}
    pipeline = sltcore.load(encoder_alone)
    random = np.random.default_rng(3)
    inputs = [random.normal(0, 0.1, n).astype(np.float32) for n in (4000, 9000, 16000, 7001, 12345)]
    tolerance = pipeline.parts["encoder"].padding_tolerance
    together = pipeline(inputs)
    for whole, part in zip(together, inputs, strict=True):
        assert np.allclose(whole, pipeline(part), rtol=0, atol=tolerance)
    assert all(np.array_equal(a, b) for a, b in zip(together, pipeline(inputs), strict=True))


def test_a_reference_to_something_that_is_no_stage_is_refused():
    with pytest.raises(PortError, match=r"decoder: \{ref: encoder.frontend\} is a LogMel, expected Decoder"):
        sltcore.load({**LSTM, "decoder": {"ref": "encoder.frontend"}})


def test_transforms_are_entered_around_every_call(registry):
    pipeline = sltcore.load(SPEC, registry=registry)
    entered = []

    class Spy:
        def use(self, context):
            entered.append(dict(context))
            from contextlib import nullcontext

            return nullcontext()

    pipeline.transforms.append(Spy())
    pipeline([ones(300), ones(200)], language=["a", "b"])
    assert [call["language"] for call in entered] == [["b", "a"]]  # shortest first, as the batch


NUMBERS, PLAIN = ContextKey("n", "numbers", ""), ContextKey("g", "generator", "", False)


def test_per_utterance_values_are_told_from_shared_ones():
    assert is_per_utterance([[1, 2], None], NUMBERS)
    assert not is_per_utterance([1, 2], NUMBERS)
    assert not is_per_utterance([torch.Generator()], PLAIN)
    assert select({"n": [[1], [2], [3]], "other": [4]}, {"n": NUMBERS}, [2, 0]) == {"n": [[3], [1]], "other": [4]}
    check_context({"generator": torch.Generator(), "n": None}, {"n": NUMBERS}, 5)
