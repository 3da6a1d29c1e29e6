"""What ours pays for a list, by kind of boosting: CPU time for each utterance, building, and memory."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from ctc_beam_data import Corpus
from ctc_beam_engines import Ours, Piece, evidence_of
from ctc_beam_subwords import Alphabet

from slt_ctc_personalization.evidence.evidence import Evidence, windowed
from slt_ctc_personalization.language_model.ngram import NgramModel

PHRASES, MANY = 5_000, 20_000
IN_A_ROW, CROWDED = 20, 100
"""Phrases in a row of evidence as the search reads it; with windowed boosting that row holds what was heard within the
window, several times what is heard in a frame."""
CASES = (("fixed", 0), ("utterance", IN_A_ROW), ("windowed", IN_A_ROW), ("windowed", CROWDED))


def measure_costs(
    alphabet: Alphabet, lm: NgramModel | None, corpus: Corpus, beam: int, weight: float, *, utterances: int, rounds: int
) -> list[dict[str, Any]]:
    """For each boosting the CPU time of an utterance without phrases and with 5,000 of one weight, in turn."""
    words, frames = corpus.phrases[PHRASES], corpus.log_probs.shape[1]
    piece, found = Piece("test", utterances, frames), []
    for boosting, row_size in CASES:
        ours = Ours(alphabet, lm, beam, {"test": corpus.log_probs}, boosting=boosting)
        table = ours.table(words, weight)
        settings = ours.search.settings
        before, after = (settings.window_before, settings.window_after) if boosting == "windowed" else (0, 0)
        evidence: list[Evidence | None] = [None] * utterances
        active = 0.0
        if row_size:
            heard = [
                evidence_of(spans, words, frames, alphabet, window=before + after, row_size=row_size, seed=index)
                for index, spans in enumerate(corpus.spans[:utterances])
            ]
            active = len(windowed(heard[0], before=before, after=after).phrase) / frames
            evidence = [*heard]
        ours.decode(Piece("test", 1, frames), table, evidence[:1])
        none, many = [], []
        for _ in range(rounds):
            none.append(ours.decode(piece, None, [None] * utterances).seconds)
            many.append(ours.decode(piece, table, evidence).seconds)
        row = {"alphabet": alphabet.name, "lm": lm is not None, "boosting": boosting, "phrases": PHRASES}
        row |= {"weight": weight, "row_size": row_size, "in_a_row": active, "crowded": row_size == CROWDED}
        row |= {"none_ms": 1000 * float(np.median(none, axis=0).mean())}
        row |= {"ms": 1000 * float(np.median(many, axis=0).mean())}
        row["times"] = row["ms"] / row["none_ms"]
        heard_text = f", {active:.0f} of them heard at a time" if row_size else ""
        print(
            f"  {alphabet.name:<10} {'3-gram' if lm else 'no lm '} {boosting:<9} no phrases {row['none_ms']:7.3f} ms, "
            f"{PHRASES} phrases {row['ms']:7.3f} ms: {row['times']:.2f} times (w {weight:g}{heard_text})",
            flush=True,
        )
        found.append(row)
    return found


def measure_building(alphabet: Alphabet, lm: NgramModel, corpus: Corpus, beam: int) -> dict[str, Any]:
    """CPU seconds from 20,000 texts to label paths and from those to a table, and the table's bytes for 1,000 phrases."""
    ours = Ours(alphabet, lm, beam, {"test": corpus.log_probs})
    words = corpus.phrases[MANY]
    ours.search.prepare(ours.spelled(words[:100], 10.0))
    spelling, building = [], []
    for _ in range(3):
        begin = time.process_time()
        phrases = ours.spelled(words, 10.0)
        middle = time.process_time()
        table = ours.search.prepare(phrases)
        spelling.append(middle - begin)
        building.append(time.process_time() - middle)
    paths = sum(len(phrase.paths) for phrase in phrases) / len(phrases)
    row = {"alphabet": alphabet.name, "phrases": len(phrases), "paths_each": paths, "nbytes": table.nbytes}
    row |= {"spelling_s": statistics.median(spelling), "building_s": statistics.median(building)}
    row["kib_per_1000"] = table.nbytes / 1024 / (len(phrases) / 1000)
    print(
        f"  {alphabet.name}: {len(phrases)} phrases spelled in {row['spelling_s']:.2f} s ({paths:.1f} paths each), built in "
        f"{row['building_s']:.2f} s, {row['kib_per_1000']:.0f} KiB for 1,000 phrases",
        flush=True,
    )
    return row


def measure_floor(corpus: Corpus) -> float:
    """Seconds to read one utterance's log-probabilities."""
    times = []
    for _ in range(9):
        begin = time.process_time()
        for _ in range(20):
            float(corpus.log_probs.max())
        times.append((time.process_time() - begin) / 20 / len(corpus.log_probs))
    return statistics.median(times)
