"""The experiment's recordings as frames of the frozen encoder, in manifests that are written once."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from kept_frames import RATE_HZ, SCALE, SHIFT_S
from roles import dialogue_of_line, lines_by_dialogue, unit_of_dialogue

from slt_speech.hama.network import HamaConformer
from sltcore.audio import read_audio
from sltcore.data.examples import Example, read_examples
from sltcore.data.normalization import normalized
from sltcore.data.splits import fraction
from sltcore.experiment.units import write_json
from sltcore.spec.training import DataConfig
from sltcore.types import Waveform

SHORTEST_S, LONGEST_S = 0.4, 12.0
TEST_SHARE = 0.4
"""Of the units, by a hash of their names."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PRETENDED_DEV = 8
"""Dialogues whose lines of the hero are looked at when settings are chosen."""


@dataclass(frozen=True)
class Line:
    """An utterance of the experiment."""

    example: Example
    text: str
    unit: str


@dataclass(frozen=True)
class Data:
    """Manifests in `folder`: spoken, public-dev, silent, private, test, pretended, pretended-dev."""

    folder: Path
    facts: dict[str, Any]

    def path(self, name: str) -> Path:
        """A manifest."""
        return self.folder / f"{name}.csv"

    def examples(self, name: str, *, shown: bool = True) -> list[Example]:
        """Its rows; their texts are left out where they are not `shown`."""
        found = list(read_examples([DataConfig.model_validate({"manifest": str(self.path(name))})]))
        return found if shown else [one._replace(item=one.item._replace(text=None)) for one in found]


def prepare(folder: Path, *, smoke: bool) -> Data:
    """The data in `folder`, made where they are not there yet."""
    done = folder / "data.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(done, _write(folder, smoke=smoke))
    return Data(folder, json.loads(done.read_text(encoding="utf-8")))


def is_test(unit: str) -> bool:
    """Whether a unit is heard and never learned from."""
    return fraction(unit) < TEST_SHARE


def _write(folder: Path, *, smoke: bool) -> dict[str, Any]:
    network = HamaConformer(weights="hama-1.7.0").eval()
    sets = {**_public(), **_of_the_game()}
    facts: dict[str, Any] = {}
    for name, lines in sets.items():
        chosen = sorted(lines, key=lambda one: fraction(one.example.item.id)) if smoke else lines
        chosen = chosen[: 60 if smoke else None]
        seconds = _frames(folder / f"{name}.csv", chosen, network)
        facts[name] = {
            "utterances": len(chosen), "minutes": seconds / 60, "units": len({one.unit for one in chosen}),
            "words": sum(len(one.text.split()) for one in chosen),
        }  # fmt: skip
    return facts


def _fits(example: Example) -> bool:
    return SHORTEST_S <= example.seconds <= LONGEST_S


def _of_the_game() -> Mapping[str, list[Line]]:
    """Other roles by unit; the hero's lines by dialogue, as if each were a unit, for choosing settings.

    No text of the test is learned from, nor one of the pretended test.
    """
    units = unit_of_dialogue()
    spoken = lines_by_dialogue()
    lines = [
        Line(example, str(example.item.text), units[dialogue])
        for dialogue, found in spoken.items()
        if dialogue in units
        for example in found
        if _fits(example) and example.item.text
    ]
    test = [one for one in lines if is_test(one.unit)]
    heard = {one.text for one in test}
    private = [one for one in lines if not is_test(one.unit) and one.text not in heard]
    hero = _heroes(spoken[None])
    names = sorted({one.unit for one in hero}, key=lambda name: (-sum(one.unit == name for one in hero), name))
    learned = names[: len({one.unit for one in private})]
    looked_at = names[len(learned) : len(learned) + PRETENDED_DEV]
    dev = [one for one in hero if one.unit in looked_at]
    said = {one.text for one in dev}
    return {
        "private": private, "test": test, "pretended-dev": dev,
        "pretended": [one for one in hero if one.unit in learned and one.text not in said],
    }  # fmt: skip


def _heroes(examples: Sequence[Example]) -> list[Line]:
    place = dialogue_of_line()
    return [
        Line(example, str(example.item.text), f"hero-{place[example.item.id][0]}")
        for example in examples
        if _fits(example) and example.item.text
    ]


def _public() -> Mapping[str, list[Line]]:
    root = Path(os.environ["SLT_DATA"])
    corpora = [
        *_read({"corpus": "asterisk-en", "split": "train"}),
        *_read({"corpus": "librispeech-mini", "split": "train"}),
        *_read({"dataset": str(root / "kathleen_en" / "train.parquet")}, "kathleen"),
    ]
    digits = _read({"dataset": str(root / "fsdd" / "train.parquet"), "limit": 200}, "fsdd")
    spoken = corpora + [
        Line(one.example, DIGITS[int(str(one.example.item.extra["digit"]))], one.unit) for one in digits
    ]
    dev = [
        *_read({"corpus": "asterisk-en", "split": "test"}),
        *_read({"corpus": "librispeech-mini", "split": "test"}),
        *_read({"dataset": str(root / "kathleen_en" / "test.parquet")}, "kathleen"),
    ]
    silent = _read({"dataset": str(root / "librispeech_mini" / "speakers_untranscribed" / "train.parquet")}, "libri")
    said = {one.text for one in dev}
    return {
        "spoken": [one for one in spoken if one.text and one.text not in said],
        "public-dev": [one for one in dev if one.text],
        "silent": [Line(one.example, "", one.unit) for one in silent],
    }


def _read(entry: dict[str, Any], source: str = "") -> list[Line]:
    found = []
    for example in read_examples([DataConfig.model_validate(entry)]):
        if _fits(example):
            text = normalized(str(example.item.text), "en") if source and example.item.text else example.item.text
            found.append(Line(example, text or "", f"{source or entry['corpus']}-{example.item.speaker or 'one'}"))
    return found


def _frames(path: Path, lines: Sequence[Line], network: HamaConformer) -> float:
    """Write a manifest and its frames; their seconds."""
    place = path.with_suffix("")
    place.mkdir(exist_ok=True)
    rows, total = [], 0.0
    for number, (line, frames) in enumerate(zip(lines, _encoded(lines, network), strict=True)):
        name = f"{path.stem}-{number:04d}"
        soundfile.write(place / f"{name}.wav", frames.reshape(-1) / SCALE, RATE_HZ, subtype="FLOAT")
        seconds = len(frames) * SHIFT_S
        total += seconds
        rows.append([name, f"{place.name}/{name}.wav", line.text, line.unit, f"{seconds:.3f}"])
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "audio", "text", "unit", "seconds"], *rows])
    part.rename(path)
    return total


@torch.inference_mode()
def _encoded(lines: Sequence[Line], network: HamaConformer) -> Iterator[np.ndarray[Any, Any]]:
    """Frames [t 144] of each recording, from the whole of it."""
    for line in lines:
        samples = torch.from_numpy(read_audio(line.example.item.source, network.sample_rate_hz).samples)[None]
        encoded = network(Waveform(samples, torch.tensor([samples.shape[1]]), network.sample_rate_hz), {})
        frames = encoded.values[0, : int(encoded.lengths[0])].numpy()
        assert float(np.abs(frames).max()) < SCALE
        yield frames
