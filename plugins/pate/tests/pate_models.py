"""Small models for the tests of queries and training: tables instead of networks, and tiny pipelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

import sltcore
from sltcore.data.examples import Example
from sltcore.interfaces import Decoder
from sltcore.types import Encoded, Hypothesis, Item, NBest, Port
from sltcore.vocabulary import Vocabulary, characters

RATE_HZ = 8000
FRONT_END = {"use": "log-mel", "n_mels": 16, "sample_rate_hz": RATE_HZ}
LSTM = {"use": "lstm", "hidden": 16, "layers": 1, "dropout": 0.0, "frontend": FRONT_END}
TONES_HZ = {"a": 400, "b": 900, "c": 1700, "d": 2700}


def pipeline(decoder: Mapping[str, Any], *, seed: int = 0) -> Any:
    """An LSTM of 16 units with a decoder of the labels a to d."""
    return sltcore.load(
        {"slt": 1, "kind": "pipeline", "seed": seed, "encoder": LSTM, "decoder": {"characters": "abcd", **decoder}}
    )


def tone(text: str, seed: int) -> np.ndarray:
    """0.12 s of a tone for each letter, with noise."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(int(0.12 * RATE_HZ)) / RATE_HZ
    samples = 0.2 * np.concatenate([np.sin(2 * np.pi * TONES_HZ[letter] * time_s) for letter in text])
    return (samples + generator.normal(0, 0.01, len(samples))).astype(np.float32)


def utterance(folder: Path, name: str, text: str, *, speaker: str | None = None, shown: bool = True) -> Example:
    """A recording of tones as an example; without its text where it is not shown."""
    path = folder / f"{name}.wav"
    samples = tone(text, len(list(folder.glob("*.wav"))))
    soundfile.write(path, samples, RATE_HZ)
    return Example(Item(name, str(path), text if shown else None, speaker), len(samples) / RATE_HZ)


class StepTable(Decoder, nn.Module):
    """A decoder with the step interface: the next label depends on the last one, by a table [v v] of log-probabilities."""

    consumes, produces = Port("Encoded"), Port("Hypotheses")
    labels = Vocabulary(["<pad>", "<s>", "</s>", "x", "y"], kind="characters", blank=0, special=[1, 2])

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table.double().log_softmax(-1)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.labels

    def decode(self, encoded: Any, context: Mapping[str, Any]) -> list[NBest]:
        return [NBest([Hypothesis("x")]) for _ in encoded.lengths]

    def start(self, encoded: Encoded | None) -> Any:
        return ()

    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        return self.table[tokens], state


class Model:
    """As much of a pipeline as the queries use: an encoder that gives frames as they come, and a decoder."""

    def __init__(self, decoder: Any, frames: Callable[[Any], Tensor] | None = None) -> None:
        self.parts = {"encoder": self._encode, "decoder": decoder}
        self._frames = frames or (lambda source: torch.zeros(3, 2))

    def read(self, item: Any) -> Any:
        return item.source

    def batch(self, values: Sequence[Any]) -> Any:
        return values

    def using(self, context: Any) -> Any:
        return nullcontext()

    def _encode(self, batch: Sequence[Any], context: Any) -> Encoded:
        rows = [self._frames(source) for source in batch]
        values = torch.zeros(len(rows), max(map(len, rows)), rows[0].shape[1])
        for row, each in zip(values, rows, strict=True):
            row[: len(each)] = each
        return Encoded(values, torch.tensor([len(row) for row in rows]), 0.04)


class CtcTable(Decoder, nn.Module):
    """A CTC decoder whose head passes the frames on: the encoder's frames are the logits."""

    consumes, produces = Port("Encoded"), Port("Hypotheses")

    def __init__(self, letters: str = "ab") -> None:
        super().__init__()
        self.labels = characters([letters])
        self.head = nn.Identity()
        self.head.in_features = len(self.labels)  # type: ignore[assignment]

    @property
    def vocabulary(self) -> Vocabulary:
        return self.labels

    def decode(self, encoded: Any, context: Mapping[str, Any]) -> list[NBest]:
        raise NotImplementedError


class Sayer:
    """A model that reads what it is told: texts by id of the item, best first."""

    def __init__(self, says: Mapping[str, Sequence[str]]) -> None:
        self.says = says

    def run(self, items: Sequence[Any], *, count: int | None = None) -> Any:
        for item in items:
            texts = self.says[item.id]
            yield SimpleNamespace(value=NBest(Hypothesis(text, -float(k)) for k, text in enumerate(texts)))


def item(name: str, source: Any = None) -> Item:
    """A public utterance without a text."""
    return Item(name, source)
