"""The label search in torch: a whole batch at once, on a GPU or a CPU, with the results of the compiled search."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_ctc_personalization.beam_search.beam_state import Clock
from slt_ctc_personalization.beam_search.candidates import EXCLUDED
from slt_ctc_personalization.beam_search.confidences import with_confidences
from slt_ctc_personalization.beam_search.prefix_tree import KEY, LAST, NODE_INTS, START
from slt_ctc_personalization.beam_search.settings import PhraseTable
from slt_ctc_personalization.language_model.ngram import AUTOMATON, LAYOUT
from slt_ctc_personalization.torch_search.torch_beams import Frame, History, Hypotheses
from slt_ctc_personalization.torch_search.torch_step import LabelStep
from slt_ctc_personalization.torch_search.torch_tables import Automata, Labels, Ngrams, Structure, Trie, structure_of
from sltcore.errors import DataError, PluginError, ShapeError
from sltcore.types import Hypothesis, NBest

if TYPE_CHECKING:
    from slt_ctc_personalization.beam_search.search import BeamSearch
    from slt_ctc_personalization.evidence.evidence import Evidence

CHUNK_FRAMES = 64
"""Frames whose admitted labels are listed in one go."""

FIRST_WIDTH = 4
"""Candidates scored exactly at first, in beams; doubled and kept when that was too few."""

KEPT_STRUCTURES = 16


class TorchEngine:
    """`BeamSearch.decode` on whole batches of tensors: the same texts, scores within 1e-4, and order.

    `search` is the compiled search whose settings, tables and checks are used: `search.prepare` makes the phrase lists.
    The score, the pruning and the labels that are tried are those of `BeamSearch`; see `torch_step` for how a frame is
    computed. Masses are float64, equal prefixes are found by a 64-bit hash of their labels. The times of a label may
    differ by frames where its prefix left the beam, came back, and longer texts had grown from it meanwhile.

    `device`: where to search; None: where the log-probabilities lie. Nothing waits for the device within an utterance
    but one count for each 64 frames. Where the candidates scored at first prove too few, the batch is searched
    again with twice as many, so the result does not depend on that number.

    **Raises** `PluginError` for what it cannot do: a lexicon, windowed boosting, a KenLM probing file.
    """

    def __init__(self, search: BeamSearch, *, device: str | torch.device | None = None) -> None:
        settings = search.settings
        if settings.lexicon is not None:
            raise PluginError(
                "torch engine: it searches without a lexicon only; take the compiled engine for a lexicon"
            )
        if settings.boosting == "windowed":
            raise PluginError(
                "torch engine: boosting 'windowed' is for the compiled engine only; take 'fixed', 'depth-scaled' or 'utterance'"
            )
        if settings.lm is not None and settings.lm.tables.sizes[LAYOUT] != AUTOMATON:
            raise PluginError(
                f"torch engine: {settings.lm!r} is a KenLM probing file, which it does not read; give the ARPA file, or "
                "take the compiled engine"
            )
        self.search = search
        self.settings = settings
        self.device = None if device is None else torch.device(device)
        self._width = FIRST_WIDTH * settings.beam
        self._fixed: dict[torch.device, tuple[Labels, Trie, Ngrams | None]] = {}
        self._structures: OrderedDict[int, tuple[Any, Structure]] = OrderedDict()
        self._lists: tuple[Any, tuple[Automata, Trie]] | None = None

    @torch.no_grad()
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
        """The n-best list of each utterance; arguments, shapes and errors are those of `BeamSearch.decode`.

        `log_probs` [b t v] is a floating-point tensor on any device, or an array.
        """
        values = torch.as_tensor(log_probs).detach()
        device = self.device or values.device
        counts = self._check(values, lengths)
        tables = self._tables(phrases, evidence, counts)
        if not counts:
            return []
        order = sorted(range(len(counts)), key=lambda i: -counts[i])
        sizes = [counts[i] for i in order]
        # An array of numbers that no float32 can hold would be rounded there by the compiled search, too.
        values = values.to(device)[torch.tensor(order, device=device), : sizes[0]].float()
        self._refuse_empty_frames(values, sizes)
        best, scores, history = self._search(values, sizes, [tables[i] for i in order])
        clock = Clock(frame_shift_s, offset_s)
        found = self._read(best.cpu().numpy(), scores.cpu().numpy(), history, clock)
        results = [NBest([Hypothesis("", -np.inf)])] * len(counts)
        for place, index in enumerate(order):
            results[index] = found[place]
        return results

    def _check(self, values: Tensor, lengths: Any) -> list[int]:
        size = len(self.settings.labels)
        if not values.is_floating_point():
            raise ShapeError(f"log_probs has type {values.dtype}, expected floating-point natural-log probabilities")
        if values.ndim != 3 or values.shape[2] != size:
            raise ShapeError(f"log_probs has shape {tuple(values.shape)}, expected (b, t, v) with v = {size} labels")
        frames = values.shape[1]
        counts = (
            [frames] * len(values) if lengths is None else [int(length) for length in torch.as_tensor(lengths).tolist()]
        )
        if len(counts) != len(values):
            raise ShapeError(f"lengths has {len(counts)} entries, but log_probs holds {len(values)} utterances")
        for index, count in enumerate(counts):
            if not 0 <= count <= frames:
                raise ShapeError(f"lengths[{index}] is {count}, but log_probs has {frames} frames; give 0 to {frames}")
        if values.numel():
            inside = torch.arange(frames) < torch.tensor(counts)[:, None]
            bad = ~(values < torch.inf) & inside.to(values.device)[..., None]
            if bad.any():
                index, frame, label = (int(i) for i in bad.nonzero()[0])
                raise DataError(
                    f"log_probs[{index}] holds {values[index, frame, label]} at frame {frame}, label {label}; expected "
                    "natural-log probabilities (finite, or -inf)"
                )
        return counts

    def _tables(self, phrases: Any, evidence: Any, counts: Sequence[int]) -> list[PhraseTable]:
        search = self.search
        tables = search._tables(phrases, len(counts))
        heard = [None] * len(counts) if evidence is None else list(evidence)
        if len(heard) != len(counts):
            raise ShapeError(f"evidence has {len(heard)} entries, but log_probs holds {len(counts)} utterances")
        for i, table in enumerate(tables):
            checked = search.check_evidence(heard[i], table, counts[i], f"utterance {i}")
            if checked is not None:
                tables[i] = search._follow(table, checked)[0]
        return tables

    def _allowed(self, device: torch.device) -> Tensor:
        """Labels that can be written: [v] bool."""
        kind = torch.from_numpy(self.search.engine.label_tables.kind).to(device)
        allowed = (kind & EXCLUDED) == 0
        allowed[self.settings.blank] = False
        return allowed

    def _refuse_empty_frames(self, values: Tensor, sizes: Sequence[int]) -> None:
        read = self._allowed(values.device)
        read[self.settings.blank] = True
        inside = torch.arange(values.shape[1]) < torch.tensor(sizes)[:, None]
        empty = (values.masked_fill(~read, -torch.inf).amax(2) == -torch.inf) & inside.to(values.device)
        if values.shape[1] and empty.any():
            number = int(empty.nonzero()[0, 1])
            raise DataError(
                f"beam search: frame {number} gives no label any probability (all -inf); check the log-probabilities"
            )

    def _search(
        self, values: Tensor, sizes: Sequence[int], tables: Sequence[PhraseTable]
    ) -> tuple[Tensor, Tensor, History]:
        """Nodes and scores [b k], best first, and the history; utterances come longest first."""
        fixed, lists = self._on(values.device), self._place_lists(tables, values.device)
        labels, spellings, ngrams = fixed
        options = tables[0].options
        k = options.beam
        while True:
            step = LabelStep(options, labels, spellings, lists[1], lists[0], ngrams, width=self._width)
            beams, history = step.begin(len(sizes)), self._history(len(sizes), sizes[0] * k + 1, values.device)
            missed = torch.zeros(len(sizes), dtype=torch.bool, device=values.device)
            done: list[Hypotheses] = []
            living = len(sizes)
            for frame in self._frames(values, sizes):
                size = len(frame.row)
                if size < living:
                    done.append(beams.rows(slice(size, living)))
                    beams, living = beams.first(size), size
                beams, lost = step.advance(beams, frame, history)
                missed[:size] |= lost
            done.append(beams)
            if not missed.any():
                break
            self._width *= 2
        ends = Hypotheses(
            *(torch.cat(parts) for parts in zip(*(vars(part).values() for part in done[::-1]), strict=True))
        )
        scores, nodes = step.scores.finish(ends)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        best = self.search.n_best
        return nodes.gather(1, order)[:, :best], scores[:, :best], history

    @staticmethod
    def _history(size: int, rows: int, device: torch.device) -> History:
        return History(*(torch.zeros((size, rows), dtype=torch.int32, device=device) for _ in range(4)))

    def _frames(self, values: Tensor, sizes: Sequence[int]) -> Iterator[Frame]:
        """The frames, each of the utterances that it is part of, with its admitted labels listed."""
        allowed, blank = self._allowed(values.device), self.settings.blank
        size = len(sizes)
        for begin in range(0, sizes[0], CHUNK_FRAMES):
            piece = values[:size, begin : begin + CHUNK_FRAMES]
            admitted = (piece >= self.settings.token_min_log_prob) & (piece > -torch.inf) & allowed
            top, likeliest = piece.masked_fill(~allowed, -torch.inf).max(2, keepdim=True)
            alone = ~admitted.any(2, keepdim=True) & (top > piece[..., blank, None])
            admitted.scatter_(2, likeliest, admitted.gather(2, likeliest) | alone)
            rank = admitted.cumsum(2)
            most = rank[..., -1].amax(0).tolist() if size else []
            columns = max(*most, 1) if len(most) > 1 else max(most[0], 1)
            tokens = torch.zeros((*piece.shape[:2], columns + 1), dtype=torch.int64, device=piece.device)
            label = torch.arange(piece.shape[2], device=piece.device).expand_as(rank)
            tokens.scatter_(2, torch.where(admitted, rank - 1, columns), label)
            listed = piece.gather(2, tokens).double()
            there = torch.arange(columns + 1, device=piece.device) < rank[..., -1:]
            listed = torch.where(there, listed, -torch.inf)
            for place in range(piece.shape[1]):
                while sizes[size - 1] <= begin + place:
                    size -= 1
                wide = slice(0, max(most[place], 1))
                yield Frame(
                    begin + place,
                    piece[:size, place].double(),
                    admitted[:size, place],
                    tokens[:size, place, wide],
                    listed[:size, place, wide],
                )

    def _on(self, device: torch.device) -> tuple[Labels, Trie, Ngrams | None]:
        """The tables that do not depend on phrases, kept on each device."""
        if device not in self._fixed:
            engine, lm = self.search.engine, self.settings.lm
            self._fixed[device] = (
                Labels(engine.label_tables, device),
                Trie([engine.spellings], self._characters, device, listed=False),
                None if lm is None else Ngrams(lm.tables, lm.order, device),
            )
        return self._fixed[device]

    @property
    def _characters(self) -> int:
        return int(self.search.engine.label_tables.chars.max(initial=0)) + 1

    def _place_lists(self, tables: Sequence[PhraseTable], device: torch.device) -> tuple[Automata, Trie]:
        """The phrase lists of a batch on the device; those of the last batch are kept."""
        kept: dict[int, int] = {}
        distinct: list[PhraseTable] = []
        for table in tables:
            if id(table) not in kept:
                kept[id(table)] = len(distinct)
                distinct.append(table)
        owner = [kept[id(table)] for table in tables]
        if self._lists is not None:
            (lists, old_owner, old_device), found = self._lists
            same = len(lists) == len(distinct) and all(a is b for a, b in zip(lists, distinct, strict=True))
            if same and (old_owner, old_device) == (owner, device):
                return found
        trie = Trie([table.extra for table in distinct], self._characters, device, listed=True)
        automata = Automata(
            [table.tables for table in distinct],
            [self._structure(table) for table in distinct],
            [table.start for table in distinct],
            trie.roots,
            owner,
            len(self.settings.labels) + 1,
            device,
        )
        self._lists = ((distinct, owner, device), (automata, trie))
        return automata, trie

    def _structure(self, table: PhraseTable) -> Structure:
        """The look-up tables of an automaton, kept for the last few; re-weighed tables share their base's."""
        rows = table.tables.rows
        if id(rows) not in self._structures:
            options = table.options
            made = structure_of(table.tables, len(self.settings.labels), options.edges, options.boundary)
            self._structures[id(rows)] = (rows, made)  # `rows` is held, so that its id stays its own
            while len(self._structures) > KEPT_STRUCTURES:
                self._structures.popitem(last=False)
        self._structures.move_to_end(id(rows))
        return self._structures[id(rows)][1]

    def _read(
        self, nodes: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], history: History, clock: Clock
    ) -> list[NBest]:
        """The texts behind the best nodes."""
        above, key, start, last = (part.cpu().numpy() for part in history)
        found = []
        for index in range(len(nodes)):
            hypotheses = []
            for node, score in zip(nodes[index].tolist(), scores[index].tolist(), strict=True):
                if score == -np.inf:
                    break
                path = []
                while node:
                    path.append(node)
                    node = int(above[index, node])
                places = np.array(path[::-1], np.int64)
                rows = np.zeros((len(places), NODE_INTS), np.int64)
                rows[:, KEY], rows[:, START], rows[:, LAST] = (part[index, places] for part in (key, start, last))
                hypotheses.append(self.search.engine._hypothesis(rows, score, clock))
            hypotheses = hypotheses or [Hypothesis("", -np.inf)]
            found.append(NBest(with_confidences(hypotheses) if self.search.n_best > 1 else hypotheses))
        return found
