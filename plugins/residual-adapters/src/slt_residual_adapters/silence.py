"""The penalty that teaches an update to be silent: on general audio, and never on padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LOSS = "loss"


class Heard(NamedTuple):
    """Squared changes [b s ..] of one place, which utterances [b] count (None: all), and whether a loss called it."""

    squared: Tensor
    rows: Tensor | None
    in_loss: bool


class Silence:
    """Collects what updates change in one call of a model, and says how much it is: `mean ||Σ_k w_k A_k(y)||²`.

    The mean is over the rows of general audio that are no padding, then over places. Lengths are those that come with the
    values: in NamedTuples as the types of sltcore are, in what modules take and return, and in what the model's parts'
    `loss` is called with. They are known by the padded size they belong to, those of label sequences (`ids`) also for the
    prefixes of a transducer, of which there is one more. Rows of a size that came with no lengths all count.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._heard: list[Heard] = []
        self._frames: dict[tuple[int, int], Tensor] = {}
        self._labels: dict[tuple[int, int], Tensor] = {}
        self._in_loss = 0

    @contextmanager
    def listening(self, model: nn.Module) -> Iterator[None]:
        """Watches the calls of `model`; leaves it as it was."""
        self._forget()
        with ExitStack() as stack:
            for module in model.modules():
                if not isinstance(module, nn.RNNBase):  # a search may take another way through one with hooks
                    handle = module.register_forward_hook(self._hook, with_kwargs=True)
                    stack.callback(handle.remove)
            for child in model.children():
                if callable(getattr(type(child), LOSS, None)) and LOSS not in vars(child):
                    setattr(child, LOSS, self._watched(getattr(child, LOSS)))
                    stack.callback(delattr, child, LOSS)
            yield

    def hear(self, change: Tensor, *, axis: int, rows: tuple[bool, ...] | None) -> None:
        """Note a change [.. d] whose utterances run along `axis`; `rows` says which of them are general audio. Changes
        that have no such axis, as those of packed data, count whole."""
        squared = change.float().square().sum(-1)
        if squared.ndim > axis:
            squared = squared.movedim(axis, 0)
        chosen = None
        if rows is not None and squared.ndim and len(squared) == len(rows):
            chosen = torch.tensor(rows, device=squared.device)
        self._heard.append(Heard(squared, chosen, bool(self._in_loss)))

    def mean(self) -> Tensor | None:
        """What was heard since the last call of this; None where nothing was that counts."""
        heard, self._heard = self._heard, []
        means = [mean for mean in map(self._mean, heard) if mean is not None]
        return torch.stack(means).mean() if means else None

    def _mean(self, one: Heard) -> Tensor | None:
        counts = self._inside(one.squared.shape, in_loss=one.in_loss)
        if one.rows is not None:
            rows = one.rows.view(-1, *(1 for _ in one.squared.shape[1:]))
            counts = rows if counts is None else counts.to(rows.device) & rows
        if counts is None:
            return one.squared.mean()
        counts = counts.to(one.squared.device).expand_as(one.squared)
        many = int(counts.sum())
        return torch.where(counts, one.squared, 0.0).sum() / many if many else None

    def _inside(self, shape: torch.Size, *, in_loss: bool) -> Tensor | None:
        """Which of [b s ..] is no padding, as booleans that broadcast to it; None where no lengths are known."""
        known: Tensor | None = None
        for axis, size in enumerate(shape[1:], 1):
            sources = [self._frames]
            if in_loss:  # [b u+1] of prefixes, [b t] of frames, or [b t u+1] of both
                sources = [self._labels, self._frames] if axis > 1 or len(shape) == 2 else [self._frames, self._labels]
            found = [source[shape[0], size] for source in sources if (shape[0], size) in source]
            if found:
                inside = torch.arange(size, device=found[0].device) < found[0][:, None]
                inside = inside.view(shape[0], *(size if place == axis else 1 for place in range(1, len(shape))))
                known = inside if known is None else known & inside.to(known.device)
        return known

    def _hook(self, module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        self._note([*arguments, *named.values(), output])

    def _watched(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._note([*arguments, *named.values()])
            self._in_loss += 1
            try:
                return loss(*arguments, **named)
            finally:
                self._in_loss -= 1

        return call

    def _note(self, values: list[Any]) -> None:
        for value in values:
            lengths = getattr(value, "lengths", None)
            if not isinstance(value, tuple) or not isinstance(lengths, Tensor) or lengths.ndim != 1:
                continue
            labels = getattr(value, "ids", None)
            padded = value[0] if labels is None else labels
            if not isinstance(padded, Tensor) or padded.ndim < 2 or len(padded) != len(lengths):
                continue
            b, size = padded.shape[:2]
            if labels is None:
                self._frames[b, size] = lengths
            else:
                self._labels.update({(b, size): lengths, (b, size + 1): lengths + 1})
