"""The committed transducer: small, whole, and it reads English that it never heard."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jiwer
import pytest

import sltcore
from sltcore.errors import BundleError

BUNDLE = Path(__file__).parents[1] / "bundles" / "english-transducer"
SAID = (
    "it was the best of times it was the worst of times it was the age of wisdom it was the age of foolishness "
    "it was the epoch of belief it was the epoch of incredulity it was the season of light it was the season of darkness "
    "it was the spring of hope it was the winter of despair we had everything before us we had nothing before us"
)


@pytest.fixture(scope="module")
def recording() -> str:
    """A man reads Dickens, 44 s; of no corpus that it was trained on."""
    spec = importlib.util.find_spec("moonshine_voice")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the recording is in the wheel moonshine-voice: pip install --no-deps moonshine-voice")
    return str(Path(spec.submodule_search_locations[0]) / "assets" / "two_cities.wav")


def read(recording: str, *overrides: str) -> str:
    text: str = sltcore.load(BUNDLE, overrides=overrides)(recording).text
    return text


def character_errors(text: str) -> float:
    """Of the first sentence, whose part of the text is found by cutting where the fewest errors are."""
    words = text.split()
    return min(jiwer.cer(SAID, " ".join(words[:count])) for count in range(len(SAID.split()) // 2, len(words) + 1))


def test_it_has_at_most_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()) <= 10_000_000


def test_it_reads_a_voice_that_it_never_heard_and_a_beam_reads_it_no_worse(recording: str) -> None:
    greedy, beam = character_errors(read(recording)), character_errors(read(recording, "decoder.search=beam"))
    assert greedy < 0.3
    assert beam <= greedy


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in BUNDLE.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(BUNDLE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        sltcore.load(copy)
