"""What `ctc_beam.py` demands of quality and of time, and how its figures are judged."""

from __future__ import annotations

from typing import Any, NamedTuple

from ctc_beam_data import Corpus, word_errors

from slt_ctc_personalization.metrics.listed_words import ListedWords

OURS, FAST, HABIT = "ctc-beam", "ctc-beam-decoder", "pyctcdecode"
WER_SLACK, F1_SLACK = 0.1, 0.5
FASTER = {FAST: {100: 3.0, 5_000: 5.0}, HABIT: {100: 20.0, 5_000: 100.0}}
COST, BUILDING_S = 3.0, 1.0
COUNTS = ("errors", "words", "hits", "extra", "missed")

_metrics: dict[tuple[str, ...], ListedWords] = {}


class Bar(NamedTuple):
    """A figure beside its limit."""

    text: str
    figure: float
    limit: str
    met: bool


def quality(corpus: Corpus, texts: list[str], count: int, frames: int) -> dict[str, float]:
    """WER, and precision, recall and F1 of the words of the list of `count`, in percent, with what they are made of.

    The reference of a piece of `frames` is the words that end within it.
    """
    said = [" ".join(word for word, _, end in spans if end <= frames) for spans in corpus.spans[: len(texts)]]
    errors = [word_errors(reference, text) for reference, text in zip(said, texts, strict=True)]
    counts = {
        "errors": sum(e for e, _ in errors),
        "words": sum(n for _, n in errors),
        "hits": 0,
        "extra": 0,
        "missed": 0,
    }
    if count:
        key = tuple(corpus.phrases[count])
        metric = _metrics.setdefault(key, ListedWords(key, punctuation=True))
        found = [metric.count(reference, text)[:3] for reference, text in zip(said, texts, strict=True)]
        for place, name in enumerate(("hits", "extra", "missed")):
            counts[name] = sum(row[place] for row in found)
    return counts | rates(counts)


def rates(counts: dict[str, Any]) -> dict[str, float]:
    """WER, precision, recall, F1 in percent of summed counts."""
    hits, extra, missed = counts["hits"], counts["extra"], counts["missed"]
    return {
        "wer": 100.0 * counts["errors"] / max(counts["words"], 1),
        "precision": 100.0 * hits / max(hits + extra, 1),
        "recall": 100.0 * hits / max(hits + missed, 1),
        "f1": 200.0 * hits / max(2 * hits + extra + missed, 1),
    }


def peer_bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """Ours beside each peer: time and, for ctc-beam-decoder, quality for each list; the few pieces that pyctcdecode reads
    are put together over the lists, so that one word does not decide."""
    bars = []
    for alphabet, lm in dict.fromkeys((row["alphabet"], row["lm"]) for row in rows):
        cell = [row for row in rows if (row["alphabet"], row["lm"]) == (alphabet, lm)]
        where = f"{alphabet}, {'3-gram' if lm else 'no lm'}"
        pooled: dict[str, list[dict[str, Any]]] = {OURS: [], HABIT: []}
        for count in sorted({row["phrases"] for row in cell}):
            for peer, piece in ((FAST, "whole"), (HABIT, HABIT)):
                both = [_row(cell, name, count, piece) for name in (OURS, peer)]
                mine, other = both
                if mine is None or other is None:
                    continue
                text = f"{where}, {count} phrases"
                if count in FASTER[peer]:
                    ratio, limit = other["ms"] / mine["ms"], FASTER[peer][count]
                    bars.append(Bar(f"{text}: times faster than {peer}", ratio, f">= {limit:g}", ratio >= limit))
                if peer == FAST:
                    bars += _quality_bars(text, peer, mine, other, listed=count > 0)
                else:
                    pooled[OURS].append(mine)
                    pooled[HABIT].append(other)
        if pooled[HABIT]:
            mine, other = ({name: sum(row[name] for row in pooled[who]) for name in COUNTS} for who in (OURS, HABIT))
            text = f"{where}, all lists ({mine['words']} words)"
            bars += _quality_bars(text, HABIT, mine | rates(mine), other | rates(other), listed=True)
    return bars


def _row(rows: list[dict[str, Any]], name: str, count: int, piece: str) -> dict[str, Any] | None:
    found = [row for row in rows if (row["engine"], row["phrases"], row["piece"]) == (name, count, piece)]
    return found[0] if found else None


def _quality_bars(text: str, peer: str, mine: dict[str, Any], other: dict[str, Any], *, listed: bool) -> list[Bar]:
    worse, lost = mine["wer"] - other["wer"], other["f1"] - mine["f1"]
    bars = [Bar(f"{text}: WER minus {peer}'s, points", worse, f"<= {WER_SLACK:g}", worse <= WER_SLACK)]
    if listed:
        bars.append(Bar(f"{text}: F1 behind {peer}'s, points", lost, f"<= {F1_SLACK:g}", lost <= F1_SLACK))
    return bars


def cost_bars(costs: list[dict[str, Any]], building: list[dict[str, Any]]) -> list[Bar]:
    """What a list costs; the aim of twice an utterance without one is printed beside the bar. Rows with a crowd of heard
    phrases are there to be read, not judged."""
    bars = []
    for row in costs:
        if row["crowded"]:
            continue
        where = f"{row['alphabet']}, {'3-gram' if row['lm'] else 'no lm'}, {row['boosting']}"
        text = f"{where}: cost of {row['phrases']} phrases over none, times"
        bars.append(Bar(text, row["times"], f"<= {COST:g}, aim 2", row["times"] <= COST))
    for row in building:
        text = f"{row['alphabet']}: seconds to build {row['phrases']} phrases"
        bars.append(Bar(text, row["building_s"], f"< {BUILDING_S:g}", row["building_s"] < BUILDING_S))
    return bars
