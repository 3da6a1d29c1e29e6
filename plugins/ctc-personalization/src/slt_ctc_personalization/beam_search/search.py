"""CTC prefix beam search with phrases, an n-gram language model and a lexicon, compiled and parallel over utterances."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.beam_search.beam_session import BeamSession
from slt_ctc_personalization.beam_search.confidences import with_confidences
from slt_ctc_personalization.beam_search.settings import UNKNOWN_WORD_LOG_PROB, PhraseTable, Settings
from slt_ctc_personalization.phrases.phrases import Phrase
from sltcore.errors import DataError, PluginError, ShapeError, StreamError
from sltcore.types import Hypothesis, NBest

if TYPE_CHECKING:
    from slt_ctc_personalization.beam_search.beam_state import BeamState, Clock
    from slt_ctc_personalization.evidence.evidence import Evidence
    from slt_ctc_personalization.language_model.ngram import NgramModel
    from slt_ctc_personalization.lexicon.lexicon_trie import LexiconTrie


class BeamSearch:
    """The most probable texts of CTC log-probabilities, with what is known beside the sound.

    A hypothesis is a text: a label sequence y without blanks and repeats, where a word boundary at the start, at the
    end, or after another one adds nothing; with a lexicon, a word sequence. Its score is

        ln sum_{alignments a of y} prod_t p(a_t | t)
        + sum_{words w} [lm_weight (ln p(w | history) + unknown(w)) + word_bonus] + lm_weight ln p(</s> | history)
        + bonus of the phrases in y  (rule: module `phrases`)

    `boosting` says what a phrase of n labels earns: `fixed`: its `bonus`; `depth-scaled`: with b = `per_label` the sum
    over its labels i of `b * (1 if i == 1 else depth_scaling) + ln i`, lent label by label while it is read; `utterance`:
    `bonus * (evidence_floor + (1 - evidence_floor) * the most that is heard of it in the utterance)`; `windowed`: the
    same with what is heard from `window_before` frames before its last label until `window_after` frames behind it, on
    the best alignment alone (module `windowed_engine`, which states that score).

    `unknown(w)` is `unknown_word_log_prob * max(1, characters of w / 6)` for a word that is neither in the language
    model nor in a phrase of the list, else 0: a long unknown word pays like the words it may have swallowed; without a language model the middle line is absent. With a lexicon the first sum also runs over the
    pronunciations of the words and, where `word_boundary` is given, over its presence between words: the label is
    optional there. With `lm_unit="token"` each label is a word of the language model.

    The search keeps `beam` hypotheses for each frame: prefixes of label sequences, equal ones merged. Labels below
    `token_min_log_prob` are not tried, except the likeliest, blank and repeats, and labels that a begun phrase expects;
    hypotheses more than `-beam_prune_log_prob` below the best are dropped. With both limits at -inf and a beam that
    holds everything the result is exact. With `n_best=1` a
    hypothesis is dropped, too, when another one with the same future (language model state, part of a word, last label)
    is ahead and no mass can arrive any more. `look_ahead` lets a part of a word already count its likeliest completion
    (unigram); it changes what is dropped, never a score; None: where there is a lexicon. `excluded` labels are never written.

    **Source**: prefix search: Graves et al., "Connectionist temporal classification", 2006; with a language model:
    Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs",
    2014. Penalties and default weights follow pyctcdecode. Deviations: prefixes ending in blank and in a label share
    one place in the beam; a repeated boundary is no new prefix; all scores are natural logs.

    **Raises** `VocabularyError` for labels, a lexicon or a language model that do not fit together, `PluginError` for
    settings out of range.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        blank: int,
        word_boundary: int | None = None,
        word_mark: str | None = "▁",
        excluded: Sequence[int] = (),
        beam: int = 100,
        token_min_log_prob: float = -5.0,
        beam_prune_log_prob: float = -10.0,
        lm: NgramModel | None = None,
        lm_unit: str = "word",
        lm_weight: float = 0.5,
        word_bonus: float = 1.5,
        unknown_word_log_prob: float = UNKNOWN_WORD_LOG_PROB,
        look_ahead: bool | None = None,
        lexicon: LexiconTrie | None = None,
        threads: int | None = None,
        n_best: int = 1,
        boosting: str = "fixed",
        depth_scaling: float = 2.0,
        evidence_floor: float = 0.0,
        window_before: int = 100,
        window_after: int = 10,
    ) -> None:
        self.settings = Settings(
            labels=tuple(labels),
            blank=blank,
            word_boundary=word_boundary,
            word_mark=word_mark,
            excluded=frozenset(excluded),
            beam=beam,
            token_min_log_prob=token_min_log_prob,
            beam_prune_log_prob=beam_prune_log_prob,
            lm=lm,
            lm_unit=lm_unit,
            lm_weight=lm_weight,
            word_bonus=word_bonus,
            unknown_word_log_prob=unknown_word_log_prob,
            look_ahead=lexicon is not None if look_ahead is None else look_ahead,
            lexicon=lexicon,
            n_best=n_best,
            boosting=boosting,
            depth_scaling=depth_scaling,
            evidence_floor=evidence_floor,
            window_before=window_before,
            window_after=window_after,
        )
        if threads is not None and threads < 1:
            raise PluginError(f"beam search: threads is {threads}; give at least 1, or None for one for each processor")
        self.n_best = n_best
        self.threads = threads if threads is not None else os.cpu_count() or 1
        self._engine: Any = _make_engine(self.settings)
        self._plain: PhraseTable = self._engine.prepare(())
        self._idle: list[BeamState] = []  # states of finished utterances; list.pop and append are atomic

    def prepare(self, phrases: Sequence[Phrase]) -> PhraseTable:
        """Check a list of phrases and build its automaton: once for a list, not for each call.

        **Raises** `VocabularyError` for a phrase without a usable path, with a label that is never written, or with a
        bonus that is negative or not finite.
        """
        if not phrases:
            return self._plain
        self.settings.check_phrases(phrases)
        table: PhraseTable = self._engine.prepare(phrases)
        return table

    def reweighed(self, table: PhraseTable, gates: npt.ArrayLike) -> PhraseTable:
        """`table` with the bonus of phrase k multiplied by `gates[k]`, float32 [k] from 0 to 1.

        Gates of 1 give the same tables bit for bit; a gate of 0 gives those of a list without that phrase. About 1 ms
        for 5,000 phrases. **Raises** `ShapeError` for another number of gates, `DataError` for one out of range,
        `PluginError` with windowed boosting, whose gates come with the frames.
        """
        values = np.ascontiguousarray(gates, np.float32)
        if values.shape != (len(table),):
            raise ShapeError(f"gates has shape {values.shape}, expected ({len(table)},): one for each phrase")
        if values.size and not (values.min() >= 0.0 and values.max() <= 1.0):
            raise DataError(f"gates run from {values.min():g} to {values.max():g}; expected numbers from 0 to 1")
        found: PhraseTable = self._engine.reweighed(table, values)
        return found

    def decode(
        self,
        log_probs: Any,
        lengths: Any = None,
        *,
        phrases: PhraseTable | Sequence[PhraseTable | None] | None = None,
        evidence: Sequence[Evidence | None] | None = None,
        frame_shift_s: float = 1.0,
        offset_s: float = 0.0,
    ) -> list[NBest]:
        """The n-best list of each utterance.

        **Shapes**: `log_probs` [b t v] natural log, float32 array or tensor; `lengths` [b] frames, None: all t.
        `phrases`: one table for all, or one for each utterance. `evidence`: for each utterance what is heard of its
        phrases, one row a frame; utterance-level and windowed boosting need it. Times of the hypotheses are in seconds:
        frame i begins at `offset_s + i * frame_shift_s`; they say where a word's labels were emitted, from the frames at
        which its first and last label entered the hypothesis most strongly.

        With `n_best` above 1 each hypothesis has `extra["confidence"]`, and `extra["word_confidences"]` where it has
        words: see `confidences.with_confidences`. An utterance of length zero gives the empty text. **Raises**
        `ShapeError` for another shape or a length beyond t, `DataError` for NaN, +inf, a frame without any probability,
        or evidence that is missing or does not fit, `PluginError` for evidence that would have no effect.
        """
        values, counts = self._check_batch(log_probs, lengths)
        tables = self._tables(phrases, len(values))
        heard = [None] * len(values) if evidence is None else list(evidence)
        if len(heard) != len(values):
            raise ShapeError(f"evidence has {len(heard)} entries, but log_probs holds {len(values)} utterances")
        heard = [self.check_evidence(heard[i], tables[i], counts[i], f"utterance {i}") for i in range(len(values))]
        from slt_ctc_personalization.beam_search.beam_state import Clock

        clock = Clock(frame_shift_s, offset_s)
        jobs = [(values[i, : counts[i]], tables[i], heard[i], clock) for i in range(len(values))]
        if not jobs:
            return []
        first = self._decode_one(jobs[0])
        workers = min(self.threads, len(jobs) - 1)
        if workers <= 1:
            return [first, *map(self._decode_one, jobs[1:])]
        with ThreadPoolExecutor(workers) as pool:
            return [first, *pool.map(self._decode_one, jobs[1:])]

    def open(
        self, *, phrases: PhraseTable | None = None, frame_shift_s: float = 1.0, offset_s: float = 0.0
    ) -> BeamSession:
        """A streaming search over one utterance; its result equals `decode` of the whole bit for bit.

        **Raises** `StreamError` for utterance-level boosting, whose bonuses are known at the end only.
        """
        if self.settings.boosting == "utterance":
            raise StreamError(
                "boosting 'utterance' weighs a phrase by the whole utterance and cannot stream; take boosting 'windowed', "
                "or decode whole utterances"
            )
        from slt_ctc_personalization.beam_search.beam_state import Clock

        return BeamSession(self, self._tables(phrases, 1)[0], Clock(frame_shift_s, offset_s))

    def check_frames(self, log_probs: Any, what: str) -> npt.NDArray[np.float32]:
        """[t v] as a contiguous float32 array without NaN and +inf."""
        values = _array(log_probs)
        if values.ndim != 2 or values.shape[1] != len(self.settings.labels):
            raise ShapeError(
                f"{what} has shape {tuple(values.shape)}, expected (t, v) with v = {len(self.settings.labels)} labels"
            )
        _refuse_nan(values, what)
        return values

    def check_evidence(self, evidence: Evidence | None, table: PhraseTable, frames: int, what: str) -> Any:
        """Evidence that fits `frames` and the phrases of `table`; none where there is no phrase and it is needed."""
        settings = self.settings
        if not settings.needs_evidence:
            if evidence is not None:
                raise PluginError(
                    f"{what}: evidence would have no effect with boosting {settings.boosting!r}; take boosting 'utterance' or "
                    "'windowed', or give none"
                )
            return None
        from slt_ctc_personalization.evidence.evidence import check_evidence, nothing

        if len(table) == 0:
            return nothing(frames)
        if evidence is None:
            raise DataError(
                f"{what}: {len(table)} phrases but no evidence; boosting {settings.boosting!r} pays a phrase by what is heard of "
                "it; give evidence, or take boosting 'fixed'"
            )
        check_evidence(evidence, frames, len(table), f"{what}: evidence")
        return evidence

    def _check_batch(self, log_probs: Any, lengths: Any) -> tuple[npt.NDArray[np.float32], list[int]]:
        values = _array(log_probs)
        size = len(self.settings.labels)
        if values.ndim != 3 or values.shape[2] != size:
            raise ShapeError(f"log_probs has shape {tuple(values.shape)}, expected (b, t, v) with v = {size} labels")
        frames = values.shape[1]
        if lengths is None:
            counts = [frames] * len(values)
        else:
            counts = [int(length) for length in lengths]
        if len(counts) != len(values):
            raise ShapeError(f"lengths has {len(counts)} entries, but log_probs holds {len(values)} utterances")
        for index, count in enumerate(counts):
            if not 0 <= count <= frames:
                raise ShapeError(f"lengths[{index}] is {count}, but log_probs has {frames} frames; give 0 to {frames}")
            _refuse_nan(values[index, :count], f"log_probs[{index}]")
        return values, counts

    def _tables(self, phrases: Any, size: int) -> list[PhraseTable]:
        found = [phrases] * size if phrases is None or isinstance(phrases, PhraseTable) else list(phrases)
        if len(found) != size:
            raise ShapeError(f"phrases has {len(found)} tables, but log_probs holds {size} utterances")
        for table in found:
            if table is not None and not isinstance(table, PhraseTable):
                raise PluginError(
                    f"phrases: expected what prepare returned, found {type(table).__name__}; call prepare first"
                )
            if table is not None and table.owner is not self.settings:
                raise PluginError("phrases: this table was prepared by another BeamSearch; prepare it with this one")
        return [self._plain if table is None else table for table in found]

    def _decode_one(self, job: tuple[npt.NDArray[np.float32], PhraseTable, Any, Clock]) -> NBest:
        values, table, evidence, clock = job
        if evidence is not None:
            table, evidence = self._follow(table, evidence)
        try:
            state = self._idle.pop()
        except IndexError:
            state = self._engine.open(table)
        self._engine.reset(state, table)
        if len(values):
            self.read(state, table, values, evidence)
        found = self.finish(state, table, clock)
        self._idle.append(state)
        return found

    def _follow(self, table: PhraseTable, evidence: Evidence) -> tuple[PhraseTable, Any]:
        """The table and the evidence that the search of a whole utterance reads."""
        from slt_ctc_personalization.evidence.evidence import of_utterance, windowed

        settings = self.settings
        if settings.boosting == "windowed":
            return table, windowed(evidence, before=settings.window_before, after=settings.window_after)
        if len(table) == 0:
            return table, None
        floor = settings.evidence_floor
        return self.reweighed(table, floor + (1.0 - floor) * of_utterance(evidence, len(table))), None

    def read(self, state: BeamState, table: PhraseTable, values: npt.NDArray[np.float32], evidence: Any) -> None:
        """Move a state over frames [t v]; `evidence` is what windowed boosting pays by, already windowed."""
        if evidence is None:
            self._engine.advance(state, table, values)
        else:
            self._engine.advance(state, table, values, evidence)

    def finish(self, state: BeamState, table: PhraseTable, clock: Clock) -> NBest:
        """The n-best list of a state that has read all frames."""
        found = self._engine.best(state, table, self.n_best, clock) or [Hypothesis("", -np.inf)]
        return NBest(with_confidences(found) if self.n_best > 1 else found)

    @property
    def engine(self) -> Any:
        """The search behind the checks: over labels, or over a lexicon's words."""
        return self._engine


def _make_engine(settings: Settings) -> Any:
    if settings.boosting == "windowed":
        from slt_ctc_personalization.beam_search.windowed_engine import WindowedEngine

        return WindowedEngine(settings)
    if settings.lexicon is not None:
        from slt_ctc_personalization.beam_search.word_engine import WordEngine

        return WordEngine(settings)
    from slt_ctc_personalization.beam_search.label_engine import LabelEngine

    return LabelEngine(settings)


def _array(log_probs: Any) -> npt.NDArray[np.float32]:
    values = log_probs.detach().cpu().numpy() if hasattr(log_probs, "detach") else np.asarray(log_probs)
    if values.dtype.kind != "f":
        raise ShapeError(f"log_probs has type {values.dtype}, expected floating-point natural-log probabilities")
    values = np.ascontiguousarray(values, dtype=np.float32)
    return values if values.flags.writeable else values.copy()


def _refuse_nan(values: npt.NDArray[np.float32], what: str) -> None:
    if values.size and not values.max() < np.inf:
        frame, label = (int(i) for i in np.argwhere(~(values < np.inf))[0])
        raise DataError(
            f"{what} holds {values[frame, label]} at frame {frame}, label {label}; expected natural-log probabilities "
            "(finite, or -inf)"
        )


__all__ = ["BeamSearch", "BeamSession", "Phrase", "PhraseTable"]
