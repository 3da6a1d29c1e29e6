"""The scores of prefixes beside the sound, for all hypotheses and candidates of a batch at once."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from slt_ctc_personalization.beam_search.candidates import (
    LETTERS_OF_A_WORD,
    NO_EDGES,
    NO_LM,
    TOKEN_LM,
    WORD_LM,
    Options,
)
from slt_ctc_personalization.beam_search.prefix_tree import ABSORBS, NONEMPTY
from slt_ctc_personalization.torch_search.torch_beams import (
    ABOVE,
    DONE,
    EARNED,
    FLAGS,
    FLOATS,
    HASH,
    HASH_ABOVE,
    INTS,
    KEY,
    LETTERS,
    LISTED,
    LM,
    NODE,
    PHRASE,
    SPELL,
    Hypotheses,
    Picked,
    mixed,
)  # fmt: skip
from slt_ctc_personalization.torch_search.torch_tables import Automata, Labels, Ngrams, Trie


class Base(Protocol):
    """The type of a function from spans [b w] to the bonus earned before them [b w]."""

    def __call__(self, span: Tensor) -> Tensor: ...


class PrefixScores:
    """What is added to the acoustic score of prefixes: language model, unknown words, phrases; for all of a batch.

    Functions of a prefix alone, by the rules of `kernel` and `phrases`.
    """

    def __init__(
        self, options: Options, labels: Labels, spellings: Trie, listed: Trie, automata: Automata, ngrams: Ngrams | None
    ) -> None:
        self.options, self.labels, self.spellings, self.listed = options, labels, spellings, listed
        self.automata, self.ngrams = automata, ngrams
        self.edge = len(labels.letters)
        self.begun = automata.chain > 0

    def unknown(self, letters: Tensor) -> Tensor:
        """What an unknown word of so many characters adds to the score."""
        options = self.options
        return options.lm_weight * options.unknown * (letters / LETTERS_OF_A_WORD).clamp(min=1.0)

    def close_words(self, ints: Tensor, floats: Tensor) -> tuple[Tensor, Tensor]:
        """Language model and bonus of the word that ends each hypothesis: (done, model state)."""
        done, state = floats[..., DONE], ints[..., LM]
        if self.options.lm_unit != WORD_LM or self.ngrams is None:
            return done, state
        spelled, listed = ints[..., SPELL], ints[..., LISTED]
        word = torch.where(spelled >= 0, self.spellings.word[spelled.clamp(min=0)], 0)
        known = (word > 0) | ((listed >= 0) & (self.listed.word[listed.clamp(min=0)] > 0))
        log_prob, state = self.ngrams.step(state, word)
        done = done + (self.options.lm_weight * log_prob + self.options.word_bonus)
        return torch.where(known, done, done + self.unknown(ints[..., LETTERS])), state

    def close_phrases(self, beams: Hypotheses, *, less: int) -> tuple[Tensor, Tensor]:
        """Automaton state and earned bonus behind a silent word edge; `less` labels of the spans were not read."""
        state, earned = beams.ints[..., PHRASE], beams.floats[..., EARNED]
        if not self.begun:
            return state, earned
        state = self.automata.go_to(state, torch.full_like(state, self.edge))
        bases, shift = beams.bases, self.automata.shift[: len(state), None]

        def base(span: Tensor) -> Tensor:
            return bases.gather(2, (span - less - 1).clamp(min=0)[..., None])[..., 0]

        return state, self._earn(state, shift, base, earned)

    def _earn(self, state: Tensor, shift: Tensor, base: Base, earned: Tensor) -> Tensor:
        """Earned bonus after the phrases that end in `state`."""
        automata = self.automata
        start = automata.start[: len(state), None]
        state = automata.output[state + shift]
        for step in range(automata.outputs):
            at = torch.where(state >= 0, state, start)
            paid = base(automata.span[at]) + automata.bonus[at + shift]
            earned = torch.where(state >= 0, torch.maximum(earned, paid), earned)
            if step + 1 < automata.outputs:
                state = torch.where(state >= 0, automata.output[automata.fail[at] + shift], -1)
        return earned

    def _boost(self, state: Tensor, shift: Tensor, base: Base, earned: Tensor) -> Tensor:
        """Earned bonus, or credit for a phrase that has begun, whichever is more."""
        automata, best = self.automata, earned
        for step in range(automata.chain):
            credit = automata.credit[state + shift]
            best = torch.where(credit > 0.0, torch.maximum(best, base(automata.span[state]) + credit), best)
            if step + 1 < automata.chain:
                state = automata.fail[state]
        return best

    def extend(self, beams: Hypotheses, picked: Picked, edges: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The new prefixes [b w]: columns `ints` and `floats`, and `bases`."""
        options, labels = self.options, self.labels
        label, owner = picked.label, picked.owner[..., None]
        closed_done, closed_lm = self.close_words(beams.ints, beams.floats)
        edge_state, edge_earned = edges
        more = torch.stack([closed_lm, edge_state], 2)
        old = torch.cat([beams.ints, more], 2).gather(1, owner.expand(-1, -1, INTS + 2))
        sums = torch.cat([beams.floats, torch.stack([closed_done, edge_earned], 2)], 2)
        sums = sums.gather(1, owner.expand(-1, -1, FLOATS + 2))
        is_border = label == options.boundary
        behind_mark = labels.starts[label] & ((old[..., FLAGS] & NONEMPTY) > 0)
        closes = is_border | behind_mark
        done = torch.where(closes, sums[..., FLOATS], sums[..., DONE])
        lm = torch.where(closes, old[..., INTS], old[..., LM])
        spelled = torch.where(closes, 0, old[..., SPELL])
        root = self.automata.root[: len(label), None]
        listed = torch.where(closes, root, old[..., LISTED])
        letters = torch.where(closes, 0, old[..., LETTERS])
        flags = torch.where(closes, 0, old[..., FLAGS] & NONEMPTY)
        flags = torch.where(is_border, ABSORBS, torch.where(labels.letters[label] > 0, NONEMPTY, flags))
        letters = letters + labels.letters[label]
        pending = torch.zeros_like(done)
        if options.lm_unit == WORD_LM:
            characters = labels.characters[label]
            for place in range(characters.shape[2]):
                spelled = self.spellings.step(spelled, characters[..., place])
                listed = self.listed.step(listed, characters[..., place])
            pending = self._pending(spelled, listed, letters).masked_fill(is_border, 0.0)
        elif options.lm_unit == TOKEN_LM and self.ngrams is not None:
            log_prob, after = self.ngrams.step(lm, labels.word[label])
            done = torch.where(is_border, done, done + (options.lm_weight * log_prob + options.word_bonus))
            lm = torch.where(is_border, lm, after)
        earned = torch.where(behind_mark, sums[..., FLOATS + 1], sums[..., EARNED])
        state = torch.where(behind_mark, old[..., INTS + 1], old[..., PHRASE])
        state, after, bonus, bases = self._lend(beams, picked, state, earned)
        code = mixed(old[..., HASH], label)
        columns = [old[..., NODE], old[..., NODE], code, old[..., HASH], label, flags]
        ints = torch.stack([*columns, lm, spelled, listed, letters, state], 2)
        return ints, torch.stack([done, after, done + pending + bonus], 2), bases

    def _lend(
        self, beams: Hypotheses, picked: Picked, state: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What phrases do to new labels behind `state`: (state, earned bonus, bonus with credit, bases)."""
        if not self.begun:
            return state, own, own, beams.bases[:, :1].expand(-1, own.shape[1], -1)
        symbol = torch.where(picked.label == self.options.boundary, self.edge, picked.label)
        state = self.automata.go_to(state, symbol)
        shift = self.automata.shift[: len(state), None]
        spans = beams.bases.shape[2]
        bases = beams.bases.gather(1, picked.owner[..., None].expand(-1, -1, spans))
        bases = torch.cat([own[..., None], bases[..., :-1]], 2)

        def base(span: Tensor) -> Tensor:
            return bases.gather(2, (span - 1).clamp(min=0)[..., None])[..., 0]

        earned = self._earn(state, shift, base, own)
        return state, earned, self._boost(state, shift, base, earned), bases

    def _pending(self, spelled: Tensor, listed: Tensor, letters: Tensor) -> Tensor:
        """What a part of a word already counts: its likeliest completion, or the penalty when it has none."""
        options = self.options
        pending = torch.where((spelled < 0) & (listed < 0), self.unknown(letters), 0.0)
        if options.look_ahead:
            ahead = options.lm_weight * self.spellings.best[spelled.clamp(min=0)] + options.word_bonus
            pending = torch.where(spelled > 0, ahead, pending)
        return pending

    def finish(self, beams: Hypotheses) -> tuple[Tensor, Tensor]:
        """Scores [b k] of the hypotheses as complete texts, -inf where another one has the same, and their nodes."""
        options, ints = self.options, beams.ints
        absorbs = (ints[..., FLAGS] & ABSORBS) > 0
        done, state, earned = beams.floats[..., DONE], ints[..., LM], beams.floats[..., EARNED]
        if options.edges != NO_EDGES:
            ends = ~absorbs & ((ints[..., FLAGS] & NONEMPTY) > 0)
            closed, after = self.close_words(ints, beams.floats)
            done, state = torch.where(ends, closed, done), torch.where(ends, after, state)
            paid = self.close_phrases(beams, less=int(options.boundary >= 0))[1]
            earned = torch.where(ends, paid, earned)
        if options.lm_unit != NO_LM and self.ngrams is not None:
            done = done + options.lm_weight * self.ngrams.end(state)
        score = beams.total + done + earned
        shorter = absorbs & (ints[..., KEY] >= 0)
        text = torch.where(shorter, ints[..., HASH_ABOVE], ints[..., HASH])
        node = torch.where(shorter, ints[..., ABOVE], ints[..., NODE])
        same = text[..., None] == text[:, None]
        summed = torch.where(same, score[:, None], -torch.inf).logsumexp(2)
        alone = score > -torch.inf
        earlier = torch.ones_like(same[0]).tril(-1) & alone[:, None]
        return torch.where((same & earlier).any(2) | ~alone, -torch.inf, summed), node
