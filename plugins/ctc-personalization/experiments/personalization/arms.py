"""The arms: which frames they read, and which search. Every weight is chosen on dev by the same sweep."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from frames import Encodings

import sltcore
from sltcore.types import Encoded

SWEEP = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Natural-log score for each label of a listed word."""
PEER_SCALE = 10.0
"""Peers pay for a word, not for a label, and get so many times as much."""
LM_SWEEP = tuple((weight, bonus) for weight in (0.2, 0.4, 0.6) for bonus in (0.0, 1.5))


class Arm(NamedTuple):
    """`frames`: base or adapter. `decoder`: fields of the search. `weighted`: whether it has a weight to choose."""

    label: str
    frames: str
    decoder: Mapping[str, Any]
    weighted: bool = False
    role: str = ""
    lm: bool = True


SPOTTER_SWEEP = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
BEAM = {"use": "ctc-beam"}
ADAPTIVE = {**BEAM, "boosting": "utterance"}
ARMS: Mapping[str, Arm] = {
    "greedy": Arm("greedy", "base", {"use": "ctc-greedy"}, lm=False),
    "beam": Arm("beam", "base", BEAM, lm=False),
    "beam-lm": Arm("beam + LM", "base", BEAM),
    "greedy-boost": Arm("greedy + boosting", "base", {"use": "ctc-greedy-boost"}, weighted=True, lm=False),
    "spotter": Arm("word spotter", "base", {"use": "ctc-spotter"}, weighted=True, lm=False),
    "boosting": Arm("boosting alone (fixed)", "base", BEAM, weighted=True),
    "depth-scaled": Arm("boosting alone (depth-scaled)", "base", {**BEAM, "boosting": "depth-scaled"}, weighted=True),
    "phones": Arm("phone network alone", "base", {**ADAPTIVE, "evidence": "phones"}, weighted=True),
    "adapter": Arm("adapter alone", "adapter", BEAM),
    "adapter-boosting": Arm("adapter + boosting (fixed)", "adapter", BEAM, weighted=True),
    "adapter-adaptive": Arm(
        "adapter + boosting (adaptive)", "adapter", {**ADAPTIVE, "evidence": "attention"}, weighted=True
    ),
    "everything": Arm("everything (adaptive, utterance)", "adapter", {**ADAPTIVE, "evidence": "both"}, weighted=True),
    "everything-windowed": Arm(
        "everything (adaptive, windowed)",
        "adapter",
        {**BEAM, "boosting": "windowed", "evidence": "both"},
        weighted=True,
    ),
}


def sweep_of(arm: Arm) -> tuple[float, ...]:
    """The weights that are tried on dev, equally many for each arm."""
    return SPOTTER_SWEEP if arm.decoder["use"] == "ctc-spotter" else SWEEP


class Decoded(NamedTuple):
    """Texts in the order of the examples, and the CPU seconds of adapter and search."""

    texts: list[str]
    cpu_s: float


def fields_of(arm: Arm, weight: float | None, lm: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder block of an arm at a weight."""
    fields = dict(arm.decoder)
    if arm.lm:
        fields |= lm
    if weight is not None:
        fields[{"ctc-spotter": "context_weight"}.get(fields["use"], "phrase_bonus")] = weight
    if fields["use"] == "ctc-beam":
        fields["threads"] = 1
    return fields


def decoder_of(bundle: Path, fields: Mapping[str, Any]) -> Any:
    """The search, with the head that the bundle holds."""
    return sltcore.load(str(bundle), overrides=[f"decoder={json.dumps(fields)}"]).parts["decoder"]


Words = Sequence[str] | Sequence[Sequence[str]]
"""One list for all utterances, or a list for each of them."""


def list_of(words: Words, place: int) -> list[str]:
    """The list of the utterance at a place."""
    own = words[place] if words and not isinstance(words[0], str) else words
    return [str(word) for word in own]


@torch.no_grad()
def decode(decoder: Any, encodings: Encodings, frames: Sequence[Encoded], words: Words) -> Decoded:
    """Texts of all utterances. Making one list for all ready is not timed; making a list for each of them ready is."""
    shared = not words or isinstance(words[0], str)
    reads = bool(words) and "phrases" in {key.name for key in decoder.context_keys()}
    whole = dict(decoder.prepare({"phrases": list_of(words, 0)} if reads and shared else {}))

    def said(index: int) -> list[str]:
        own = (
            {"phrases": [list_of(words, place) for place in encodings.places[index]]} if reads and not shared else whole
        )
        return [nbest.text for nbest in decoder.decode(frames[index], own)]

    said(0)  # compile and warm up
    begin = time.process_time()
    found = [said(index) for index in range(len(frames))]
    seconds = time.process_time() - begin
    return Decoded(encodings.spread(found), seconds)


@torch.no_grad()
def adapted(adapter: Any, encodings: Encodings, words: Words) -> tuple[list[Encoded], float]:
    """The base's frames after the adapter with a list, and the CPU seconds it took; as in `decode`, one list for all is
    made ready before."""
    if isinstance(words[0], str):
        adapter.prepare({"phrases": list_of(words, 0)})
    begin = time.process_time()
    frames = [
        adapter.adapted(x, adapter.tables([list_of(words, place) for place in places]))
        for places, x in zip(encodings.places, encodings.batches, strict=True)
    ]
    return frames, time.process_time() - begin
