"""Promises of sltcore.audio about what cannot be read: one line that names the file, the fault and the remedy."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sltcore.audio import open_audio, probe, read_audio
from sltcore.errors import AudioError

TONE = (0.5 * np.sin(np.arange(32000) / 6)).astype(np.float32)


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "call-17.wav", TONE, 16000)
    assert refusal(tmp_path / "call-71.wav").endswith("call-71.wav; check the name. Did you mean 'call-17.wav'?")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no" / "a.wav").endswith(f"the folder {tmp_path / 'no'} does not exist")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).endswith("is a folder; name a recording in it")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    assert refusal(tmp_path / "a.wav").endswith("a.wav is empty (0 bytes); record or copy it again")
    assert "is empty (0 bytes)" in refusal(b"")


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.txt", "a"])
def test_text_is_not_audio(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("dear diary\n" * 50)
    assert "not audio that can be read" in (text := refusal(tmp_path / name)) or "holds no sound" in text


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_not_audio(seed: int) -> None:
    assert "not audio that can be read" in refusal(b"\0" + np.random.default_rng(seed).bytes(5000))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", TONE, 16000)
    (tmp_path / "a.wav").chmod(0)
    assert "permission denied; allow it with chmod +r" in refusal(tmp_path / "a.wav")


def test_a_failing_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: OSError) -> None:
        def opens(path: Path, mode: str) -> None:
            raise error

        monkeypatch.setattr(Path, "open", opens)

    fail(PermissionError(13, "Permission denied"))
    assert "permission denied; allow it with chmod +r" in refusal(tmp_path / "a.wav")
    fail(OSError(5, "Input/output error"))
    assert "cannot be read: Input/output error; check the disk" in refusal(tmp_path / "a.wav")


def test_no_samples_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    assert refusal(tmp_path / "a.wav").endswith("a.wav holds no samples; record or export it again")
    assert refusal(np.zeros(0)) == "the array holds no samples; record or export it again"
    with pytest.raises(AudioError, match="holds no samples"):
        probe(tmp_path / "a.wav")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_the_first_bad_sample_is_named(tmp_path: Path, value: float, word: str) -> None:
    bad = np.tile(TONE, 5)
    bad[[90000, 95000]] = value
    soundfile.write(tmp_path / "a.wav", bad, 16000, subtype="FLOAT")
    assert f"a.wav: sample 90000 (5.625 s) is {word}; write it again with finite samples" in refusal(tmp_path / "a.wav")
    assert f"sample 90000 (11.250 s) is {word}" in refusal((bad, 8000))


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("options", [{}, {"format": "RF64"}, {"subtype": "FLOAT"}])
def test_a_cut_pcm_file_says_how_much_is_there(tmp_path: Path, kept: float, options: dict[str, str]) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, TONE, 16000, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    present = float(re.search(r"it ends after ([\d.]+) s", text := refusal(path))[1])  # type: ignore[index]
    assert present == pytest.approx(2 * kept, abs=0.02)
    assert "of the 2.00 s that its header promises; copy it again, or pass truncated='keep'" in text
    assert read_audio(path, truncated="keep").duration_s == pytest.approx(2 * kept, abs=0.02)


@pytest.mark.parametrize("kept", [0.5, 0.9])
@pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.ogg", "a.aiff"])
def test_a_cut_compressed_file_is_refused_or_kept(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000 * 20)
    soundfile.write(path, noise, 16000)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert "was cut" in (text := refusal(path))
    assert "truncated='keep'" in text
    assert read_audio(path, truncated="keep").duration_s == pytest.approx(20 * kept, abs=1.5)


def test_a_cut_m4a_is_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.m4a"
    media = av.open(str(path), "w", format="mp4")
    stream = media.add_stream("aac", rate=16000, layout="mono")
    frame = av.AudioFrame.from_ndarray((TONE * 32767).astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate = 16000
    for packet in [*stream.encode(frame), *stream.encode(None)]:
        media.mux(packet)
    media.close()
    path.write_bytes(path.read_bytes()[:-500])
    assert "begins like mp4 but cannot be decoded: it was cut or damaged; copy it again" in refusal(path)


def test_a_wav_without_its_data_is_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", TONE, 16000)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:36])
    assert "a.wav was cut" in refusal(tmp_path / "a.wav")


def test_a_broken_gsm_stream_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.gsm", TONE[:1600], 8000, format="RAW", subtype="GSM610")
    data = (tmp_path / "a.gsm").read_bytes()
    (tmp_path / "a.gsm").write_bytes(data[:-5])
    assert "is not GSM 06.10: expected frames of 33 bytes that begin with 0xD" in refusal(tmp_path / "a.gsm")


@pytest.mark.parametrize("channel", [1, -1, 2, "left", True, 0.0])
def test_a_wrong_channel_is_refused(channel: Any) -> None:
    with pytest.raises(AudioError, match=r"the array has no channel .*; expected 0, or 'mix' for the mean of all"):
        read_audio(TONE, channel=channel)


def test_the_channels_that_exist_are_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 3)), 16000)
    assert refusal(tmp_path / "a.wav", channel=3).endswith(
        "has no channel 3; expected 0 to 2, or 'mix' for the mean of all"
    )


@pytest.mark.parametrize("rate", [0, -1, 16000.5, "16000", None, True, 10**9])
def test_an_impossible_rate_is_refused(rate: Any) -> None:
    with pytest.raises(AudioError, match="expected a whole number of samples a second, such as 16000"):
        read_audio(TONE, rate)
    with pytest.raises(AudioError, match=r"the rate of the array is .*; expected a whole number"):
        read_audio((TONE, rate))


def test_unscaled_floats_are_refused() -> None:
    assert "the array has float samples up to 16" in (text := refusal(TONE * 32768))
    assert "divide by 32768" in text


@pytest.mark.parametrize("source", [None, 3, object(), np.zeros((2, 2, 2)), ["a"], [1, 2, 3], np.zeros(4, complex)])
def test_what_is_no_recording_is_refused(source: Any) -> None:
    assert "expected a path, bytes, or samples (n,) or (n, channels)" in refusal(source)


def test_a_swapped_pair_is_refused() -> None:
    assert "scipy's order is (rate, array)" in refusal((16000, TONE))
    assert "a pair (array, rate) was expected" in refusal((TONE, 16000, 1))


def test_an_entry_without_sound_is_refused() -> None:
    assert refusal({"text": "x"}) == "an audio entry needs 'array', 'bytes' or 'path'; this one has ['text']"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"block_s": 0}, "block_s=0 must be above 0 seconds"), ({"truncated": "yes"}, "truncated='yes' is neither")],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        open_audio(TONE, **options)
