"""The outputs of a frozen encoder, kept by what the utterances sound like: a second epoch costs no second pass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sltcore.types import Encoded, Waveform


class Kept(NamedTuple):
    """One utterance: output [t d], inner layers [t d] by depth, further tensors [t ..] by name."""

    values: Tensor
    layers: Mapping[int, Tensor]
    extra: Mapping[str, Tensor]


class BaseMemory:
    """Calls an encoder for utterances that it has not heard before, up to `most_bytes` of kept outputs.

    An utterance is known by a digest of its own samples or frames, so padding and order in the batch do not matter; what
    is kept came from another batch, and is the same up to the encoder's `padding_tolerance`. What does not fit any more
    is computed each time. All is forgotten when a parameter or buffer of the encoder changes.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: dict[bytes, Kept] = {}
        self._version: tuple[Any, ...] = ()
        self._can_keep = True
        self._frame = (0.0, 0.0)

    def encode(self, encoder: nn.Module, x: Any) -> Encoded:
        """The encoding of a batch that has lengths, without any context."""
        version = version_of(encoder)
        if version != self._version:
            self._kept.clear()
            self._version, self.held_bytes = version, 0
        if not self._can_keep:
            whole: Encoded = encoder(x, {})
            return whole
        names = [_digest(x, row, length) for row, length in enumerate(x.lengths.tolist())]
        missing = list({name: row for row, name in enumerate(names) if name not in self._kept}.values())
        self.hits += len(names) - len(missing)
        self.misses += len(missing)
        fresh: dict[bytes, Kept] = {}
        if missing:
            encoded: Encoded = encoder(_rows(x, missing), {})
            self._frame = (encoded.frame_shift_s, encoded.offset_s)
            if not _has_rows(encoded):
                self._can_keep = False
                return self.encode(encoder, x)
            for place, row in enumerate(missing):
                fresh[names[row]] = self._keep(names[row], encoded, place)
        return _joined([fresh.get(name) or self._kept[name] for name in names], self._frame)

    def _keep(self, name: bytes, encoded: Encoded, place: int) -> Kept:
        length = int(encoded.lengths[place])
        kept = Kept(
            encoded.values[place, :length].clone(),
            {depth: layer[place, :length].clone() for depth, layer in encoded.layers.items()},
            {name: tensor[place, :length].clone() for name, tensor in encoded.extra.items()},
        )
        size = sum(t.numel() * t.element_size() for t in (kept.values, *kept.layers.values(), *kept.extra.values()))
        if self.held_bytes + size <= self.most_bytes:
            self._kept[name] = kept
            self.held_bytes += size
        return kept


def version_of(module: nn.Module) -> tuple[Any, ...]:
    """What changes when a parameter or buffer of a module does."""
    tensors = (*module.parameters(), *module.buffers())
    return tuple((id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def _digest(x: Any, row: int, length: int) -> bytes:
    array, unit = (x.samples, x.sample_rate_hz) if isinstance(x, Waveform) else (x.values, x.frame_shift_s)
    own = array[row, :length].detach().contiguous().cpu()
    digest = hashlib.blake2b(f"{own.dtype} {tuple(own.shape)} {unit} ".encode(), digest_size=16)
    digest.update(own.view(torch.uint8).numpy().data if own.numel() else b"")
    return digest.digest()


def _rows(x: Any, rows: Sequence[int]) -> Any:
    """Some utterances of a batch, padded to the longest of them."""
    field = "samples" if isinstance(x, Waveform) else "values"
    array: Tensor = getattr(x, field)
    chosen = torch.tensor(rows, device=array.device)
    lengths = x.lengths[chosen.to(x.lengths.device)]
    return x._replace(**{field: array[chosen, : max(1, int(lengths.max()))]}, lengths=lengths)


def _has_rows(encoded: Encoded) -> bool:
    """Whether every tensor is [b t ..], so that it can be divided by utterances."""
    shape = encoded.values.shape[:2]
    return all(tensor.shape[:2] == shape for tensor in (*encoded.layers.values(), *encoded.extra.values()))


def _joined(kept: Sequence[Kept], frame: tuple[float, float]) -> Encoded:
    first = kept[0]
    lengths = torch.tensor([len(one.values) for one in kept], device=first.values.device)
    return Encoded(
        pad_sequence([one.values for one in kept], batch_first=True),
        lengths,
        *frame,
        {depth: pad_sequence([one.layers[depth] for one in kept], batch_first=True) for depth in first.layers},
        {name: pad_sequence([one.extra[name] for one in kept], batch_first=True) for name in first.extra},
    )
