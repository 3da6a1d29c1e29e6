"""The LSTM encoder: stacked frames, one or two directions, a stream with carried state."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slt_speech.conformer import input_port
from slt_speech.frames import (
    blank_padding,
    check_features,
    check_single,
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

LayerState = tuple["Tensor", "Tensor"]
REVERSE = re.compile(r"^layers\.(\d+)\.((?:weight|bias)_\w+_l0)_reverse\b")
"""A tensor of the direction from the end, as it was called while one torch module held both directions."""


class FrameStack(nn.Module):
    """Joins `stack` neighbouring frames every `stride`: output i is inputs (i + 1) stride - stack … (i + 1) stride - 1.

    It reads the past, never beyond its own stride; `ceil(t / stride)` frames, zeros before the start and after the end.
    **Source**: Sak et al., arXiv:1507.06947, section 2 (8 frames every 3), there stacked to the right.
    """

    def __init__(self, stack: int, stride: int) -> None:
        super().__init__()
        if stack < stride:
            raise SpecError(
                f"lstm: stack {stack} with stride {stride} drops frames unread; set stack to {stride} or more"
            )
        self.stack, self.stride = stack, stride
        self.overlap = stack - stride

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames out for frames in, [b] -> [b]."""
        return (lengths + self.stride - 1) // self.stride

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """[b ceil(t/stride) stack·f] of [b t f]; `before` [b overlap f] are the frames before, zeros by default."""
        if before is None:
            before = x.new_zeros(x.shape[0], self.overlap, x.shape[2])
        missing = -x.shape[1] % self.stride
        x = torch.cat([before, x, x.new_zeros(x.shape[0], missing, x.shape[2])], 1)
        return x.unfold(1, self.stack, self.stride).transpose(2, 3).flatten(2)


def reversal(lengths: Tensor, frames: int) -> Tensor:
    """Places [b t] int64 that turn each utterance round within its own length; what stands behind it stays."""
    places = torch.arange(frames, device=lengths.device).expand(len(lengths), frames)
    ends = lengths[:, None]
    return torch.where(places < ends, ends - 1 - places, places)


class Lstm(Encoder, nn.Module):
    """Long short-term memory over stacked frames.

    Both directions of a layer read each utterance to its own end, and the layer's outputs are joined: d = directions ·
    (projection or hidden). With `projection` the recurrent output is projected (LSTMP). A
    unidirectional encoder streams with h and c of each layer as its state, and gives the offline frames.

    **Source**: Hochreiter and Schmidhuber, Neural Computation 9(8), 1997; projection: Sak et al., arXiv:1402.1128,
    section 2.2; layer norm between layers, after Ba et al., arXiv:1607.06450.

    **Raises** `SpecError` when settings exclude each other.
    """

    def __init__(
        self,
        frontend: Encoder | int,
        hidden: int = 320,
        *,
        layers: int = 4,
        bidirectional: bool = False,
        projection: int | None = None,
        stack: int = 3,
        stride: int = 3,
        frame_shift_s: float = 0.01,
        layer_norm: bool = True,
        dropout: float = 0.1,
        return_layers: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if projection is not None and projection >= hidden:
            raise SpecError(f"lstm: projection {projection} is not below hidden {hidden}; a projection makes smaller")
        wrong = [depth for depth in return_layers if not 1 <= depth <= layers]
        if wrong:
            raise SpecError(f"lstm: return_layers names {wrong[0]}; depths run from 1 to {layers}")
        self.frontend: Any = frontend if isinstance(frontend, Encoder) else None  # called as a module, with its hooks
        self._consumes, self.features, self._input_shift_s = input_port(frontend, frame_shift_s, "lstm")
        self.bidirectional = bidirectional
        self.stack = FrameStack(stack, stride)
        self.d_model = (projection or hidden) * (2 if bidirectional else 1)
        self.return_layers = tuple(sorted(set(return_layers)))
        widths = [self.features * stack] + [self.d_model] * (layers - 1)
        self.layers = nn.ModuleList(
            nn.LSTM(width, hidden, batch_first=True, proj_size=projection or 0) for width in widths
        )
        self.backward_layers = nn.ModuleList(
            nn.LSTM(width, hidden, batch_first=True, proj_size=projection or 0) for width in widths if bidirectional
        )
        self.norms = nn.ModuleList(nn.LayerNorm(self.d_model) if layer_norm else nn.Identity() for _ in widths)
        self.dropout = nn.Dropout(dropout)
        self.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]

    @property
    def consumes(self) -> Port:
        """What the front end consumes, or Features."""
        return self._consumes

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one output frame to the next."""
        return self._input_shift_s * self.stack.stride

    @property
    def offset_s(self) -> float:
        """Time of the middle of the newest frame in output 0, where the front end states its own."""
        return float(getattr(self.frontend, "offset_s", 0.0)) + self._input_shift_s * (self.stack.stride - 1)

    @property
    def produces(self) -> Port:
        """`Encoded` [b t d]."""
        return Port("Encoded", {"d": self.d_model, "frame_shift_s": self.frame_shift_s})

    def offers(self) -> Mapping[str, Any]:
        """`frontend`, where there is one: its output is what augmentations of features change."""
        return {} if self.frontend is None else {"frontend": self.frontend}

    @property
    def lookahead_frames(self) -> int | None:
        """How many of the last frames of a recording more sound may change; None in two directions."""
        ahead = 0 if self.frontend is None else self.frontend.lookahead_frames
        return None if self.bidirectional or ahead is None else prefix_lookahead(1, self.stack.stride, ahead)

    @property
    def depths(self) -> int:
        """Its layers; depth 0 does not exist."""
        return len(self.layers)

    def keep_layers(self, depths: Sequence[int]) -> None:
        """Have `Encoded.layers` hold these depths too, offline and in sessions; **raises** `PortError` for another one."""
        self.return_layers = with_layers(self.return_layers, depths, 1, self.depths, "lstm")

    def renamed(self, tensor: str) -> str:
        """`layers.0.weight_ih_l0_reverse` is `backward_layers.0.weight_ih_l0` today."""
        return REVERSE.sub(r"backward_layers.\1.\2", tensor)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames [b] of input lengths [b]: the front end's, divided by the stride and rounded up."""
        return self.stack.output_lengths(self.frontend.output_lengths(lengths) if self.frontend else lengths)

    def forward(self, x: Any, context: Mapping[str, Any]) -> Encoded:
        """`Encoded` [b t d] float32, zero after each length; **raises** `ShapeError` for another input than the port's."""
        features = check_features(self.frontend(x, context) if self.frontend else x, self.features, "lstm")
        lengths = self.stack.output_lengths(features.lengths)
        if not features.values.shape[1]:
            empty = features.values.new_zeros(len(lengths), 0, self.d_model)
            return self._encoded(empty, lengths, dict.fromkeys(self.return_layers, empty))
        values = self.stack(blank_padding(features.values, features.lengths))
        layers = {}
        for depth, norm in enumerate(self.norms, 1):
            values = norm(self._run(depth - 1, values, lengths))
            layers[depth] = values = blank_padding(values, lengths)
            values = self.dropout(values) if depth < len(self.layers) else values
        return self._encoded(values, lengths, {depth: layers[depth] for depth in self.return_layers})

    def _run(self, place: int, values: Tensor, lengths: Tensor) -> Tensor:
        """A layer's outputs [b t d], undefined behind each length.

        Nothing behind an utterance's end reaches its frames, forwards in time or, once each is turned round, backwards.
        So nothing is packed: torch takes four to eight times as long to train on packed sequences of unequal lengths.
        """
        forwards: Tensor = self.layers[place](values)[0]
        if not self.bidirectional:
            return forwards
        turned = reversal(lengths, values.shape[1])[..., None]
        backwards: Tensor = self.backward_layers[place](values.take_along_dim(turned, 1))[0]
        return torch.cat([forwards, backwards.take_along_dim(turned, 1)], -1)

    def open(self, context: Mapping[str, Any]) -> LstmSession:
        """A session for one utterance. **Raises** `StreamError` in two directions, or when the front end cannot stream."""
        if self.bidirectional:
            raise StreamError(
                "lstm cannot stream in two directions, one of which begins at the end; set bidirectional: false"
            )
        return LstmSession(self, context)

    def _encoded(self, values: Tensor, lengths: Tensor, layers: Mapping[int, Tensor]) -> Encoded:
        return Encoded(values, lengths, self.frame_shift_s, self.offset_s, layers)


def _rename(module: Lstm, tensors: dict[str, Any], prefix: str, *args: Any) -> None:
    """Before tensors are loaded: those of an earlier version under today's names."""
    for name in [name for name in tensors if name.startswith(prefix)]:
        tensors[prefix + module.renamed(name.removeprefix(prefix))] = tensors.pop(name)


class LstmSession(Session):
    """One stream: h and c of each layer, the last `stack - stride` frames, and less than a stride of waiting frames."""

    def __init__(self, encoder: Lstm, context: Mapping[str, Any]) -> None:
        self._encoder = encoder
        self._inner = encoder.frontend.open(context) if encoder.frontend else None
        self._before: Tensor | None = None
        self._waiting: Tensor | None = None
        self._states: list[LayerState | None] = [None] * len(encoder.layers)
        self._emitted = 0
        self._finished = False

    def push(self, chunk: Any, **streams: Any) -> Encoded | None:
        """The frames of every stride that is complete, or None. **Raises** `StreamError` after `finish`."""
        refuse_finished(self._finished, "lstm")
        features = self._inner.push(chunk, **streams) if self._inner else chunk
        return None if features is None else self._take(features)

    def finish(self) -> Encoded | None:
        """The frame of the last, incomplete stride, or None."""
        refuse_finished(self._finished, "lstm")
        self._finished = True
        rest = self._inner.finish() if self._inner else None
        parts = [] if rest is None else [self._take(rest)]
        if self._waiting is not None and self._waiting.shape[1]:
            parts.append(self._step(self._waiting))
        return joined([part for part in parts if part is not None])

    def _take(self, features: Features | Encoded) -> Encoded | None:
        check_single(check_features(features, self._encoder.features, "lstm"), "lstm")
        fresh = features.values[:, : int(features.lengths[0])]
        waiting = fresh if self._waiting is None else torch.cat([self._waiting, fresh], 1)
        whole = waiting.shape[1] - waiting.shape[1] % self._encoder.stack.stride
        self._waiting = waiting[:, whole:].clone()
        return self._step(waiting[:, :whole]) if whole else None

    def _step(self, features: Tensor) -> Encoded:
        encoder, stack = self._encoder, self._encoder.stack
        values = stack(features, self._before)
        if self._before is None:
            self._before = features.new_zeros(1, stack.overlap, features.shape[2])
        seen = torch.cat([self._before, features], 1)
        self._before = seen[:, seen.shape[1] - stack.overlap :].clone()
        layers = {}
        for depth, (layer, norm) in enumerate(zip(encoder.layers, encoder.norms, strict=True), 1):
            values, self._states[depth - 1] = layer(values, self._states[depth - 1])
            layers[depth] = values = norm(values)
            values = encoder.dropout(values) if depth < len(encoder.layers) else values
        lengths = torch.tensor([values.shape[1]], device=values.device)
        offset_s = encoder.offset_s + self._emitted * encoder.frame_shift_s
        self._emitted += values.shape[1]
        return Encoded(values, lengths, encoder.frame_shift_s, offset_s, {d: layers[d] for d in encoder.return_layers})
