"""Encoder `phone-head`: another encoder's output with the log-probabilities of phones beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.errors import PortError, ShapeError, VocabularyError
from sltcore.interfaces import Encoder, Session
from sltcore.types import ContextKey, Encoded, Port
from sltcore.vocabulary import Vocabulary

PHONE_LOG_PROBS = "phone_log_probs"
"""Name of the log-probabilities [b t p] in `Encoded.extra`."""
PHONE_VOCABULARY = "phone_vocabulary"
PHONE_LANGUAGE = "phone_language"
PHONES_FILE = "phones.json"
FLOOR = 1e-20


class PhoneReader(nn.Module):
    """Scores of phones from one layer of an encoder, or from a mixture of several.

    `logits = W (sum_l softmax(a)_l H^(l)) + b`, [b t d] -> [b t p]; `a` starts at zero, and is left out for one layer.
    """

    def __init__(self, d: int, phones: int, *, layers: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(d, phones)
        self.mixture = nn.Parameter(torch.zeros(layers)) if layers > 1 else None

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Scores [b t p] of the layers [b t d] asked for. **Raises** `ShapeError` for another width."""
        for layer in layers:
            if layer.shape[-1] != self.linear.in_features:
                raise ShapeError(
                    f"phone-head: a layer has shape {tuple(layer.shape)}, expected d = {self.linear.in_features} of the "
                    f"encoder's output; choose other layers"
                )
        if self.mixture is None:
            mixed = layers[0]
        else:
            shares = self.mixture.softmax(0)
            mixed = torch.stack([share * layer for share, layer in zip(shares, layers, strict=True)]).sum(0)
        result: Tensor = self.linear(mixed)
        return result


class PhoneHead(Encoder, nn.Module):
    """A base encoder whose frames are also read as phones.

    `values`, `lengths`, `layers` and what else is in `extra` are the base's, bit for bit. `extra["phone_log_probs"]`
    [b t p] float32 is natural log over `vocabulary`, each frame summing to 1; frames beyond an utterance's length mean
    nothing. They are read by

    - `reader`, new and trainable, from the base's depths `layers` (-1 is the output; further ones are mixed), or
    - `shared`, a head inside the base that scores phones already: no new parameters, and nothing to train. With
      `log_map` [v p] (such as `confusions.Confusions.log_map`) its labels are turned into other phones,
      `p'(f) ~ sum_l exp(log_map[l, f]) p(l)`, normalised in each frame.

    The base is frozen unless `frozen` is false: without gradient, and in evaluation as long as nothing in it is trained
    (an adapter that is attached to it may be). It streams where the base does, with the same frames.

    **Source**: the "phone alignment network" beside a CTC model that Dingliwal et al., arXiv:2210.09510, name; its shape,
    a linear layer trained by phone CTC on a frozen encoder, is ours.

    **Raises** `PortError` when the base is no module, has no such layer, or does not hold the shared head, and where layers
    are named for a shared head.
    """

    def __init__(
        self,
        encoder: Encoder,
        vocabulary: Vocabulary,
        *,
        reader: PhoneReader | None = None,
        shared: nn.Module | None = None,
        log_map: Tensor | None = None,
        layers: Sequence[int] = (-1,),
        frozen: bool = True,
        language: str = "en",
    ) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise PortError(f"phone-head: its encoder is a {type(encoder).__name__}, expected an nn.Module")
        if (reader is None) == (shared is None):
            raise PortError("phone-head: give a new reader or a head that the encoder holds, one of the two")
        if shared is not None and tuple(layers) != (-1,):
            raise PortError(
                f"phone-head: layers are {list(layers)}, but a head that the base brings reads its own; leave layers out, or "
                f"choose phones that need a new head"
            )
        self.encoder: Any = encoder
        self.vocabulary = vocabulary
        self.language = language
        self.frozen = frozen
        self._shared = None if shared is None else _name_in(encoder, shared)
        self.phone_head = reader
        self.log_map: Tensor | None
        self.register_buffer("log_map", None if log_map is None else log_map.detach().clone().float())
        self._check_width(shared)
        self.padding_tolerance = encoder.padding_tolerance
        self.depths_read = _depths(encoder, layers) if reader is not None else (None,)
        inner = [depth for depth in self.depths_read if depth is not None]
        if inner:
            encoder.keep_layers(inner)
        if frozen:
            encoder.requires_grad_(False).eval()

    def _check_width(self, shared: nn.Module | None) -> None:
        scored = shared if shared is not None else self.phone_head.linear if self.phone_head is not None else None
        found = getattr(scored, "out_features", len(self.vocabulary))
        if self.log_map is not None:
            rows, found = self.log_map.shape[0], self.log_map.shape[1]
            if rows != getattr(shared, "out_features", rows):
                raise PortError(f"phone-head: its map is for {rows} labels, but the head scores another number")
        if found != len(self.vocabulary):
            raise PortError(
                f"phone-head: its head scores {found} labels, but the phone vocabulary has {len(self.vocabulary)}; give "
                f"ones that belong together"
            )

    @property
    def consumes(self) -> Port:
        """What the base consumes."""
        port: Port = self.encoder.consumes
        return port

    @property
    def produces(self) -> Port:
        """What the base produces."""
        port: Port = self.encoder.produces
        return port

    @property
    def lookahead_frames(self) -> int | None:
        """The base's."""
        ahead: int | None = self.encoder.lookahead_frames
        return ahead

    @property
    def depths(self) -> int | None:
        """The base's."""
        deepest: int | None = self.encoder.depths
        return deepest

    def keep_layers(self, depths: Sequence[int]) -> None:
        """Ask the base for inner layers, which are passed on."""
        self.encoder.keep_layers(depths)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """The base's frames [b] of input lengths [b]."""
        found: Tensor = self.encoder.output_lengths(lengths)
        return found

    def context_keys(self) -> tuple[ContextKey, ...]:
        """What the base reads."""
        keys: tuple[ContextKey, ...] = self.encoder.context_keys()
        return keys

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """The base's preparation."""
        prepared: Mapping[str, Any] = self.encoder.prepare(context)
        return prepared

    def offers(self) -> Mapping[str, Any]:
        """What the base offers, and `phone_vocabulary`, `phone_language`, and `phone_head` where it scores these phones."""
        mine: dict[str, Any] = {PHONE_VOCABULARY: self.vocabulary, PHONE_LANGUAGE: self.language}
        if self.log_map is None:
            mine["phone_head"] = self._head
        return {**self.encoder.offers(), **mine}

    def save_files(self) -> Mapping[str, bytes]:
        """The phones, so that a bundle has the labels it was trained with."""
        return {PHONES_FILE: json.dumps(self.vocabulary.to_dict(), ensure_ascii=False, indent=1).encode()}

    def train(self, mode: bool = True) -> PhoneHead:
        """Training or evaluation; a frozen base stays in evaluation as long as nothing in it is trained."""
        super().train(mode)
        if self.frozen and not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def forward(self, x: Any, context: Mapping[str, Any]) -> Encoded:
        """The base's `Encoded` with `extra["phone_log_probs"]`. **Raises** what the base raises."""
        return self.with_phones(self.encoder(x, context))

    def open(self, context: Mapping[str, Any]) -> Session:
        """A session whose frames equal the offline ones. **Raises** `StreamError` where the base cannot stream."""
        return PhoneSession(self, self.encoder.open(context))

    def with_phones(self, encoded: Encoded) -> Encoded:
        """An encoding of the base with the phones of its frames."""
        return encoded._replace(extra={**encoded.extra, PHONE_LOG_PROBS: self.log_probs(encoded)})

    def log_probs(self, encoded: Encoded) -> Tensor:
        """Phone log-probabilities [b t p] float32 of an encoding of the base."""
        if self.phone_head is not None:
            layers = [encoded.values if depth is None else encoded.layers[depth] for depth in self.depths_read]
            logits: Tensor = self.phone_head([_inside(layer, encoded.lengths) for layer in layers])
        else:
            logits = self._head(_inside(encoded.values, encoded.lengths))
        found = logits.float().log_softmax(dim=-1)
        if self.log_map is None:
            return found
        heard = (found.exp() @ self.log_map.exp()).clamp_min(FLOOR)
        return heard.log() - heard.sum(dim=-1, keepdim=True).log()

    @property
    def _head(self) -> Any:
        """The new head, or the one that stands in the base now: transforms may have replaced it."""
        return self.encoder.get_submodule(self._shared) if self._shared is not None else self.phone_head


class PhoneSession(Session):
    """A session of the base whose frames are also read as phones."""

    def __init__(self, owner: PhoneHead, inner: Session) -> None:
        self._owner = owner
        self._inner = inner

    def push(self, chunk: Any, **streams: Any) -> Encoded | None:
        """The frames that the base gives now, or None. **Raises** `StreamError` after `finish`."""
        return self._read(self._inner.push(chunk, **streams))

    def finish(self) -> Encoded | None:
        """The remaining frames, or None."""
        return self._read(self._inner.finish())

    def _read(self, encoded: Encoded | None) -> Encoded | None:
        return None if encoded is None else self._owner.with_phones(encoded)


def phone_vocabulary_of(encoder: Any) -> Vocabulary | None:
    """The phones of an encoder's `extra["phone_log_probs"]`: what it offers, or an encoder within it; None without."""
    return _offered(encoder, PHONE_VOCABULARY, Vocabulary)


def phone_language_of(encoder: Any) -> str | None:
    """The language of an encoder's phones, found likewise."""
    return _offered(encoder, PHONE_LANGUAGE, str)


def _offered(encoder: Any, name: str, kind: type) -> Any:
    inner = encoder.modules() if isinstance(encoder, nn.Module) else ()
    for part in (encoder, *inner):
        value = part.offers().get(name) if isinstance(part, Encoder) else None
        if isinstance(value, kind):
            return value
    return None


def read_phones(data: bytes) -> Vocabulary:
    """The phones that `save_files` wrote. **Raises** `VocabularyError` for anything else."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise VocabularyError(f"phone-head: the bundle's {PHONES_FILE} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise VocabularyError(f"phone-head: the bundle's {PHONES_FILE} holds a {type(content).__name__}, not labels")
    return Vocabulary.from_dict(content)


def _inside(values: Tensor, lengths: Tensor) -> Tensor:
    """Values [b t d] with zeros beyond each length: what stands there may not be finite."""
    inside = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
    return torch.where(inside[..., None], values, 0.0)


def _name_in(encoder: nn.Module, head: nn.Module) -> str:
    for name, module in encoder.named_modules():
        if module is head:
            return name
    raise PortError(
        f"phone-head: the head on offer, a {type(head).__name__}, does not stand in its encoder {type(encoder).__name__}; "
        f"put phone-head over the encoder that offers it, or choose phones: cmu"
    )


def _depths(encoder: Encoder, layers: Sequence[int]) -> tuple[int | None, ...]:
    """The depths that `layers` mean, None for the output."""
    deepest = encoder.depths
    found: list[int | None] = []
    for layer in layers:
        if layer == -1 or (deepest is not None and layer == deepest):
            found.append(None)
            continue
        if deepest is None:
            raise PortError(
                f"phone-head: layers names {layer}, but {type(encoder).__name__} gives out no inner layers; leave layers "
                f"empty, or [-1]"
            )
        depth = layer if layer >= 0 else deepest + 1 + layer
        if not 0 <= depth < deepest:
            raise PortError(
                f"phone-head: layers names {layer}, but the depths of {type(encoder).__name__} run from 0 to {deepest}, or "
                f"from -{deepest + 1} to -1"
            )
        found.append(depth)
    if len(set(found)) < len(found):
        raise PortError(f"phone-head: layers {list(layers)} names a depth twice; name each once")
    return tuple(found)
