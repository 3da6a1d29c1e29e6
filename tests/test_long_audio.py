"""Long recordings take the long route in whatever form they come, in bounded memory, and with their side information."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from fake_plugins import Site
from toy_components import Tally, toy_registry

import sltcore
from sltcore.audio import Recording
from sltcore.errors import AudioError, ContextError
from sltcore.pipeline import Item
from sltcore.pipeline.inputs import opened
from sltcore.pipeline.streaming import PipelineSession, _together
from sltcore.types import Encoded, NBest

TOY = {"slt": 1, "kind": "pipeline", "encoder": "echo", "decoder": "tally", "segment": {"above_s": 5, "longest_s": 4}}
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


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Multiples of 1/128, so that float sums are exact."""
    return (np.random.default_rng(seed).integers(0, 32, int(seconds * 16000)) / 128).astype(np.float32)


def wav(samples: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


FORMS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "array": lambda x, p: x,
    "column": lambda x, p: x[:, None],
    "tensor": lambda x, p: torch.from_numpy(x),
    "pair": lambda x, p: (x, 16000),
    "recording": lambda x, p: Recording(x, 16000),
    "bytes": lambda x, p: wav(x),
    "row": lambda x, p: {"array": x, "sampling_rate": 16000},
    "table row": lambda x, p: {"audio": {"bytes": wav(x), "path": None}, "id": "7"},
    "path": lambda x, p: p,
    "text path": lambda x, p: str(p),
    "path row": lambda x, p: {"audio": str(p)},
    "open file": lambda x, p: p.open("rb"),
    "item": lambda x, p: Item("i", x),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_long_recording_is_streamed(registry, tmp_path: Path, form):
    samples = sound(12.0)
    (tmp_path / "x.wav").write_bytes(wav(samples))
    pipeline = sltcore.load(TOY, registry=registry)
    largest = []
    inner = pipeline.parts["encoder"].forward
    pipeline.parts["encoder"].forward = lambda x, context: largest.append(x.samples.shape[1]) or inner(x, context)
    result = pipeline(FORMS[form](samples, tmp_path / "x.wav"))
    assert result.text.split()[0] == f"{samples.sum(dtype=np.float64):.2f}"
    assert max(largest) <= 10 * 16000


@pytest.mark.parametrize("streams", [True, False])
def test_the_reference_runs_beside_a_long_input_and_other_sound_is_given_whole(registry, streams):
    pipeline = sltcore.load({**TOY, "encoder": {"use": "echo", "streams": streams}}, registry=registry)
    short = pipeline([sound(3.0)], reference=[sound(2.0, 1)])[0]
    assert short.text.split()[:2] == [
        f"{sound(3.0).sum(dtype=np.float64):.2f}",
        f"{sound(2.0, 1).sum(dtype=np.float64):.2f}",
    ]
    for reference_s in (9.0, 23.5, 30.0):  # silence follows a short one, a long one is cut
        beside = sound(reference_s, 2)
        long, other = pipeline(
            [sound(23.5), sound(6.0)], reference=[beside, None], phrases=[["a"], ["b"]], language=["x", "y"]
        )
        totals = np.array([[float(n) for n in part.split()[:2]] for part in _parts(long.text)]).sum(0)
        expected = (sound(23.5).sum(dtype=np.float64), beside[: int(23.5 * 16000)].sum(dtype=np.float64))
        assert totals == pytest.approx(expected, abs=0.05)
        assert {tuple(part.split()[2:]) for part in _parts(long.text)} == {("a", "x")}
        assert {tuple(part.split()[1:]) for part in _parts(other.text)} == {("0.00", "b", "y")}


def _parts(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[i : i + 4]) for i in range(0, len(words), 4)]


def test_a_voice_is_never_cut(registry):
    pipeline = sltcore.load({**TOY, "encoder": {"use": "echo", "streams": False}}, registry=registry)
    result = pipeline(np.zeros(16000 * 9, np.float32), voice=np.zeros(100, np.float32))
    assert sum(float(part.split()[1]) for part in _parts(result.text)) == 100 * 16000 * 9


def test_a_session_takes_the_reference_with_the_samples(registry):
    pipeline = sltcore.load(TOY, registry=registry)
    session = pipeline.open({"phrases": ["a"]})
    session.push(sound(1.0), reference=sound(1.0, 5))
    with pytest.raises(
        ContextError,
        match="stream 'referense' is read by no encoder of this pipeline; streams that are read: reference. Did you mean",
    ):
        session.push(sound(1.0), referense=sound(1.0))
    assert session.finish().text.split()[1:3] == [f"{sound(1.0, 5).sum(dtype=np.float64):.2f}", "a"]
    with pytest.raises(
        ContextError,
        match=r"'reference' runs beside the input: push it with the samples, push\(samples, reference=...\)",
    ):
        pipeline.open({"reference": sound(1.0)})


def test_a_source_that_hides_its_length_is_held_no_longer_than_allowed(tmp_path: Path):
    samples = sound(30.0)
    path = tmp_path / "streamed.wav"
    data = bytearray(wav(samples))
    place = data.index(b"data") + 4
    data[place : place + 4] = (0xFFFFFFFF).to_bytes(4, "little")  # as ffmpeg writes to a pipe
    path.write_bytes(data)
    with opened(Item("x", path), 16000, 5.0) as source:
        assert not isinstance(source, Recording)
        assert np.array_equal(np.concatenate(list(source)), samples)
    with opened(Item("x", path), 16000, 31.0) as source:
        assert isinstance(source, Recording)
        assert np.array_equal(source.samples, samples)


def test_damage_deep_in_a_long_recording_fails_that_input_alone(registry):
    pipeline = sltcore.load(TOY, registry=registry)
    bad = sound(20.0)
    bad[-5] = np.nan
    outputs = list(pipeline.run([Item("bad", bad), Item("good", sound(20.0))], keep_going=True))
    assert isinstance(outputs[0].error, AudioError)
    assert "is NaN" in str(outputs[0].error)
    assert outputs[1].error is None
    assert outputs[1].duration_s == 20.0


def test_frames_of_an_encoder_alone_equal_the_offline_ones():
    log_mel = {"slt": 1, "kind": "pipeline", "encoder": {"use": "log-mel", "n_mels": 20}}
    samples = np.random.default_rng(0).normal(0, 0.1, 16000 * 26).astype(np.float32)
    whole = sltcore.load(log_mel)(samples)
    pieces = sltcore.load(log_mel, overrides=["segment.above_s=5"])(samples)
    assert np.allclose(pieces, whole, atol=1e-4)


def test_an_encoder_that_cannot_stream_gets_the_whole_recording():
    both = {
        "slt": 1,
        "kind": "pipeline",
        "encoder": {**LSTM["encoder"], "bidirectional": True},
        "segment": {"above_s": 5},
    }
    samples = np.random.default_rng(0).normal(0, 0.1, 16000 * 8).astype(np.float32)
    assert np.array_equal(sltcore.load(both)(samples), sltcore.load(both, overrides=["segment.above_s=100"])(samples))


def test_copy_synthesis_of_a_long_recording_keeps_its_length():
    spec = {
        "slt": 1,
        "kind": "pipeline",
        "vocoder": {"use": "griffin-lim", "iterations": 1},
        "segment": {"above_s": 5, "longest_s": 4},
    }
    result = sltcore.load(spec)(np.random.default_rng(0).normal(0, 0.1, 16000 * 13).astype(np.float32))
    assert isinstance(result, Recording)
    assert abs(result.duration_s - 13.0) < 0.1


def test_frames_are_put_together_before_the_decoder_reads_them(registry):
    """The decoder is pushed O(log n) times, not once a block; nothing is lost or reordered."""
    pipeline = sltcore.load(TOY, registry=registry)
    session = PipelineSession(pipeline, {})
    blocks = [sound(1.0, seed) for seed in range(400)]
    for block in blocks:
        session.feed(block)
    text = session.finish().text
    decoder = pipeline.parts["decoder"]
    assert isinstance(decoder, Tally)
    assert decoder.pushes < 60
    assert float(text.split()[0]) == pytest.approx(sum(block.sum(dtype=np.float64) for block in blocks), abs=0.5)


def test_chunks_that_carry_more_than_frames_are_left_alone():
    chunk = Encoded(torch.ones(1, 3, 2), torch.tensor([2]), 0.01)
    (both,) = _together([chunk, chunk._replace(offset_s=0.02)])
    assert both.values.shape == (1, 4, 2)
    assert both.lengths.tolist() == [4]
    assert both.offset_s == 0.0
    special = chunk._replace(extra={"attention": torch.ones(1)})
    assert len(_together([special, special])) == 2


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [False, True])
def test_memory_does_not_grow_with_the_recording(tmp_path: Path, bidirectional):
    """Peak memory of a process that works on 40 minutes exceeds that on 8 minutes by less than 32 minutes of samples."""
    code = (
        "import sys, json, resource, sltcore\n"
        "sltcore.load(json.loads(sys.argv[1]))(sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    import json

    spec = {**LSTM, "encoder": {**LSTM["encoder"], "hidden": 8, "bidirectional": bidirectional}}
    peaks = []
    for minutes in (8, 40):
        path = tmp_path / f"{minutes}.wav"
        minute = (np.random.default_rng(0).normal(0, 3000, 16000 * 60)).astype(np.int16)
        with soundfile.SoundFile(path, "w", 16000, 1, subtype="PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
        run = subprocess.run(
            [sys.executable, "-c", code, json.dumps(spec), str(path)],
            capture_output=True,
            text=True,
            check=True,
            env={"OMP_NUM_THREADS": "1", "PATH": ""},
        )
        peaks.append(int(run.stdout) * (1 if sys.platform == "darwin" else 1024))
    assert peaks[1] - peaks[0] < 60e6  # 32 minutes are 123 MB of float32 samples


@pytest.mark.parametrize("seconds", [5.0, 5.001])
def test_the_border_between_both_routes(registry, seconds):
    result = sltcore.load(TOY, registry=registry)(sound(seconds))
    assert isinstance(result, NBest)
    assert result.text.split()[0] == f"{sound(seconds).sum(dtype=np.float64):.2f}"
