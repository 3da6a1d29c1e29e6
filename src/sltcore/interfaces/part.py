"""What every component of a pipeline has: ports, context keys, offers, and sessions where it can stream."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sltcore.errors import PluginError, StreamError
from sltcore.types import ContextKey, Port


class Session(ABC):
    """One streaming call: chunks go in, what is ready comes out.

    An encoder's session returns new frames only: everything `push` and `finish` return, concatenated over time, equals
    the offline result. A decoder's or pipeline's session returns the reading of everything so far, which may still
    change; what `finish` returns is final and equals the offline result.
    """

    @abstractmethod
    def push(self, chunk: Any, **streams: Any) -> Any | None:
        """Take the next chunk (of the type the component consumes; `streams` holds further signals such as
        `reference`) and return what can be said now, or None. Raises `StreamError` after `finish`."""

    @abstractmethod
    def finish(self) -> Any | None:
        """End the stream and return the rest, or None. Raises `StreamError` when called twice."""


class Part(ABC):
    """The common ground of the kinds; not a kind itself."""

    promises: ClassVar[Mapping[str, str]] = {}
    """Promise name to sentence; the conformance kit has one test for each."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_module_first(cls)

    @property
    @abstractmethod
    def consumes(self) -> Port:
        """What this component takes."""

    @property
    @abstractmethod
    def produces(self) -> Port:
        """What this component gives."""

    def context_keys(self) -> tuple[ContextKey, ...]:
        """The side information this component reads. A call that gives a key nobody reads is refused."""
        return ()

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do the work of a long list once: returns a context whose values are ready for many calls.

        A prepared value keeps the type of its key (a list of phrases with something attached, say), for other stages
        read the same context. It is also where a list is checked: **Raises** `ContextError` naming every phrase that
        cannot be spelled.
        """
        return context

    def learn_texts(self, texts: Sequence[str]) -> None:
        """Called once before training, with the texts of all training utterances (to draw distractors from, say)."""
        return

    def training_context(
        self, texts: Sequence[str], context: Mapping[str, Any], seeds: Sequence[int]
    ) -> Mapping[str, Any]:
        """Side information that this component adds to a batch it is trained on, such as lists of phrases drawn from the
        references: values under its own context keys, one for each utterance or one for all.

        `texts` are the references, `context` what the data give, `seeds` one number for each utterance and epoch, from
        which alone anything random is drawn. Also called for the loss of evaluations, with seeds that stay the same;
        not where texts are decoded.
        """
        return {}

    def offers(self) -> Mapping[str, Any]:
        """What other slots may share by `{ref: path.name}`: modules, or values such as `head` and `vocabulary`."""
        return {}

    def open(self, context: Mapping[str, Any]) -> Session:
        """Begin a streaming session for one utterance. Raises `StreamError` where the component cannot stream."""
        raise StreamError(f"{type(self).__name__} cannot stream; call it on whole recordings")

    def renamed(self, tensor: str) -> str:
        """What a tensor is called today that an earlier version of this component called `tensor`; names begin below the
        component. Bundles are read under these names, those of codes that a quantizer keeps for a weight, too."""
        return tensor

    def save_files(self) -> Mapping[str, bytes]:
        """Files, by name, that a bundle must carry for this component beside its weights (a language model, a word
        list). Its builder reads them back from `ports.folder`."""
        return {}


def refuse_module_first(cls: type) -> None:
    """Refuse a class that lists `nn.Module` before its interface: nn.Module's own `forward` would hide a missing one."""
    torch_module = sys.modules.get("torch.nn.modules.module")
    if torch_module is None:
        return
    for base in cls.__bases__:
        if base is torch_module.Module:
            later = [b for b in cls.__bases__[cls.__bases__.index(base) + 1 :] if hasattr(b, "promises")]
            if later:
                raise PluginError(
                    f"{cls.__module__}.{cls.__qualname__}: put {later[0].__name__} before nn.Module in the bases, "
                    f"otherwise nn.Module's own forward hides the missing one"
                )


def overrides(part: object, method: str, kind: type) -> bool:
    """Whether `part` brings its own `method` instead of the default of `kind` (how optional methods are detected)."""
    return getattr(type(part), method, None) is not getattr(kind, method, None)
