"""The package's files: found without an import, checked, read exactly; anything else is refused with the remedy."""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from slt_speech.hama import labels, weights
from sltcore.errors import DataError

REMEDY = r'pip install "hama==1\.7\.0"$'


def test_weights_are_read_without_importing_the_package() -> None:
    code = (
        "import sys; from slt_speech.hama.weights import read_weights; from slt_speech.hama.labels import read_labels; "
        "read_labels(); assert len(read_weights()) == 119; assert not {'hama', 'torch'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


def test_missing_package_is_refused_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"package hama 1\.7\.0, which is not installed: " + REMEDY):
        weights.pretrained_state()


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let `folder` stand for the installed package."""
    (folder / "assets").mkdir()
    found = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)


def test_other_weights_are_refused_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = bytearray(weights.package_file(weights.WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    install(monkeypatch, tmp_path)
    (tmp_path / weights.WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(DataError, match=r"sha256 a9fcfe73e179….*has another \(sha256 [0-9a-f]{12}….*: " + REMEDY):
        weights.pretrained_state()


def test_package_without_weights_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=r"has no assets/asr_waveform\.hama; 1\.7\.0 has it: " + REMEDY):
        weights.read_weights()


def test_package_with_other_labels_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path)
    (tmp_path / labels.LABELS_FILE).write_text('{"decoder": ["a", "b"]}')
    with pytest.raises(DataError, match=r"lists 2 phones, expected 189: " + REMEDY):
        labels.read_labels.__wrapped__()


def hama_file(tensors: dict[str, np.ndarray]) -> bytes:
    """An independent writer of the format."""
    header, data = b"HAMAPK\x01\x02" + struct.pack("<I", len(tensors)), b""
    for name, array in tensors.items():
        encoded = name.encode()
        header += struct.pack("<H", len(encoded)) + encoded + bytes([array.dtype == np.float16, array.ndim])
        header += struct.pack(f"<{array.ndim}I", *array.shape) + struct.pack("<QQ", len(data), array.nbytes)
        data += array.tobytes()
    return header + b"\0" * (-len(header) % 16) + data


def test_reader_gives_what_was_written() -> None:
    rng = np.random.default_rng(0)
    written: dict[str, np.ndarray] = {
        "a": rng.standard_normal((3, 4)).astype(np.float32),
        "bé": rng.standard_normal(5).astype(np.float16),
        "c": rng.standard_normal((2, 1, 2)).astype(np.float32),
    }
    found = weights.read_tensors(hama_file(written), "file")
    assert list(found) == list(written)
    for name, array in written.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: b"RIFF" + content[4:], r"is not a \.hama file: it starts with b'RIFF"),
        (lambda content: content[:20], r"has a broken header"),
        (lambda content: content[:8] + b"\xff\xff\xff\x7f" + content[12:], r"has a broken header"),
        (lambda content: content[:-1], r"tensor a \(3, 4\) takes 48 bytes at 48, which a file of 95 bytes"),
        (lambda content: b"", r"is not a \.hama file"),
    ],
    ids=["magic", "cut header", "count", "cut data", "empty"],
)
def test_broken_files_are_refused(spoil: Callable[[bytes], bytes], message: str) -> None:
    content = hama_file({"a": np.zeros((3, 4), np.float32)})
    with pytest.raises(DataError, match=message + ".*: " + REMEDY):
        weights.read_tensors(spoil(content), "file")


def test_collapse_merges_repeats_then_drops_blanks() -> None:
    path = [190, 7, 7, 190, 7, 8, 8, 190, 190, 8]
    assert labels.collapse(path) == [(7, 1), (7, 4), (8, 5), (8, 9)]
    assert labels.collapse([]) == []
    assert labels.collapse([0, 0, 1], blank_id=0) == [(1, 2)]
