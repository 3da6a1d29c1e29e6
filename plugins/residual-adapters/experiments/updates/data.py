"""The experiment's sound as manifests, written once: what teaches each set, general audio, dev and test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import synthetic
import words
from words import RATE, Division

from sltcore.data.examples import Example, read_examples
from sltcore.data.splits import fraction
from sltcore.experiment.units import write_json
from sltcore.spec.training import DataConfig

WHAT = ("dev", "test", "general-dev", "general-test")
LONGEST_S = 8.0
"""Of general training audio: longer utterances would crowd a batch."""


@dataclass(frozen=True)
class Data:
    """Manifests in `folder`, the sets of words, and how many utterances each manifest has."""

    folder: Path
    sets: tuple[tuple[str, ...], ...]
    facts: dict[str, Any]

    def path(self, name: str) -> Path:
        """A manifest."""
        return self.folder / f"{name}.csv"

    def examples(self, what: str) -> list[Example]:
        """Those of `dev`, `test`, `general-dev`, `general-test`."""
        return list(read_examples([DataConfig.model_validate({"manifest": str(self.path(what))})]))

    def count(self, name: str) -> int:
        """Utterances of a manifest."""
        return int(self.facts["utterances"][name])


def prepare(folder: Path, *, smoke: bool) -> Data:
    """The data in `folder`, made where they are not there yet."""
    done = folder / "data.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        synthetic.engine()  # before a minute of reading tells that it is missing
        division, sets = words.division()
        words.check(division, sets)
        write_json(done, _write(folder, division, sets, smoke=smoke))
    facts = json.loads(done.read_text(encoding="utf-8"))
    return Data(folder, tuple(tuple(one) for one in facts["sets"]), facts)


def _write(folder: Path, found: Division, sets: words.Sets, *, smoke: bool) -> dict[str, Any]:
    most = 12 if smoke else None
    parts: dict[str, Sequence[Example]] = {f"real-{k}": taught for k, taught in enumerate(found.train, 1)}
    parts["general"] = [e for e in found.general_train if e.seconds <= LONGEST_S][: 40 if smoke else None]
    measured = (found.dev, found.test, found.general_dev, found.general_test)
    for name, held in zip(WHAT, measured, strict=True):
        parts[name] = sorted(held, key=lambda e: fraction(e.item.id))[:most]
    counts, seconds = {}, {}
    for name, examples in parts.items():
        words.write_manifest(folder / f"{name}.csv", words.sounds(examples, name))
        counts[name], seconds[name] = len(examples), sum(e.seconds for e in examples)
    for k, own in enumerate(sets, 1):
        rows = list(synthetic.utterances(own, f"synthetic-{k}"))
        words.write_manifest(folder / f"synthetic-{k}.csv", rows)
        counts[f"synthetic-{k}"] = len(rows)
        seconds[f"synthetic-{k}"] = sum(len(samples) for _, samples, _, _ in rows) / RATE
    said = {name: sum(len(words.text_of(e).split()) for e in parts[name]) for name in WHAT}
    return {
        "sets": [list(one) for one in sets], "utterances": counts, "seconds": seconds, "words": said,
        "occurrences": words.counts(found, sets),
    }  # fmt: skip
