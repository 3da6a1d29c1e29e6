"""Encoder `contextual-adapter`: a frozen CTC encoder whose frames attend to the phrases of a call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from slt_ctc_personalization.adapter.attention_supervision import PHRASE_ATTENTION
from slt_ctc_personalization.adapter.base_memory import BaseMemory, version_of
from slt_ctc_personalization.adapter.catalogue import Script, Written
from slt_ctc_personalization.adapter.contextual_session import ContextualSession, piece
from slt_ctc_personalization.adapter.list_sampling import ListSampler
from slt_ctc_personalization.adapter.phrase_attention import PhraseAttention, Table
from slt_ctc_personalization.phrases.prepared_phrases import KEPT_LISTS, PHRASES
from sltcore import ctc
from sltcore.context import per_utterance
from sltcore.errors import ContextError, PortError
from sltcore.interfaces import Encoder
from sltcore.types import ContextKey, Encoded, Port
from sltcore.vocabulary import Vocabulary


class ContextualAdapter(Encoder, nn.Module):
    """A base encoder, frozen, and `H' = H + B` where B is what its frames take from the phrases they look at.

    `PhraseAttention` says what B is. Queries are made of the inner layers `layers` of the base (depths; negative ones
    count from the end, -1 being the output), or of its output where it gives out none. Without phrases, and for
    utterances with an empty list, the output is the base's bit for bit. With phrases `extra` holds `phrase_attention`
    [b t k+1] float32: rows sum to 1, column 0 is "no phrase", column i + 1 is phrase i of the utterance's list (the place
    in `spelling.entries`); columns beyond an utterance's own list and frames beyond its length are 0.

    The keys and values of a list are computed once and kept for the last few lists; another list costs no more than
    that. In training they are computed anew in each step, once for all phrases of a batch.

    The base has no gradient and stays in evaluation. In training its outputs are kept up to `keep_base_bytes`
    (`BaseMemory`), unless it reads side information or something is hooked into it, such as an augmentation of features.
    `sampler` draws the lists of a training batch where the data give none; None: the data give them.

    It streams where the base does, and holds back the frames that the queries of earlier ones see.

    **Source**: Dingliwal et al., arXiv:2210.09510 (queries from several depths); Sathyendra et al., arXiv:2205.13660.
    """

    def __init__(
        self,
        encoder: Encoder,
        attention: PhraseAttention,
        *,
        script: Script,
        layers: Sequence[int] = (-1,),
        sampler: ListSampler | None = None,
        keep_base_bytes: int = 0,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """`vocabulary` is kept in bundles, where the script writes in labels that the base does not offer."""
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise PortError(f"contextual-adapter: its encoder is a {type(encoder).__name__}, expected an nn.Module")
        self.encoder = encoder.requires_grad_(False).eval()
        self.adapter = attention
        self.script = script
        self.depths_read = depths_of(encoder, layers)
        encoder.keep_layers([depth for depth in self.depths_read if depth is not None])
        self.padding_tolerance = 2 * encoder.padding_tolerance
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._memory = BaseMemory(keep_base_bytes) if keep_base_bytes else None
        self._tables: OrderedDict[Any, Table] = OrderedDict()
        self._tables_of: tuple[Any, ...] = ()

    @property
    def consumes(self) -> Port:
        """What the base consumes."""
        return self._base.consumes

    @property
    def produces(self) -> Port:
        """What the base produces."""
        return self._base.produces

    @property
    def lookahead_frames(self) -> int | None:
        """The base's, and what the queries see of the future."""
        base = self._base.lookahead_frames
        return None if base is None else base + self.adapter.context_frames

    @property
    def depths(self) -> int | None:
        """The base's."""
        return self._base.depths

    def keep_layers(self, depths: Sequence[int]) -> None:
        """Ask the base for inner layers, which are passed on without phrases in them."""
        self._base.keep_layers(depths)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """The base's frames [b] of input lengths [b]."""
        return self._base.output_lengths(lengths)

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`phrases`, and what the base reads."""
        return (PHRASES, *(key for key in self._base.context_keys() if key.name != PHRASES.name))

    def save_files(self) -> Mapping[str, bytes]:
        """The labels that phrases are written in, where the base does not bring them."""
        return {} if self._vocabulary is None else ctc.vocabulary_file(self._vocabulary)

    def offers(self) -> Mapping[str, Any]:
        """`phrase_attention`, which says that `extra` holds one, for decoders that read it."""
        return {PHRASE_ATTENTION: True}

    @property
    def _base(self) -> Encoder:
        base: Any = self.encoder
        found: Encoder = base
        return found

    def train(self, mode: bool = True) -> ContextualAdapter:
        """Training or evaluation of the adapter; the base stays in evaluation as long as nothing in it is trained."""
        super().train(mode)
        if self._is_frozen():
            self.encoder.eval()
        self._tables.clear()
        return self

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check the list and compute its keys and values once; the value itself stays as it is, for other stages.

        **Raises** `ContextError` naming every phrase that cannot be spelled.
        """
        context = self._base.prepare(context)
        phrases = _listed(context.get(PHRASES.name))
        if phrases:
            with torch.no_grad():
                self._kept_table(phrases)
        return context

    def learn_texts(self, texts: Sequence[str]) -> None:
        """Have the sampler learn which words are rare, and what distractors there are."""
        if self._sampler is not None:
            self._sampler.learn(texts, writable=self.script.can_write)

    def training_context(
        self, texts: Sequence[str], context: Mapping[str, Any], seeds: Sequence[int]
    ) -> Mapping[str, Any]:
        """A list of phrases for each utterance, drawn from its seed; nothing where the data give `phrases`."""
        if self._sampler is None or context.get(PHRASES.name) is not None:
            return {}
        pairs = zip(texts, seeds, strict=True)
        return {PHRASES.name: [self._sampler.draw(text, seed, writable=self.script.can_write) for text, seed in pairs]}

    def forward(self, x: Any, context: Mapping[str, Any]) -> Encoded:
        """`Encoded` [b t d] float32, as the base gives it where there are no phrases.

        **Raises** what the base raises, and `ContextError` naming every phrase that cannot be spelled.
        """
        encoded = self._encode(x, context)
        tables = self.tables([_listed(one) for one in per_utterance(context, PHRASES, len(encoded.lengths))])
        if self.training and self._learns() and tables and all(table is None for table in tables):
            # A batch of empty lists changes nothing either, but the loss must depend on what is trained.
            values = self.adapted(encoded, [self.adapter.table([])] * len(tables)).values
            return encoded._replace(values=values)
        return self.adapted(encoded, tables)

    def open(self, context: Mapping[str, Any]) -> ContextualSession:
        """A session for one utterance and its list. **Raises** `StreamError` where the base cannot stream."""
        inner = self._base.open(context)
        with torch.no_grad():
            (table,) = self.tables([_listed(one) for one in per_utterance(context, PHRASES, 1)])
        return ContextualSession(self, inner, table)

    def adapted(self, encoded: Encoded, tables: Sequence[Table | None]) -> Encoded:
        """The base's encoding with what its frames take from the table of each utterance (None: nothing)."""
        if all(table is None for table in tables):
            return encoded
        found = self._read_layers(encoded)
        columns = max(table.keys.shape[1] for table in tables if table is not None)
        adapt = self._adapted_anew if torch.is_grad_enabled() else self._adapted_in_place
        values, attention = adapt(encoded, found, tables, columns)
        return encoded._replace(values=values, extra={**encoded.extra, PHRASE_ATTENTION: attention})

    def adapted_piece(self, encoded: Encoded, table: Table | None, first: int, stop: int) -> Encoded:
        """The frames `first ... stop - 1` of one utterance as `adapted` gives them, without gradients and the work for others."""
        part = piece(encoded, first, stop)
        if table is None:
            return part
        length = int(encoded.lengths[0])
        queries = self.adapter.queries([layer[0, :length] for layer in self._read_layers(encoded)])
        taken, attention = self.adapter(queries[first:stop], table)
        values = part.values + taken[None].to(part.values.dtype)
        return part._replace(values=values, extra={**part.extra, PHRASE_ATTENTION: attention[None].float()})

    def _read_layers(self, encoded: Encoded) -> list[Tensor]:
        return [encoded.values if depth is None else encoded.layers[depth] for depth in self.depths_read]

    def _adapted_in_place(
        self, encoded: Encoded, found: Sequence[Tensor], tables: Sequence[Table | None], columns: int
    ) -> tuple[Tensor, Tensor]:
        """Values and attention, with no memory of the attention's size beside it."""
        values = encoded.values.clone()
        attention = values.new_zeros(*values.shape[:2], columns, dtype=torch.float32)
        for row, (length, table) in enumerate(zip(encoded.lengths.tolist(), tables, strict=True)):
            if table is None:
                attention[row, :length, 0] = 1.0
            else:
                queries = self.adapter.queries([layer[row, :length] for layer in found])
                into = attention[row, :length, : table.keys.shape[1]]
                values[row, :length] += self.adapter(queries, table, into)[0]
        return values, attention

    def _adapted_anew(
        self, encoded: Encoded, found: Sequence[Tensor], tables: Sequence[Table | None], columns: int
    ) -> tuple[Tensor, Tensor]:
        """The same with gradients, of tensors that are not written into."""
        values, rows, looked = encoded.values, [], []
        for row, (length, table) in enumerate(zip(encoded.lengths.tolist(), tables, strict=True)):
            if table is None:
                attention = values.new_ones(length, 1, dtype=torch.float32)
                rows.append(values[row])
            else:
                queries = self.adapter.queries([layer[row, :length] for layer in found])
                taken, attention = self.adapter(queries, table)
                rows.append(torch.cat([values[row, :length] + taken.to(values.dtype), values[row, length:]]))
            room = (0, columns - attention.shape[1], 0, values.shape[1] - length)
            looked.append(nn.functional.pad(attention, room))
        return torch.stack(rows), torch.stack(looked)

    def tables(self, lists: Sequence[Sequence[Any]]) -> list[Table | None]:
        """The keys and values of each utterance's list, None for an empty one."""
        if self._learns():
            return self._fresh_tables(lists)
        return [self._kept_table(phrases) if phrases else None for phrases in lists]

    def _fresh_tables(self, lists: Sequence[Sequence[Any]]) -> list[Table | None]:
        """All phrases of the batch read once, with gradients."""
        written = [self.script.written(phrases) if phrases else [] for phrases in lists]
        places: dict[Written, int] = {}
        for phrases in written:
            for phrase in phrases:
                places.setdefault(phrase, len(places))
        if not places:
            return [None] * len(lists)
        whole = self.adapter.table(list(places))
        device = whole.keys.device
        return [
            whole.select(torch.tensor([places[phrase] for phrase in phrases], device=device)) if phrases else None
            for phrases in written
        ]

    def _kept_table(self, phrases: Sequence[Any]) -> Table:
        version = version_of(self.adapter)
        if version != self._tables_of:
            self._tables.clear()
            self._tables_of = version
        key = _key(phrases)
        if key not in self._tables:
            self._tables[key] = self.adapter.table(self.script.written(phrases))
            while len(self._tables) > KEPT_LISTS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]

    def _encode(self, x: Any, context: Mapping[str, Any]) -> Encoded:
        if not self._is_frozen():  # something was attached to the base, and is trained
            return self.encoder(x, context)
        with torch.no_grad():
            memory = self._memory if self.training and len(getattr(x, "lengths", ())) else None
            reads = any(context.get(key.name) is not None for key in self._base.context_keys())
            if memory is not None and not reads and not self._is_hooked():
                return memory.encode(self.encoder, x)
            return self.encoder(x, context)

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.adapter.parameters())

    def _is_frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.encoder.parameters())

    def _is_hooked(self) -> bool:
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.encoder.modules())


def depths_of(encoder: Encoder, layers: Sequence[int]) -> tuple[int | None, ...]:
    """The depths that `layers` mean, None for the output itself, which is all that an encoder without inner layers has.

    **Raises** `PortError` for a depth that the encoder does not have, or one that is named twice.
    """
    deepest = encoder.depths
    if deepest is None:
        if tuple(layers) != (-1,):
            raise PortError(
                f"contextual-adapter: layers are {list(layers)}, but {type(encoder).__name__} gives out no inner layers; "
                f"leave layers empty, or [-1]"
            )
        return (None,)
    found: list[int | None] = []
    for layer in layers:
        depth = layer if layer >= 0 else deepest + 1 + layer
        if not 0 <= depth <= deepest:
            raise PortError(
                f"contextual-adapter: layers names {layer}, but the depths of {type(encoder).__name__} run from 0 to "
                f"{deepest}, or from -{deepest + 1} to -1"
            )
        found.append(None if depth == deepest else depth)
    if len(set(found)) < len(found):
        raise PortError(f"contextual-adapter: layers {list(layers)} name a depth twice; there are {deepest}")
    return tuple(found)


def _listed(phrases: Any) -> Sequence[Any]:
    """A list of phrases; what a decoder made of one (its automaton) still names them. **Raises** `ContextError` for what
    holds none."""
    if phrases is None:
        return ()
    named = getattr(phrases, "phrases", None)
    if named is not None:
        return [phrase.text for phrase in named]
    if not isinstance(phrases, Collection) or isinstance(phrases, str | bytes | Mapping | Set):
        raise ContextError(
            f"contextual-adapter: phrases: expected a list of texts, got {type(phrases).__name__} {str(phrases)[:40]!r}"
        )
    return phrases if isinstance(phrases, list | tuple) else list(phrases)


def _key(phrases: Sequence[Any]) -> Any:
    """The same for lists of equal content."""
    texts = tuple(phrases)
    return texts if all(isinstance(phrase, str) for phrase in texts) else repr(list(texts))
