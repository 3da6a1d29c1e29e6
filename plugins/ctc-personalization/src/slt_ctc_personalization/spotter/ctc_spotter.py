"""Decoder `ctc-spotter`: greedy CTC decoding, in which the phrases of a list that are heard replace what was written."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slt_ctc_personalization.beam_search.ctc_greedy_boost import Run, reading, runs_of
from slt_ctc_personalization.phrases.prepared_phrases import PHRASES, PhraseLists
from slt_ctc_personalization.phrases.spelling import Speller
from slt_ctc_personalization.spotter.spotter import Hit, Spotter, SpotterTable
from sltcore import ctc
from sltcore.context import per_utterance
from sltcore.errors import PluginError, ShapeError, StreamError
from sltcore.interfaces import Decoder, Session
from sltcore.types import ContextKey, Encoded, Hypothesis, NBest, Port, Targets
from sltcore.vocabulary import Vocabulary, word_spans

Frames = npt.NDArray[np.float32]


class ListedPhrases(NamedTuple):
    """A list as the spotter hears it: texts, their label paths, and what each label of a phrase earns."""

    table: SpotterTable
    texts: tuple[str, ...]
    paths: tuple[tuple[tuple[int, ...], ...], ...]
    weights: tuple[float, ...]


class Unit(NamedTuple):
    """A word (or a label, where labels form no words) in the frames `begin` to `end - 1`; `hit` where a phrase is."""

    begin: int
    end: int
    text: str
    tokens: tuple[int, ...]
    hit: Hit | None = None


class Replacement:
    """Which hits replace which units of a text.

    In the order of their scores, a hit is taken unless it overlaps one that was taken, or its score is at most
    `greedy_weight` times the labels of the units that it would replace. Two stretches overlap when they share at least
    the part `overlap` of the shorter. The score of greedy units, relative to the best path, is 0: they are that path.
    """

    def __init__(self, *, greedy_weight: float, overlap: float) -> None:
        """**Raises** `PluginError` for a weight below 0, or a part that is not above 0 and at most 1."""
        if not 0.0 <= greedy_weight < float("inf") or not 0.0 < overlap <= 1.0:
            raise PluginError(
                f"ctc-spotter: greedy_weight is {greedy_weight} and overlap {overlap}; give a weight from 0, and a part "
                f"above 0, up to 1"
            )
        self.greedy_weight = greedy_weight
        self.overlap = overlap

    def overlapping(self, begin: int, end: int, stretches: Sequence[tuple[int, int]]) -> range:
        """Those of `stretches` that [begin, end) overlaps. They stand in order and overlap none of each other, so those
        that do are neighbours."""
        first = bisect_right(stretches, begin, key=lambda stretch: stretch[1])
        stop = bisect_left(stretches, end, key=lambda stretch: stretch[0])

        def shared(index: int) -> bool:
            other_begin, other_end = stretches[index]
            common = min(end, other_end) - max(begin, other_begin)
            return common >= self.overlap * min(end - begin, other_end - other_begin)

        while first < stop and not shared(first):
            first += 1
        while first < stop and not shared(stop - 1):
            stop -= 1
        return range(first, stop)

    def chosen(self, units: Sequence[Unit], hits: Sequence[Hit]) -> tuple[list[Hit], set[int]]:
        """The hits that are taken, in order, and the places of the units that they replace."""
        stretches = [(unit.begin, unit.end) for unit in units]
        taken: list[Hit] = []
        spans: list[tuple[int, int]] = []
        replaced: set[int] = set()
        for hit in sorted(hits, key=lambda hit: (-hit.score, hit.begin, -hit.end, hit.phrase)):
            if self.overlapping(hit.begin, hit.end, spans):
                continue
            below = [place for place in self.overlapping(hit.begin, hit.end, stretches) if place not in replaced]
            if hit.score <= self.greedy_weight * sum(len(units[place].tokens) for place in below):
                continue
            insort(spans, (hit.begin, hit.end))
            taken.append(hit)
            replaced.update(below)
        return sorted(taken, key=lambda hit: (hit.begin, hit.end)), replaced


class CtcSpotter(Decoder, nn.Module):
    """Writes the best path, and over it the phrases of the list that are heard.

    `log_probs = log_softmax(head(values))`; their best path, collapsed, gives words (labels, where labels form no words), as
    decoder `ctc-greedy` does. A `Spotter` looks for the phrases in the same frames, mapped to the phones meant where the
    labels are phones; `Replacement` states which hits replace which words. A phrase is written as the list has it. There
    is no beam and no further search: one pass, whatever the head, and the words around a phrase stay as they were.

    Without phrases, and where none is heard, the result is that of `ctc-greedy`. The score is ln P of the best path, with
    the spotter's path over the frames of each phrase, without context weights.

    **Source**: NeMo CTC-WS, Andrusenko et al., arXiv:2406.07096; deviations: see `Spotter`.
    """

    def __init__(
        self,
        head: ctc.Head,
        spotter: Spotter,
        *,
        speller: Speller,
        replacement: Replacement,
        to_frames: Callable[[Frames], Frames] | None = None,
    ) -> None:
        """`to_frames` maps log-probabilities over the head's labels to those of the spotter; None: they are the same.

        `speller` writes phrases in the spotter's labels; its bonus is the spotter's context weight.
        """
        super().__init__()
        self.head = head.module
        self.d = head.d
        self._vocabulary = head.vocabulary
        self.spotter = spotter
        self.speller = speller
        self.replacement = replacement
        self._to_frames = to_frames
        known = {name: index for index, name in enumerate(head.vocabulary.labels)}
        self._ids = [known.get(name) for name in spotter.labels]
        self._lists = PhraseLists(self._listed, spotter)

    @property
    def consumes(self) -> Port:
        """Frames as wide as the head."""
        return Port("Encoded", {"d": self.d})

    @property
    def produces(self) -> Port:
        """One hypothesis for each utterance."""
        return Port("Hypotheses")

    @property
    def vocabulary(self) -> Vocabulary:
        """The head's labels."""
        return self._vocabulary

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`phrases`."""
        return (PHRASES,)

    def offers(self) -> Mapping[str, Any]:
        """`head` and `vocabulary`, for another search on the same posteriors."""
        return {"head": self.head, "vocabulary": self._vocabulary}

    def save_files(self) -> Mapping[str, bytes]:
        """`vocabulary.json`."""
        return ctc.vocabulary_file(self._vocabulary)

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check and build the phrase list once. **Raises** `ContextError` naming every phrase that cannot be spelled."""
        phrases = context.get(PHRASES.name)
        return context if phrases is None else {**context, PHRASES.name: self._lists.attached(phrases)}

    def listed(self, phrases: Any) -> ListedPhrases | None:
        """One list made ready, kept for the last few lists; None for none and an empty one."""
        found: ListedPhrases | None = self._lists.of(phrases)
        return found if found is not None and found.texts else None

    def _listed(self, phrases: Any) -> ListedPhrases:
        found = self.speller.phrases(phrases)
        # A phrase's bonus is for its first path; others earn the same for each label.
        weights = tuple(phrase.bonus / len(phrase.paths[0]) for phrase in found)
        paths = tuple(tuple(map(tuple, phrase.paths)) for phrase in found)
        table = self.spotter.prepare(paths, weights)
        return ListedPhrases(table, tuple(phrase.text for phrase in found), paths, weights)

    @property
    def _head(self) -> ctc.Head:
        return ctc.Head(self.head, self._vocabulary, self.d)

    def frames(self, encoded: Encoded) -> Frames:
        """Natural-log posteriors [b t v] float32; see `sltcore.ctc.log_probs`."""
        values: Frames = ctc.log_probs(self._head, encoded).detach().cpu().numpy()
        return values

    def heard(self, frames: Frames) -> Frames:
        """What the spotter hears of log-probabilities [t v]."""
        return frames if self._to_frames is None else self._to_frames(frames)

    @torch.no_grad()
    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        """One hypothesis for each utterance; see `written`."""
        lists = per_utterance(context, PHRASES, len(encoded.lengths))
        clock = {"frame_shift_s": encoded.frame_shift_s, "offset_s": encoded.offset_s}
        results = []
        for rows, length, phrases in zip(self.frames(encoded), encoded.lengths.tolist(), lists, strict=True):
            frames, listed = rows[:length], self.listed(phrases)
            hits = [] if listed is None else self.spotter.spot(self.heard(frames), listed.table)
            runs, total = best_path(frames, self._vocabulary.blank)
            results.append(NBest([self.written(runs, total, hits, listed, **clock)]))
        return results

    def written(
        self,
        runs: Sequence[Run],
        total: float,
        hits: Sequence[Hit],
        listed: ListedPhrases | None,
        *,
        frame_shift_s: float,
        offset_s: float,
    ) -> Hypothesis:
        """The text of a best path with the hits in it.

        Without a hit that counts it is what `ctc-greedy` gives. With one, `times` are those of the words (labels, where
        labels form no words) in `extra["words"]`, each phrase one of them; `extra["hits"]` has for each phrase its
        `phrase`, `begin_s`, `end_s`, `score` (natural log) and `value`. `tokens` are those of words and of phrases, with the
        word boundary between them.
        """
        vocabulary = self._vocabulary
        units = units_of(runs, vocabulary)
        taken, replaced = self.replacement.chosen(units, hits) if listed is not None and hits else ([], set[int]())
        if listed is None or not taken:
            return reading(runs, total, vocabulary, frame_shift_s=frame_shift_s, offset_s=offset_s)
        phrases = [self._phrase(hit, listed) for hit in taken]
        kept = [unit for place, unit in enumerate(units) if place not in replaced]
        together = sorted([*kept, *phrases], key=lambda unit: (unit.begin, unit.end))

        def seconds(frame: int) -> float:
            return max(0.0, round(offset_s + (frame - 0.5) * frame_shift_s, 6))

        found = [
            {
                "phrase": unit.text,
                "begin_s": seconds(unit.begin),
                "end_s": seconds(unit.end),
                "score": unit.hit.score,
                "value": unit.hit.value,
            }
            for unit in together
            if unit.hit is not None
        ]
        texts = tuple(unit.text for unit in together)
        spaced = vocabulary.kind != "characters" or vocabulary.boundary is not None
        return Hypothesis(
            text=(" " if spaced else "").join(texts),
            score=total + sum(self._log_prob(hit, listed) for hit in taken),
            tokens=_joined([unit.tokens for unit in together], vocabulary.boundary),
            times=tuple((seconds(unit.begin), seconds(unit.end)) for unit in together),
            extra={"words": texts, "hits": tuple(found)},
        )

    def _phrase(self, hit: Hit, listed: ListedPhrases) -> Unit:
        ids = (self._ids[label] for label in listed.paths[hit.phrase][hit.path])
        text = " ".join(listed.texts[hit.phrase].split())
        return Unit(hit.begin, hit.end, text, tuple(label for label in ids if label is not None), hit)

    def _log_prob(self, hit: Hit, listed: ListedPhrases) -> float:
        """ln of the phrase's path against the best path, in the spotter's labels."""
        return hit.score - listed.weights[hit.phrase] * len(listed.paths[hit.phrase][hit.path])

    def frames_needed(self, targets: Targets) -> Tensor:
        """Its labels, and one blank between equal neighbours: [b]."""
        return ctc.frames_needed(targets.ids, targets.lengths)

    def loss(self, encoded: Encoded, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        """CTC loss of each utterance: [b] float32 in nats; see `sltcore.ctc.training_loss`."""
        return ctc.training_loss(self._head, encoded, targets)

    def score(self, encoded: Encoded, hypotheses: Sequence[NBest]) -> Tensor:
        """ln P(text | frames), summed over all paths: [b k]; see `sltcore.ctc.forward_scores`."""
        return ctc.forward_scores(self._head, encoded, hypotheses)

    def open(self, context: Mapping[str, Any]) -> Session:
        """A session over chunks of one utterance's frames."""
        (phrases,) = per_utterance(context, PHRASES, 1)
        return CtcSpotterSession(self, self.listed(phrases))


class CtcSpotterSession(Session):
    """`ctc-spotter` over one utterance, chunk by chunk, in memory that grows with the text and the phrases heard only.

    `push` takes an `Encoded` with one utterance and returns the n-best list of everything so far, or None while it stays
    the same; a phrase is written when the spotter is sure of it (`Spotter`, `settle`). `finish` returns the list that
    `decode` gives on the whole.
    """

    def __init__(self, decoder: CtcSpotter, listed: ListedPhrases | None) -> None:
        self._decoder = decoder
        self._listed = listed
        self._spotting = None if listed is None else decoder.spotter.open(listed.table)
        self._runs: list[Run] = []
        self._hits: list[Hit] = []
        self._total = 0.0
        self._frames = 0
        self._last = decoder.vocabulary.blank
        self._timing: tuple[float, float] | None = None
        self._said: tuple[tuple[int, ...], int] = ((), 0)
        self._finished = False

    @torch.no_grad()
    def push(self, chunk: Encoded, **streams: Any) -> NBest | None:
        """Hear the next frames. **Raises** `StreamError` after `finish`, `ShapeError` for more than one utterance."""
        if self._finished:
            raise StreamError("this ctc-spotter session is finished; open another one")
        if len(chunk.lengths) != 1:
            raise ShapeError(f"a streaming chunk holds one utterance, got {len(chunk.lengths)}")
        if self._timing is None:
            self._timing = (chunk.frame_shift_s, chunk.offset_s)
        frames = self._decoder.frames(chunk)[0, : int(chunk.lengths[0])]
        if not len(frames):
            return None
        self._read(frames)
        if self._spotting is not None:
            self._hits += self._spotting.push(self._decoder.heard(frames))
        state = (tuple(run.label for run in self._runs), len(self._hits))
        if state == self._said:
            return None
        self._said = state
        return self._nbest()

    def _read(self, frames: Frames) -> None:
        """The best path goes on; a run that a chunk's border cut is one run."""
        runs, total = best_path(frames, self._decoder.vocabulary.blank)
        shifted = [run._replace(start=run.start + self._frames, stop=run.stop + self._frames) for run in runs]
        if shifted and shifted[0].start == self._frames and shifted[0].label == self._last:
            before, now = self._runs.pop(), shifted[0]
            shifted[0] = before._replace(stop=now.stop, score=max(before.score, now.score))
        self._runs += shifted
        self._total += total
        self._frames += len(frames)
        self._last = int(frames[-1].argmax())

    def finish(self) -> NBest:
        """The n-best list of the whole. **Raises** `StreamError` when called twice."""
        if self._finished:
            raise StreamError("this ctc-spotter session is finished already; open another one")
        self._finished = True
        if self._spotting is not None:
            self._hits += self._spotting.finish()
        return self._nbest()

    def _nbest(self) -> NBest:
        shift, offset = self._timing or (0.0, 0.0)
        written = self._decoder.written(
            self._runs, self._total, self._hits, self._listed, frame_shift_s=shift, offset_s=offset
        )
        return NBest([written])


def best_path(frames: Frames, blank: int) -> tuple[list[Run], float]:
    """The runs of the best path through [t v], without the blank's, and its log-probability."""
    path = frames.argmax(axis=1)
    values = frames[np.arange(len(path)), path]
    return runs_of(path, values, blank), float(values.sum(dtype=np.float64))


def units_of(runs: Sequence[Run], vocabulary: Vocabulary) -> list[Unit]:
    """The words of a best path, or its labels where labels form no words; special labels are none."""
    tokens = tuple(run.label for run in runs)
    spans = word_spans(tokens, vocabulary)
    if spans is None:
        spans = [(place, place + 1) for place, token in enumerate(tokens) if token not in vocabulary.special]
    return [
        Unit(runs[first].start, runs[stop - 1].stop, vocabulary.decode(tokens[first:stop]), tokens[first:stop])
        for first, stop in spans
    ]


def _joined(rows: Sequence[tuple[int, ...]], boundary: int | None) -> tuple[int, ...]:
    between = () if boundary is None else (boundary,)
    return tuple(label for place, row in enumerate(rows) for label in (*(between if place else ()), *row))
