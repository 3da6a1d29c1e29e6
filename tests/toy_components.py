"""Components that tests register without a distribution: they show what reached them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.context import per_utterance
from sltcore.errors import StreamError
from sltcore.interfaces import Decoder, Encoder, Reranker, Session
from sltcore.plugin import Component, Ports, hookimpl
from sltcore.registry import Registry
from sltcore.spec import Config
from sltcore.types import ContextKey, Encoded, Hypothesis, NBest, Port, Text, Waveform

HOP = 160
REFERENCE = ContextKey("reference", "waveform", "playback signal")
VOICE = ContextKey("voice", "waveform", "a voice to imitate, as a whole")
PHRASES = ContextKey("phrases", "texts", "phrases to expect")
LANGUAGE = ContextKey("language", "text", "the language that is spoken")


def _sums(samples: Tensor, lengths: Tensor) -> Tensor:
    """Sum of every hop's samples [b t]."""
    inside = torch.arange(samples.shape[1]) < lengths[:, None]
    padded = nn.functional.pad(torch.where(inside, samples, 0.0), (0, -samples.shape[1] % HOP))
    return padded.reshape(len(samples), -1, HOP).sum(-1)


class EchoEncoder(Encoder):
    """Frames [b t 2]: the sums of the input's and the reference's samples over each hop of 10 ms."""

    def __init__(self, *, streams: bool) -> None:
        self.streams = streams

    @property
    def consumes(self) -> Port:
        return Port("Waveform", {"sample_rate_hz": 16000})

    @property
    def produces(self) -> Port:
        return Port("Encoded", {"d": 2, "frame_shift_s": 0.01})

    def context_keys(self) -> tuple[ContextKey, ...]:
        return (REFERENCE, VOICE)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths + HOP - 1) // HOP

    def forward(self, x: Waveform, context: Mapping[str, Any]) -> Encoded:
        beside = torch.zeros_like(x.samples)
        for row, signal in enumerate(per_utterance(context, REFERENCE, len(x.lengths))):
            if signal is not None:
                signal = torch.as_tensor(signal).reshape(-1)[: x.samples.shape[1]]
                beside[row, : len(signal)] = signal
        for row, voice in enumerate(per_utterance(context, VOICE, len(x.lengths))):
            beside[row] += 0.0 if voice is None else float(len(voice))
        return Encoded(
            torch.stack([_sums(x.samples, x.lengths), _sums(beside, x.lengths)], -1),
            self.output_lengths(x.lengths),
            0.01,
        )

    def open(self, context: Mapping[str, Any]) -> Session:
        if not self.streams:
            raise StreamError("this encoder does not stream")
        return EchoSession(self, context)


class EchoSession(Session):
    """Blocks of whole hops only."""

    def __init__(self, encoder: EchoEncoder, context: Mapping[str, Any]) -> None:
        self.encoder = encoder
        self.context = context

    def push(self, chunk: Waveform, **streams: Waveform) -> Encoded:
        signals = {name: [wave.samples[0]] for name, wave in streams.items()}
        return self.encoder.forward(chunk, {**self.context, **signals})

    def finish(self) -> None:
        return None


class Tally(Decoder):
    """Text: the totals of both columns to 0.01, the phrases and the language; it counts how often it prepared."""

    def __init__(self) -> None:
        self.prepared = 0
        self.pushes = 0

    @property
    def consumes(self) -> Port:
        return Port("Encoded", {"d": 2})

    @property
    def produces(self) -> Port:
        return Port("Hypotheses")

    def context_keys(self) -> tuple[ContextKey, ...]:
        return (PHRASES, LANGUAGE)

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(context.get("phrases"), list):
            return context
        self.prepared += 1
        return {**context, "phrases": frozenset(context["phrases"])}

    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        phrases = per_utterance(context, PHRASES, len(encoded.lengths))
        languages = per_utterance(context, LANGUAGE, len(encoded.lengths))
        found = []
        for row, length in enumerate(encoded.lengths.tolist()):
            near, far = encoded.values[row, :length].double().sum(0).tolist()
            if near > 1e6:
                raise RuntimeError("louder than\nanything foreseen")
            listed = "-" if phrases[row] is None else "+".join(sorted(phrases[row]))
            found.append(
                NBest([Hypothesis(f"{near:.2f} {far:.2f} {listed} {languages[row]}", times=((0.0, length * 0.01),))])
            )
        return found

    def open(self, context: Mapping[str, Any]) -> Session:
        return TallySession(self, context)


class TallySession(Session):
    def __init__(self, decoder: Tally, context: Mapping[str, Any]) -> None:
        self.decoder = decoder
        self.context = context
        self.heard: list[Encoded] = []

    def push(self, chunk: Encoded, **streams: Any) -> None:
        self.decoder.pushes += 1
        self.heard.append(chunk)

    def finish(self) -> NBest:
        values = torch.cat([chunk.values for chunk in self.heard], 1)
        (result,) = self.decoder.decode(Encoded(values, torch.tensor([values.shape[1]]), 0.01), self.context)
        return result


class Lines(Decoder):
    """Two readings of a text: itself and itself reversed."""

    @property
    def consumes(self) -> Port:
        return Port("Text")

    @property
    def produces(self) -> Port:
        return Port("Hypotheses")

    def decode(self, encoded: Text, context: Mapping[str, Any]) -> list[NBest]:
        return [NBest([Hypothesis(text, -1.0), Hypothesis(text[::-1], -2.0)]) for text in encoded.texts]


class Judge(Reranker):
    """Prefers what equals the query reversed, or the language of the call."""

    def context_keys(self) -> tuple[ContextKey, ...]:
        return (LANGUAGE,)

    def score(self, query: Any, hypotheses: Any, context: Mapping[str, Any]) -> list[float]:
        (language,) = per_utterance(context, LANGUAGE, 1)
        wanted = language if language is not None else query[::-1]
        return [float(hypothesis.text == wanted) for hypothesis in hypotheses]


class NoFields(Config):
    """Nothing to choose."""


class Streams(Config):
    """Whether it streams."""

    streams: bool = True


def echo(config: Streams, ports: Ports) -> EchoEncoder:
    return EchoEncoder(streams=config.streams)


def tally(config: NoFields, ports: Ports) -> Tally:
    return Tally()


def lines(config: NoFields, ports: Ports) -> Lines:
    return Lines()


def judge(config: NoFields, ports: Ports) -> Judge:
    return Judge()


SLT_API = (1, 0)


@hookimpl
def slt_components() -> list[Component]:
    """All of them."""

    def component(kind: str, name: str, impl: str, config: str) -> Component:
        return Component(
            kind, name, impl=f"toy_components:{impl}", config=f"toy_components:{config}", summary=f"toy {name}"
        )

    return [
        component("encoder", "echo", "echo", "Streams"),
        component("decoder", "tally", "tally", "NoFields"),
        component("decoder", "lines", "lines", "NoFields"),
        component("reranker", "judge", "judge", "NoFields"),
    ]


def toy_registry(site: Any) -> Registry:
    """A registry of these components alone; `site` is a folder like site-packages."""
    site.add("toys", "from toy_components import SLT_API, slt_components\n")
    return Registry(path=[str(site.folder)])
