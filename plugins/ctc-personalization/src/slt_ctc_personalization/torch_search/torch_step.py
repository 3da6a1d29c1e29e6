"""One frame of the label search for all hypotheses of all utterances at once; what it computes is `kernel`'s frame.

The candidates of a frame are the hypotheses themselves, and each of them with each admitted label or label that its
begun phrase expects. A bound on what a candidate can reach picks `width` of them for each utterance, which are then
scored exactly. Whether the bound of one that was left out reaches the beam is noted (`missed`), never waited for: the
caller looks once, at the end, and searches again with a larger width. Nothing here asks the device for a number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slt_ctc_personalization.beam_search.candidates import MARK_EDGES, TOKEN_LM, Options
from slt_ctc_personalization.beam_search.prefix_tree import ABSORBS, NONEMPTY
from slt_ctc_personalization.torch_search.torch_beams import (
    DONE,
    EARNED,
    FLAGS,
    FLOATS,
    FUSED,
    HASH,
    HASH_ABOVE,
    INTS,
    KEY,
    LISTED,
    LM,
    NO_HASH,
    NODE,
    PHRASE,
    ROOT_HASH,
    Frame,
    History,
    Hypotheses,
    Picked,
)  # fmt: skip
from slt_ctc_personalization.torch_search.torch_scores import PrefixScores
from slt_ctc_personalization.torch_search.torch_survivors import relate, survive
from slt_ctc_personalization.torch_search.torch_tables import Automata, Labels, Ngrams, Trie

SLACK = 1e-6
"""Added to bounds: they are sums of the same numbers as the scores, in another order."""


class LabelStep:
    """The tables of a batch and the frame's computation; `width` is the number of candidates that are scored exactly."""

    def __init__(
        self,
        options: Options,
        labels: Labels,
        spellings: Trie,
        listed: Trie,
        automata: Automata,
        ngrams: Ngrams | None,
        *,
        width: int,
    ) -> None:
        self.scores = PrefixScores(options, labels, spellings, listed, automata, ngrams)
        self.options, self.automata, self.ngrams, self.width = options, automata, ngrams, width
        self.begun = automata.chain > 0
        bonus = max(options.word_bonus, 0.0)
        gain = torch.full_like(labels.letters, 0, dtype=torch.float64)
        if options.lm_unit == TOKEN_LM:
            gain += bonus
        else:
            gain[labels.starts] += bonus
            if options.boundary >= 0:
                gain[options.boundary] += bonus
            if options.look_ahead:
                gain += bonus
        self.gain = gain

    def begin(self, size: int) -> Hypotheses:
        """The empty text, for each utterance."""
        options, automata = self.options, self.automata
        k, device = options.beam, automata.device
        ints = torch.zeros((size, k, INTS), dtype=torch.int64, device=device)
        ints[..., KEY] = -1
        ints[..., HASH], ints[..., HASH_ABOVE] = ROOT_HASH, NO_HASH
        ints[..., FLAGS] = ABSORBS if options.boundary >= 0 else 0
        ints[..., LM] = self.ngrams.start if self.ngrams is not None else 0
        ints[..., LISTED] = automata.root[:, None]
        ints[..., PHRASE] = automata.start[:, None]
        blank = torch.full((size, k), -torch.inf, dtype=torch.float64, device=device)
        label = blank.clone()
        blank[:, 0] = 0.0
        zeros = torch.zeros((size, k, FLOATS), dtype=torch.float64, device=device)
        bases = torch.zeros((size, k, automata.spans), dtype=torch.float64, device=device)
        parent = torch.full((size, k), -1, dtype=torch.int64, device=device)
        return Hypotheses(ints, zeros, bases, blank, label, blank.clone(), parent, parent >= 0)

    def advance(self, beams: Hypotheses, frame: Frame, history: History) -> tuple[Hypotheses, Tensor]:
        """The beams after a frame, and for each utterance whether a candidate was `missed`: [b] bool.

        `history` is written in place.
        """
        options = self.options
        ints, fused = beams.ints, beams.floats[..., FUSED]
        key, absorbs = ints[..., KEY], (ints[..., FLAGS] & ABSORBS) > 0
        silence = frame.row[:, options.blank, None]
        both = torch.logaddexp(silence, frame.row[:, options.boundary, None]) if options.boundary >= 0 else silence
        silent = beams.total + torch.where(absorbs, both, silence)
        heard = torch.where(key >= 0, frame.row.gather(1, key.clamp(min=0)), -torch.inf)
        spoken = torch.where(absorbs, -torch.inf, beams.label + heard)
        top = (torch.maximum(silent, spoken) + fused).amax(1, keepdim=True)
        least = top + options.prune
        edges = self.scores.close_phrases(beams, less=0)
        earned = beams.floats[..., EARNED]
        if options.edges == MARK_EDGES:
            earned = torch.where((ints[..., FLAGS] & NONEMPTY) > 0, torch.maximum(earned, edges[1]), earned)
        picked = self._pick(beams, frame, earned, least)
        new_ints, new_floats, new_bases = self.scores.extend(beams, picked, edges)
        new_score = picked.mass + new_floats[..., FUSED]
        reached = new_score.new_full(key.shape, -torch.inf).scatter_reduce(1, picked.owner, new_score, "amax")
        arriving, floor = self._arrive(beams, frame, earned, heard, reached, least)
        if self.begun:  # labels that only phrases expect, and that are not worth it beside what came before
            idle = picked.hope < floor.gather(1, picked.owner)
            picked = picked._replace(mass=torch.where(idle, -torch.inf, picked.mass))
            new_score = torch.where(idle, -torch.inf, new_score)
        self._keep_times(beams, history, frame.number, silent, spoken, arriving, reached >= least)
        blank = torch.where(absorbs, torch.logaddexp(silent, arriving), silent)
        label = torch.where(absorbs, -torch.inf, torch.logaddexp(spoken, arriving))
        is_border = picked.label == options.boundary
        blank = torch.cat([blank, torch.where(is_border, picked.mass, -torch.inf)], 1)
        label = torch.cat([label, torch.where(is_border, -torch.inf, picked.mass)], 1)
        total = torch.logaddexp(blank, label)
        score = total + torch.cat([fused, new_floats[..., FUSED]], 1)
        source, living, threshold = survive(options, score)
        wide = source[..., None]
        kept = Hypotheses(
            torch.cat([ints, new_ints], 1).gather(1, wide.expand(-1, -1, INTS)),
            torch.cat([beams.floats, new_floats], 1).gather(1, wide.expand(-1, -1, FLOATS)),
            torch.cat([beams.bases, new_bases], 1).gather(1, wide.expand(-1, -1, beams.bases.shape[2]))
            if self.begun
            else beams.bases,
            torch.where(living, blank.gather(1, source), -torch.inf),
            torch.where(living, label.gather(1, source), -torch.inf),
            torch.where(living, total.gather(1, source), -torch.inf),
            beams.parent,
            beams.has_child,
        )
        missed = (picked.rest >= threshold[:, 0]) & (picked.rest > -torch.inf)
        fresh = (new_score >= least).logical_and_(new_score > -torch.inf).any(1, keepdim=True)
        return relate(options, self.automata, kept, source >= ints.shape[1], fresh, frame.number, history), missed

    def _pick(self, beams: Hypotheses, frame: Frame, earned: Tensor, least: Tensor) -> Picked:
        """The most promising candidates that are no hypotheses yet."""
        options, automata = self.options, self.automata
        size, k, labels = len(least), options.beam, frame.row.shape[1]
        ints = beams.ints
        label = frame.tokens[:, None].expand(-1, k, -1)
        value = frame.values[:, None].expand(-1, k, -1)
        reach = beams.floats[..., DONE] + earned
        hope = torch.full_like(value, torch.inf)
        if self.begun:
            expected, worth, hoped = self._expected(beams, frame, beams.total + reach, least)
            label, value = torch.cat([label, expected], 2), torch.cat([value, worth], 2)
            hope = torch.cat([hope, hoped], 2)
            reach = reach + automata.reach[ints[..., PHRASE] + automata.shift[:size, None]]
        reach = reach + SLACK
        columns = label.shape[2]
        mass = torch.where(label == ints[..., KEY, None], beams.blank[..., None], beams.total[..., None]) + value
        bound = mass + reach[..., None] + self.gain[label]
        place = torch.arange(k, device=label.device)[:, None] * labels
        known = torch.zeros((size, k * labels + 1), dtype=torch.bool, device=label.device)
        taken = torch.where(beams.parent >= 0, beams.parent * labels + ints[..., KEY], k * labels)
        known = known.scatter_(1, taken, True).gather(1, (place + label).view(size, -1)).view(label.shape)
        useless = known | (bound < least[..., None])
        if options.boundary >= 0:
            useless |= (label == options.boundary) & ((ints[..., FLAGS, None] & ABSORBS) > 0)
        bound = torch.where(useless, -torch.inf, bound).view(size, -1)
        width = min(self.width, bound.shape[1])
        rest, hope = torch.full_like(least[:, 0], -torch.inf), hope.view(size, -1)
        if width < bound.shape[1]:
            values, index = bound.topk(width + 1, dim=1)
            rest, index = values[:, -1], index[:, :-1].sort(dim=1).values
            mass, label = mass.view(size, -1).gather(1, index), label.reshape(size, -1).gather(1, index)
            bound, hope = bound.gather(1, index), hope.gather(1, index)
        else:
            index = torch.arange(bound.shape[1], device=label.device).expand(size, -1)
            mass, label = mass.view(size, -1), label.reshape(size, -1)
        mass = torch.where(bound > -torch.inf, mass, -torch.inf)
        return Picked(index.div(columns, rounding_mode="floor"), label, mass, hope, rest)

    def _expected(self, beams: Hypotheses, frame: Frame, own: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Labels [b k m] that begun phrases expect, their log-probability, -inf where they need not be tried, and what
        the hypothesis can reach with them."""
        label, credit = self.automata.expected_labels(beams.ints[..., PHRASE])
        flat = label.view(len(label), -1)
        value = frame.row.gather(1, flat).view(label.shape)
        hope = own[..., None] + value + credit + self.gain[label]
        tried = ~frame.admitted.gather(1, flat).view(label.shape) & (credit > -torch.inf) & (hope >= least[..., None])
        return label, torch.where(tried, value, -torch.inf), hope

    def _arrive(
        self, beams: Hypotheses, frame: Frame, earned: Tensor, heard: Tensor, reached: Tensor, least: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mass that comes to hypotheses by their last label from their parents in the beam: [b k], -inf for none; and
        the score [b k] that labels behind each hypothesis must reach if only phrases expect them."""
        parent, key = beams.parent.clamp(min=0), beams.ints[..., KEY]
        same = key == key.gather(1, parent)
        mass = torch.where(same, beams.blank.gather(1, parent), beams.total.gather(1, parent)) + heard
        mass = torch.where(beams.parent >= 0, mass, -torch.inf)
        label = key.clamp(min=0)
        tried = frame.admitted.gather(1, label)
        if not self.begun:
            return torch.where(tried, mass, -torch.inf), least
        # The compiled search tries a label that only a phrase expects when it may still count beside what the
        # hypotheses before this one, and their labels, have reached.
        known = torch.where(tried, mass + beams.floats[..., FUSED], -torch.inf)
        reached = reached.scatter_reduce(1, parent, known, "amax").cummax(1).values
        reached = torch.cat([torch.full_like(least, -torch.inf), reached[:, :-1]], 1)
        floor = torch.maximum(reached + self.options.prune, least)
        own = beams.total + beams.floats[..., DONE] + earned
        own = own.gather(1, parent) + self.gain[label]
        credit = self.automata.expected_credit(beams.ints[..., PHRASE].gather(1, parent), label)
        tried |= (own + heard + credit >= floor.gather(1, parent)) & (credit > -torch.inf)
        return torch.where(tried, mass, -torch.inf), floor

    @staticmethod
    def _keep_times(
        beams: Hypotheses,
        history: History,
        number: int,
        silent: Tensor,
        spoken: Tensor,
        arriving: Tensor,
        grown: Tensor,
    ) -> None:
        """First and last frame of the hypotheses' last labels; `grown` [b k]: which of them have new prefixes now."""
        size = len(silent)
        node = beams.ints[..., NODE]
        # The compiled search goes through the beam in order and leaves the times of a prefix that has grown.
        earlier = torch.arange(node.shape[1], device=node.device) < beams.parent
        again = (arriving > torch.maximum(silent, spoken)) & ~beams.has_child & ~(grown & earlier)
        start, last = history.start[:size], history.last[:size]
        start.scatter_(1, node, torch.where(again, number, start.gather(1, node)))
        last.scatter_(1, node, torch.where(again | (spoken > silent), number, last.gather(1, node)))
