"""The Conformer encoder: offline, or by chunks with a bounded look at the future."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from slt_speech.attention import Chunks, Position, SelfAttention
from slt_speech.convolution import ConvolutionModule, Norm, Reach, Subsampling
from slt_speech.frames import (
    blank_padding,
    check_features,
    check_single,
    frame_mask,
    joined,
    prefix_lookahead,
    refuse_finished,
    with_layers,
)
from sltcore.errors import SpecError, StreamError
from sltcore.interfaces import Encoder, Session
from sltcore.types import Encoded, Features, Port

if TYPE_CHECKING:
    from torch import Tensor


class BlockState(NamedTuple):
    """What a block remembers of a stream: keys and values [b h m e] of its attention, gated frames [b l d] of its
    convolution."""

    attention: tuple[Tensor, Tensor] | None = None
    convolution: Tensor | None = None


class ConformerBlock(nn.Module):
    """`x + F/2`, `+ attention`, `+ convolution`, `+ F/2`, layer norm: equation 1 of arXiv:2005.08100."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        ffn: int,
        kernel: int,
        position: Position,
        reach: Reach,
        norm: Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.before = _feed_forward(d_model, ffn, dropout)
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = SelfAttention(d_model, heads, position=position, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.convolution_norm = nn.LayerNorm(d_model)
        self.convolution = ConvolutionModule(d_model, kernel, reach=reach, norm=norm, dropout=dropout)
        self.after = _feed_forward(d_model, ffn, dropout)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, mask: Tensor, chunks: Chunks | None) -> Tensor:
        """[b t d] of [b t d]; `mask` [b t] is true where a frame counts."""
        x = x + 0.5 * self.before(x)
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, chunks))
        x = x + self.convolution(self.convolution_norm(x), mask, chunks.frames if chunks else None)
        out: Tensor = self.norm(x + 0.5 * self.after(x))
        return out

    def step(self, x: Tensor, state: BlockState, chunks: Chunks) -> tuple[Tensor, BlockState]:
        """One chunk [b t d] of a stream, and the state after it."""
        x = x + 0.5 * self.before(x)
        change, attention = self.attention.step(self.attention_norm(x), state.attention, chunks)
        x = x + self.dropout(change)
        change, convolution = self.convolution.step(self.convolution_norm(x), state.convolution)
        x = x + change
        return self.norm(x + 0.5 * self.after(x)), BlockState(attention, convolution)


class Conformer(Encoder, nn.Module):
    """Convolution-augmented transformer over a front end's frames, or over Features.

    With `chunk_frames` = c, attention sees a frame's own chunk of c output frames and `left_chunks` = l chunks before
    it, in training and offline as in a stream, in memory linear in the length. A session then equals the offline call,
    up to rounding, and remembers `state_numbers` numbers: for each block `2 l c d` of attention and `(kernel - 1) d`
    (causal) or `(kernel // 2) d` (chunk) of convolution, and one frame for each subsampling convolution.

    **Source**: Gulati et al., Conformer, arXiv:2005.08100; chunks: Zhang et al., arXiv:2012.05481, section 2.3.
    The convolution's batch norm is a layer norm by default, because batch statistics make an utterance depend on others.

    **Raises** `SpecError` when settings exclude each other.
    """

    def __init__(
        self,
        frontend: Encoder | int,
        d_model: int = 144,
        *,
        layers: int = 16,
        heads: int = 4,
        ffn: int | None = None,
        kernel: int = 31,
        subsampling: int = 4,
        subsampling_channels: int | None = None,
        frame_shift_s: float = 0.01,
        position: Position = "relative",
        convolution: Reach = "centered",
        norm: Norm = "layer",
        chunk_frames: int | None = None,
        left_chunks: int = 4,
        dropout: float = 0.1,
        return_layers: Sequence[int] = (),
    ) -> None:
        super().__init__()
        _check_chunks(chunk_frames, convolution)
        wrong = [depth for depth in return_layers if not 0 <= depth <= layers]
        if wrong:
            raise SpecError(f"conformer: return_layers names {wrong[0]}; depths run from 0 (subsampled) to {layers}")
        self.frontend: Any = frontend if isinstance(frontend, Encoder) else None  # called as a module, with its hooks
        self._consumes, self.features, self._input_shift_s = input_port(frontend, frame_shift_s, "conformer")
        self.d_model = d_model
        self.chunks = Chunks(chunk_frames, left_chunks) if chunk_frames else None
        self.return_layers = tuple(sorted(set(return_layers)))
        self.subsampling = Subsampling(self.features, d_model, factor=subsampling, channels=subsampling_channels)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            ConformerBlock(
                d_model,
                heads,
                ffn=ffn or 4 * d_model,
                kernel=kernel,
                position=position,
                reach=convolution,
                norm=norm,
                dropout=dropout,
            )
            for _ in range(layers)
        )

    @property
    def consumes(self) -> Port:
        """What the front end consumes, or Features."""
        return self._consumes

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one output frame to the next."""
        return self._input_shift_s * self.subsampling.factor

    @property
    def offset_s(self) -> float:
        """Time of the middle of frame 0, where the front end states its own."""
        return float(getattr(self.frontend, "offset_s", 0.0))

    @property
    def produces(self) -> Port:
        """`Encoded` [b t d]."""
        return Port("Encoded", {"d": self.d_model, "frame_shift_s": self.frame_shift_s})

    def offers(self) -> Mapping[str, Any]:
        """`frontend`, where there is one: its output is what augmentations of features change."""
        return {} if self.frontend is None else {"frontend": self.frontend}

    @property
    def lookahead_frames(self) -> int | None:
        """How many of the last frames of a recording more sound may change: its open chunk, and what the front end
        still changes. None without chunks."""
        ahead = 0 if self.frontend is None else self.frontend.lookahead_frames
        if self.chunks is None or ahead is None:
            return None
        return prefix_lookahead(self.chunks.frames, self.subsampling.factor, ahead)

    @property
    def state_numbers(self) -> int:
        """Numbers that a full session remembers, beside its input buffer; 0 where it cannot stream."""
        if self.chunks is None:
            return 0
        kept = [2 * self.chunks.memory + block.convolution.left for block in self._blocks()]
        blocks = sum(kept) * self.d_model
        image, channels, total = self.features, 1, 0
        for conv in self.subsampling.convolutions:
            total += image * channels
            image, channels = -(-image // 2), int(conv.out_channels)  # type: ignore[arg-type]
        return blocks + total

    @property
    def depths(self) -> int:
        """Its blocks; depth 0 is the subsampled input."""
        return len(self.blocks)

    def keep_layers(self, depths: Sequence[int]) -> None:
        """Have `Encoded.layers` hold these depths too, offline and in sessions; **raises** `PortError` for another one."""
        self.return_layers = with_layers(self.return_layers, depths, 0, self.depths, "conformer")

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames [b] of input lengths [b]: the front end's, divided by the subsampling and rounded up."""
        return self.subsampling.output_lengths(self.frontend.output_lengths(lengths) if self.frontend else lengths)

    def forward(self, x: Any, context: Mapping[str, Any]) -> Encoded:
        """`Encoded` [b t d] float32, zero after each length; **raises** `ShapeError` for another input than the port's."""
        features = check_features(self.frontend(x, context) if self.frontend else x, self.features, "conformer")
        if not features.values.shape[1]:
            empty = features.values.new_zeros(len(features.lengths), 0, self.d_model)
            return self._encoded(empty, features.lengths, dict.fromkeys(self.return_layers, empty))
        values, lengths = self.subsampling(features.values, features.lengths)
        mask = frame_mask(lengths, values.shape[1])
        values = self.dropout(values)
        layers = {0: values}
        for depth, block in enumerate(self.blocks, 1):
            values = layers[depth] = block(values, mask, self.chunks)
        kept = {depth: blank_padding(layers[depth], lengths) for depth in self.return_layers}
        return self._encoded(blank_padding(values, lengths), lengths, kept)

    def open(self, context: Mapping[str, Any]) -> ConformerSession:
        """A session for one utterance. **Raises** `StreamError` without chunks, or when the front end cannot stream."""
        if self.chunks is None:
            raise StreamError("conformer cannot stream, because a frame sees the whole recording; set chunk_frames: 16")
        return ConformerSession(self, self.chunks, context)

    def _blocks(self) -> list[ConformerBlock]:
        return list(self.blocks)  # type: ignore[arg-type]

    def _encoded(self, values: Tensor, lengths: Tensor, layers: Mapping[int, Tensor]) -> Encoded:
        return Encoded(values, lengths, self.frame_shift_s, self.offset_s, layers)


class ConformerSession(Session):
    """One stream through a chunked Conformer; it speaks when a chunk of input is complete."""

    def __init__(self, encoder: Conformer, chunks: Chunks, context: Mapping[str, Any]) -> None:
        self._encoder = encoder
        self._chunks = chunks
        self._inner = encoder.frontend.open(context) if encoder.frontend else None
        self._waiting: Tensor | None = None  # [1 t f] features of the chunk to come
        self._subsampling: list[Tensor] | None = None
        self._blocks = [BlockState() for _ in encoder.blocks]
        self._emitted = 0
        self._finished = False

    @property
    def state_numbers(self) -> int:
        """Numbers it remembers now, beside the input buffer."""
        tensors = list(self._subsampling or [])
        for block in self._blocks:
            tensors += [*(block.attention or ()), *([] if block.convolution is None else [block.convolution])]
        return sum(tensor.numel() for tensor in tensors)

    def push(self, chunk: Any, **streams: Any) -> Encoded | None:
        """The frames of every chunk that is complete, or None. **Raises** `StreamError` after `finish`."""
        refuse_finished(self._finished, "conformer")
        features = self._inner.push(chunk, **streams) if self._inner else chunk
        return None if features is None else self._take(features)

    def finish(self) -> Encoded | None:
        """The frames of the last, shorter chunk, or None."""
        refuse_finished(self._finished, "conformer")
        self._finished = True
        rest = self._inner.finish() if self._inner else None
        parts = [] if rest is None else [self._take(rest)]
        if self._waiting is not None and self._waiting.shape[1]:
            parts.append(self._step(self._waiting))
        return joined([part for part in parts if part is not None])

    def _take(self, features: Features | Encoded) -> Encoded | None:
        check_single(check_features(features, self._encoder.features, "conformer"), "conformer")
        fresh = features.values[:, : int(features.lengths[0])]
        waiting = fresh if self._waiting is None else torch.cat([self._waiting, fresh], 1)
        size = self._chunks.frames * self._encoder.subsampling.factor
        parts = []
        while waiting.shape[1] >= size:
            parts.append(self._step(waiting[:, :size]))
            waiting = waiting[:, size:]
        self._waiting = waiting.clone()
        return joined(parts)

    def _step(self, features: Tensor) -> Encoded:
        encoder = self._encoder
        values, self._subsampling = encoder.subsampling.step(features, self._subsampling)
        layers = {0: values}
        for depth, block in enumerate(encoder.blocks, 1):
            values, self._blocks[depth - 1] = block.step(values, self._blocks[depth - 1], self._chunks)  # type: ignore[operator]
            layers[depth] = values
        lengths = torch.tensor([values.shape[1]], device=values.device)
        offset_s = encoder.offset_s + self._emitted * encoder.frame_shift_s
        self._emitted += values.shape[1]
        kept = {depth: layers[depth] for depth in encoder.return_layers}
        return Encoded(values, lengths, encoder.frame_shift_s, offset_s, kept)


def input_port(frontend: Encoder | int, frame_shift_s: float, who: str) -> tuple[Port, int, float]:
    """What an encoder over frames consumes, how many features a frame has, and seconds from one to the next."""
    if not isinstance(frontend, Encoder):
        return Port("Features", {"f": frontend, "frame_shift_s": frame_shift_s}), frontend, frame_shift_s
    port = frontend.produces
    count = port.attributes.get("f", port.attributes.get("d"))
    if count is None or "frame_shift_s" not in port.attributes:
        raise SpecError(
            f"{who}: its frontend produces {port}, expected Features or Encoded with f (or d) and frame_shift_s"
        )
    return frontend.consumes, int(count), float(port.attributes["frame_shift_s"])


def _check_chunks(chunk_frames: int | None, convolution: str) -> None:
    if chunk_frames is None and convolution == "chunk":
        raise SpecError(
            "conformer: convolution is 'chunk', but there are no chunks; set chunk_frames, or another convolution"
        )
    if chunk_frames is not None and convolution == "centered":
        raise SpecError(
            f"conformer: chunk_frames is {chunk_frames}, but a centered convolution looks beyond a chunk in every layer; "
            f"set convolution: causal or chunk"
        )


def _feed_forward(d_model: int, ffn: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(d_model),
        nn.Linear(d_model, ffn),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(ffn, d_model),
        nn.Dropout(dropout),
    )
