"""The prediction network of a transducer: what has been written so far, as one vector for each prefix."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sltcore.errors import SpecError

State = tuple[Tensor, ...]
"""What a prediction network remembers of prefixes: tensors whose first axes are those of the prefixes."""


class PredictionNetwork(nn.Module):
    """Vectors [.. d] of label prefixes, for training over whole targets and for searches label by label.

    `lstm`: LSTM layers over embedded labels, which remember the whole prefix. `stateless`: the last `context` labels
    only, their embeddings mixed by one convolution and cut at zero; smaller, and hardly worse. A prefix begins with the
    blank, which stands for the start of the sentence; where `stateless` looks further back it sees blanks too.

    **Source**: Graves, arXiv:1211.3711, section 2.1; stateless: Ghodsi et al., "RNN-transducer with stateless prediction
    network", ICASSP 2020, doi:10.1109/ICASSP40776.2020.9054419, with more than one label as in Kuang et al.,
    arXiv:2206.13236, section 4.1.

    **Raises** `SpecError` when settings are out of range.
    """

    def __init__(
        self,
        vocabulary_size: int,
        d: int,
        *,
        kind: Literal["lstm", "stateless"] = "lstm",
        layers: int = 1,
        context: int = 2,
        dropout: float = 0.1,
        blank: int = 0,
    ) -> None:
        """`layers` is for `lstm`, `context` (labels looked back at) for `stateless`; dropout before and between layers."""
        super().__init__()
        if kind not in ("lstm", "stateless"):
            raise SpecError(f"rnnt: prediction is {kind!r}, expected 'lstm' or 'stateless'")
        if min(layers, context) < 1:
            raise SpecError(f"rnnt: layers is {layers} and context {context}, expected at least 1 of each")
        self.kind, self.d, self.blank, self.context = kind, d, blank, context
        self.embedding = nn.Embedding(vocabulary_size, d)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(nn.LSTM(d, d, batch_first=True) for _ in range(layers if kind == "lstm" else 0))
        self.mixing = nn.Conv1d(d, d, context) if kind == "stateless" else None

    def forward(self, labels: Tensor) -> Tensor:
        """Vectors [b u+1 d] before each of the labels [b u] int64 and after the last; what is padding, is read too."""
        first = self.context if self.mixing is not None else 1
        labels = torch.cat([labels.new_full((len(labels), first), self.blank), labels], dim=1)
        x: Tensor = self.dropout(self.embedding(labels))
        if self.mixing is not None:
            mixed: Tensor = self.mixing(x.transpose(1, 2))
            return mixed.relu().transpose(1, 2)
        for depth, layer in enumerate(self.layers):
            x = layer(self.dropout(x) if depth else x)[0]
        return x

    def start(self, b: int) -> State:
        """The state of `b` empty prefixes, to which no label was told yet, not even the blank that begins a sentence."""
        weight = self.embedding.weight
        if self.mixing is not None:
            return (torch.full((b, self.context - 1), self.blank, dtype=torch.int64, device=weight.device),)
        return tuple(weight.new_zeros(b, self.d) for _ in range(2 * len(self.layers)))

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """One label more for each prefix: vectors [.. d] of the longer prefixes and their state.

        **Shapes**: `tokens` [..] int64, axes as those of the prefixes in `state`; the first one is the blank.
        """
        if tokens.ndim != 1:
            axes = tokens.ndim
            flat = tuple(each.flatten(0, axes - 1) if axes else each[None] for each in state)
            out, flat = self._step(flat, tokens.reshape(-1))
            longer = tuple(each.reshape(*tokens.shape, *each.shape[1:]) for each in flat)
            return out.reshape(*tokens.shape, -1), longer
        return self._step(state, tokens)

    def _step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        if self.mixing is not None:
            labels = torch.cat([state[0], tokens[:, None]], dim=1)
            x = self.dropout(self.embedding(labels))
            mixed: Tensor = self.mixing(x.transpose(1, 2))
            return mixed.relu()[:, :, 0], (labels[:, 1:],)
        x = self.dropout(self.embedding(tokens))
        after: list[Tensor] = []
        for depth, layer in enumerate(self.layers):
            x = self.dropout(x) if depth else x
            x, remembered = _lstm_step(layer, x, (state[2 * depth], state[2 * depth + 1]))
            after += remembered
        return x, tuple(after)


def _lstm_step(layer: nn.Module, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One label through one layer: what it returns, and the state it goes on with, which is another thing where what it
    returns is changed from outside. A plain layer is computed as a cell: as a sequence of length one it takes four times as
    long on the CPU; a layer that is watched, wrapped or replaced is called as it stands."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    if type(layer) is nn.LSTM and not hooks:
        weights: Any = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
        h, c = torch.lstm_cell(x, state, *weights)
        return h, (h, c)
    out, (h, c) = layer(x[:, None], (state[0][None].contiguous(), state[1][None].contiguous()))
    return out[:, 0], (h[0], c[0])
