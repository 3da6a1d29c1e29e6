"""Promises of a pipeline: one call for one or many, batches that change nothing, long audio, clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import sltcore
from sltcore.audio import Recording
from sltcore.errors import AudioError, ContextError, PortError, SltError, StreamError
from sltcore.pipeline import Item, check_ports
from sltcore.pipeline.long_audio import joined, segments
from sltcore.types import Hypothesis, NBest, Port

SPEC = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {"use": "lstm", "hidden": 24, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}},
    "decoder": {"use": "ctc-greedy", "characters": "abcdefgh"},
}


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16000)).astype(np.float32)


@pytest.fixture(scope="module")
def pipeline():
    return sltcore.load(SPEC)


def test_one_input_gives_one_result_and_many_give_a_list(pipeline, tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", noise(1.0), 16000, subtype="FLOAT")
    single = pipeline(tmp_path / "a.wav")
    assert isinstance(single, NBest)
    assert pipeline(str(tmp_path / "a.wav")) == single
    assert pipeline([tmp_path / "a.wav", noise(1.0)]) == [single, single]


@pytest.mark.parametrize(
    "wrap", [lambda x: x, torch.from_numpy, lambda x: (x, 16000), lambda x: Recording(x, 16000), lambda x: x[None]]
)
def test_every_form_of_samples_gives_the_same_result(pipeline, wrap):
    assert pipeline(wrap(noise(1.0))) == pipeline(noise(1.0))


def test_batches_by_length_do_not_change_results_or_their_order(pipeline):
    inputs = [noise(s, i) for i, s in enumerate([0.3, 2.0, 0.5, 1.1, 0.9, 0.2, 1.7])]
    alone = [pipeline(x).text for x in inputs]
    assert [r.text for r in pipeline(inputs)] == alone
    small = sltcore.load(SPEC, overrides=["batch.size=2"])
    assert [r.text for r in small(inputs)] == alone


def test_a_batch_holds_at_most_the_padded_seconds_asked_for(pipeline):
    narrow = sltcore.load(SPEC, overrides=["batch.seconds=2.5"])
    sizes = []
    narrow.forward = lambda values, context: (
        sizes.append((len(values), max(len(v.samples) for v in values))) or [NBest([Hypothesis("")])] * len(values)
    )
    narrow([noise(s) for s in (0.5, 1.0, 1.0, 2.0, 1.2)])
    assert all(count * longest <= 2.5 * 16000 for count, longest in sizes)
    assert sum(count for count, _ in sizes) == 5


def test_a_datasets_table_is_read_from_its_audio_column(pipeline, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    soundfile.write(tmp_path / "a.wav", noise(0.5), 16000, subtype="FLOAT")
    table = datasets.Dataset.from_dict({"audio": [str(tmp_path / "a.wav")] * 2}).cast_column(
        "audio", datasets.Audio(decode=False)
    )
    assert pipeline(table) == [pipeline(tmp_path / "a.wav")] * 2


def test_seed_decides_the_weights_that_no_file_brings():
    same = [sltcore.load(SPEC).model.state_dict() for _ in range(2)]
    other = sltcore.load(SPEC, overrides=["seed=1"]).model.state_dict()
    assert all(torch.equal(same[0][k], same[1][k]) for k in same[0])
    assert not torch.equal(same[0]["decoder.head.weight"], other["decoder.head.weight"])


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sltcore.load(SPEC)
    assert torch.equal(torch.rand(3), expected)


def test_a_context_key_that_nobody_reads_is_refused_with_what_is_read(pipeline):
    with pytest.raises(
        ContextError,
        match="context 'phrases' is read by no component of this pipeline, so it would have no effect; keys that are read: none",
    ):
        pipeline(noise(0.2), phrases=["a b"])


def test_ports_that_do_not_fit_are_refused_naming_both():
    with pytest.raises(
        PortError,
        match="before it stands Features.*encoder 'log-mel' produces Features, decoder 'ctc-greedy' stands after it",
    ):
        sltcore.load({**SPEC, "encoder": "log-mel"})


def test_ports_compare_only_attributes_that_both_name():
    check_ports("a", Port("Encoded", {"d": 4}), "b", Port("Encoded", {"frame_shift_s": 0.02}))
    with pytest.raises(PortError, match="a produces Encoded with d=4, but b consumes d=8"):
        check_ports("a", Port("Encoded", {"d": 4}), "b", Port("Encoded", {"d": 8}))


def test_a_reference_that_leads_nowhere_names_what_there_is():
    with pytest.raises(
        SltError, match=r"decoder.head: \{ref: encoder.hed\} leads nowhere; before it there is: .*encoder"
    ):
        sltcore.load({**SPEC, "decoder": {"use": "ctc-greedy", "head": {"ref": "encoder.hed"}}})


def test_one_bad_input_is_reported_and_the_rest_is_finished(pipeline, tmp_path: Path):
    (tmp_path / "bad.wav").write_bytes(b"not audio at all")
    items = [
        Item("good", noise(0.3)),
        Item("bad", tmp_path / "bad.wav"),
        Item("nan", np.array([np.nan] * 400, np.float32)),
    ]
    outputs = list(pipeline.run(items, keep_going=True))
    assert [o.item.id for o in outputs] == ["good", "bad", "nan"]
    assert outputs[0].error is None
    assert isinstance(outputs[1].error, AudioError)
    assert isinstance(outputs[2].error, AudioError)
    with pytest.raises(AudioError):
        list(pipeline.run(items))


@pytest.mark.parametrize("seconds", [0.0, 1 / 16000, 0.01, 0.03])
def test_very_short_audio_gives_a_result_or_a_clear_line(pipeline, seconds):
    try:
        assert isinstance(pipeline(noise(seconds)), NBest)
    except AudioError as error:
        assert "\n" not in str(error)


def test_long_audio_is_streamed_and_equals_the_offline_result():
    spec = {**SPEC, "segment": {"above_s": 5.0}}
    recording = Recording(noise(12.0), 16000)
    streamed = sltcore.load(spec)(recording)
    offline = sltcore.load(SPEC, overrides=["segment.above_s=100"])(recording)
    assert streamed.text == offline.text


def test_long_audio_is_cut_at_pauses_where_components_cannot_stream():
    spec = {**SPEC, "encoder": {**SPEC["encoder"], "bidirectional": True}, "segment": {"above_s": 5, "longest_s": 4}}
    speech = np.concatenate(
        [noise(3.0, 1), np.zeros(16000, np.float32), noise(3.0, 2), np.zeros(16000, np.float32), noise(2.0, 3)]
    )
    result = sltcore.load(spec)(Recording(speech, 16000))
    assert isinstance(result, NBest)
    assert all(a <= b for a, b in result.best.times)
    assert max(b for _, b in result.best.times) > 8


def test_segments_cover_everything_once_and_cut_in_pauses():
    rate = 1000
    quiet = np.zeros(rate, np.float32)
    loud = [np.random.default_rng(i).normal(0, 0.1, 3 * rate).astype(np.float32) for i in range(4)]
    whole = np.concatenate([x for part in loud for x in (part, quiet)])
    blocks = np.array_split(whole, 17)
    cut = list(segments(blocks, rate, longest_s=5.0, pause_s=0.4))
    assert np.array_equal(np.concatenate([samples for _, samples in cut]), whole)
    assert all(len(samples) <= 5 * rate for _, samples in cut)
    position = 0
    for start, samples in cut:
        assert start == pytest.approx(position / rate)
        position += len(samples)
    for start, _ in cut[1:]:
        middle = int(start * rate)
        assert not whole[middle - 50 : middle + 50].any()


def test_joined_segments_shift_times_by_their_start():
    parts = [
        (0.0, NBest([Hypothesis("a", -1.0, (1,), ((0.1, 0.2),))])),
        (5.0, NBest([Hypothesis("b", -2.0, (2,), ((0.3, 0.4),))])),
    ]
    best = joined(parts).best
    assert (best.text, best.score, best.tokens, best.times) == ("a b", -3.0, (1, 2), ((0.1, 0.2), (5.3, 5.4)))


def test_a_session_equals_the_call_whatever_the_chunks(pipeline):
    samples = noise(3.0)
    session = pipeline.open()
    for chunk in np.array_split(samples, 13):
        session.push(chunk)
    assert session.finish().text == pipeline(samples).text
    with pytest.raises(StreamError, match="finished"):
        session.push(samples)
    with pytest.raises(StreamError, match="finished"):
        session.finish()


def test_copy_synthesis_needs_a_vocoder_alone():
    copy = sltcore.load({"slt": 1, "kind": "pipeline", "vocoder": {"use": "griffin-lim", "iterations": 2}})
    result = copy(noise(0.5))
    assert isinstance(result, Recording)
    assert result.sample_rate_hz == 16000
    assert abs(result.duration_s - 0.5) < 0.05


def test_an_encoder_alone_gives_frames():
    frames = sltcore.load({"slt": 1, "kind": "pipeline", "encoder": {"use": "log-mel", "n_mels": 20}})(noise(0.5))
    assert frames.shape[1] == 20
    assert frames.dtype == np.float32


def test_an_unknown_device_is_one_line_with_what_there_is(pipeline):
    with pytest.raises(PortError, match="device 'cuda:99' cannot be used: .*; here there is: cpu"):
        sltcore.load(SPEC, device="cuda:99")


def test_stage_hooks_see_every_stage():
    from sltcore.plugin import hookimpl
    from sltcore.registry import Registry

    class Watcher:
        seen: list[tuple[str, int]]

        def __init__(self):
            self.seen, self.built, self.errors = [], 0, []

        @hookimpl
        def slt_pipeline_built(self, pipeline):
            self.built += 1

        @hookimpl
        def slt_after_stage(self, stage, batch, seconds):
            assert seconds >= 0
            self.seen.append((stage, batch))

        @hookimpl
        def slt_stage_error(self, stage, error):
            self.errors.append((stage, type(error).__name__))

    registry = Registry()
    watcher = Watcher()
    registry.manager.register(watcher)
    watched = sltcore.load(SPEC, registry=registry)
    watched([noise(0.3), noise(0.4)])
    assert watcher.built == 1
    assert watcher.seen == [("read", 1), ("read", 1), ("encoder", 2), ("decoder", 2)]
    with pytest.raises(AudioError):
        watched("no such file.wav")
    assert watcher.errors == [("read", "AudioError")]
