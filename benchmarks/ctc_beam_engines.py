"""The engines that `ctc_beam.py` compares, ours and the peers', behind one call; and what ours pays for a list."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from ctc_beam_subwords import SEGMENTATIONS, Alphabet

from slt_ctc_personalization.beam_search.search import BeamSearch
from slt_ctc_personalization.beam_search.settings import PhraseTable
from slt_ctc_personalization.evidence.evidence import Evidence, from_hits
from slt_ctc_personalization.language_model.ngram import NgramModel
from slt_ctc_personalization.phrases.spelling import LabelSpeller
from slt_ctc_personalization.spotter.spotter import Hit

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-bench"
SETTINGS = {"lm_weight": 0.5, "word_bonus": 1.5, "token_min": -5.0, "prune": -10.0}
HIT_S, TRUE_VALUE = 0.5, 0.9
"""How long a word that was not said is heard, and how surely one that was."""


class Said(NamedTuple):
    """CPU seconds of one thread and text of each utterance."""

    seconds: npt.NDArray[np.float64]
    texts: list[str]


class Piece(NamedTuple):
    """The first `frames` of the first `utterances` of a part of the data."""

    part: str
    utterances: int
    frames: int


class Engine(Protocol):
    """Decodes a piece of the data with a list of words, each worth `weight`."""

    def run(self, piece: Piece, words: Sequence[str], weight: float) -> Said:
        """One round."""


def prepare_environment() -> Path:
    """The peers' Python; made when it is missing."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "complete").exists():
        print(f"making {ENVIRONMENT.name} from requirements/bench.txt (once)", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        requirements = ROOT / "requirements" / "bench.txt"
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-r", requirements], check=True)
        (ENVIRONMENT / "complete").touch()
    return python


class Peer:
    """A peer in a process of its own that stays up, so that engines can take turns."""

    def __init__(self, name: str, data: Path, settings: dict[str, Any], folder: Path) -> None:
        self.name = name
        file = folder / f"{name}.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        command = [prepare_environment(), Path(__file__).with_name("ctc_beam_peer.py"), name, data, file]
        self._errors = (folder / f"{name}.txt").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def run(self, piece: Piece, words: Sequence[str], weight: float) -> Said:
        """One round in the peer's process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {**piece._asdict(), "words": list(words), "weight": weight}
        line = ""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass  # the process has ended: its own last words say why
        if not line:
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise SystemExit(f"{self.name} failed: {last[0] if last else 'it said nothing'}")
        found = json.loads(line)
        return Said(np.array(found["seconds"]), found["texts"])


class Ours:
    """Our search, one thread, with a list prepared once and with what is heard of its phrases where that counts."""

    def __init__(
        self, alphabet: Alphabet, lm: NgramModel | None, beam: int, parts: dict[str, npt.NDArray[np.float32]],
        boosting: str = "fixed",
    ) -> None:  # fmt: skip
        self.parts, self.alphabet = parts, alphabet
        self.search = BeamSearch(
            alphabet.labels, blank=0, word_boundary=alphabet.space, lm=lm, beam=beam, threads=1, boosting=boosting,
            lm_weight=SETTINGS["lm_weight"], word_bonus=SETTINGS["word_bonus"],
            token_min_log_prob=SETTINGS["token_min"], beam_prune_log_prob=SETTINGS["prune"],
        )  # fmt: skip
        self._kept: tuple[Any, PhraseTable] | None = None
        self.decode(Piece("test", 1, 50), None, [None])

    def table(self, words: Sequence[str], weight: float) -> PhraseTable:
        """The list made ready, with as many segmentations of a word as the decoder takes when nothing is said."""
        key = (len(words), weight)
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self.search.prepare(self.spelled(words, weight)))
        return self._kept[1]

    def spelled(self, words: Sequence[str], weight: float) -> list[Any]:
        """The list in label paths."""
        speller = LabelSpeller(self.alphabet.vocabulary, 1.0, segmentations=SEGMENTATIONS)
        return speller.phrases([{"text": word, "bonus": weight} for word in words])

    def run(self, piece: Piece, words: Sequence[str], weight: float) -> Said:
        """One round, with boosting that needs no evidence."""
        return self.decode(piece, self.table(words, weight), [None] * piece.utterances)

    def decode(self, piece: Piece, table: PhraseTable | None, heard: Sequence[Evidence | None]) -> Said:
        """One round with a table and with evidence for each utterance."""
        seconds, texts = [], []
        for x, evidence in zip(self.parts[piece.part][: piece.utterances, : piece.frames], heard, strict=True):
            given = None if evidence is None else [evidence]
            begin = time.process_time()
            found = self.search.decode(x[None], phrases=table, evidence=given)
            seconds.append(time.process_time() - begin)
            texts.append(found[0].text)
        return Said(np.array(seconds), texts)


def evidence_of(
    spans: Sequence[tuple[str, int, int]],
    words: Sequence[str],
    frames: int,
    alphabet: Alphabet,
    *,
    window: int,
    row_size: int,
    seed: int,
) -> Evidence:
    """What an adapter or a spotter might hear of a list in one utterance: listed words that were said, on their frames, and
    others by chance, half a second each with values from 0.05 to 0.6, so that about `row_size` phrases are heard within any
    `window` of frames."""
    rng = np.random.default_rng(seed)
    places = {word: place for place, word in enumerate(words)}
    hits = [Hit(places[word], begin, end, 0.0, TRUE_VALUE, 0) for word, begin, end in spans if word in places]
    length = round(HIT_S * alphabet.frames_per_s)
    for _ in range(max(round(row_size * frames / (length + window)) - len(hits), 0)):
        begin = int(rng.integers(0, frames - length))
        hits.append(Hit(int(rng.integers(len(words))), begin, begin + length, 0.0, float(rng.uniform(0.05, 0.6)), 0))
    return from_hits(hits, frames)
