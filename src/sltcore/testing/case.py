"""One component under test: how it is built small, what it is called with, and which promises it is excused from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltcore.errors import PluginError
from sltcore.interfaces import Encoder
from sltcore.plugin import Component, Ports
from sltcore.types import Port

if TYPE_CHECKING:
    from sltcore.registry import Entry, Registry

Make = Callable[[Mapping[str, Any], Ports, int], Any]
SMALL_KEYS = {
    "config": "the configuration to build with, of a size that runs in seconds",
    "contexts": "the call contexts to try, as a user would give them",
    "skip": "promises that cannot hold, each with the reason",
    "upstream": "the Port of the stage before, where the kit's own does not fit",
    "model": "for transforms: 'module:function', which returns (nn.Module, example input)",
    "labels": "for decoders: how many labels a training target has (3)",
    "query": "for rerankers: the query that hypotheses answer",
    "outputs": "for metrics: items to measure, with 'references' of the same number",
    "references": "for metrics: what 'outputs' should have been",
    "over": "for privacy: config values whose budget the kit's run exceeds",
    "release": "for privacy: the arguments of one release, as a list",
    "sizes": "for privacy: the keyword sizes of `plan` that describe the kit's run (40 private rows, 6 public ones)",
}
"""What `Component.small` may hold."""

ENCODED = Port("Encoded", {"d": 16, "frame_shift_s": 0.04})
TRAINED = Port("Encoded", {"d": 16, "frame_shift_s": 0.01})
UPSTREAM: Mapping[str, Port] = {"decoder": ENCODED, "objective": TRAINED}
"""What stands before a component of these kinds, unless `small["upstream"]` says otherwise."""


@dataclass(frozen=True)
class Case:
    """A component with a way to make it: `make(config, ports, seed) -> object`.

    `small` of the component says the rest; `SMALL_KEYS` lists its keys. Decoders are offered a toy `encoder.head` and
    `encoder.vocabulary` that fit the upstream port.
    """

    component: Component
    make: Make
    entry: Entry | None = None
    modules: tuple[str, ...] = ()
    """What every `slt` command imports: the plugin's own module, and that of the config."""

    @classmethod
    def of(cls, kind: str, name: str, *, registry: Registry | None = None) -> Case:
        """The case of an installed component. **Raises** `PluginError` when there is none of that name."""
        from sltcore.registry import default_registry

        registry = default_registry() if registry is None else registry
        entry = registry.find(kind, name)

        def make(config: Mapping[str, Any], ports: Ports, seed: int) -> Any:
            from sltcore.pipeline import build_component

            return build_component(
                kind,
                name,
                dict(config),
                registry=registry,
                upstream=ports.upstream,
                offers=ports.offers,
                folder=ports.folder,
                seed=seed,
            )

        own = [row.module for row in registry.rows if entry.component in row.components and row.usable]
        modules = (*own[:1], entry.component.config.partition(":")[0])
        return cls(entry.component, make, entry, modules)

    @property
    def kind(self) -> str:
        """The component's kind."""
        return self.component.kind

    @property
    def name(self) -> str:
        """The component's name."""
        return self.component.name

    @cached_property
    def small(self) -> Mapping[str, Any]:
        """`Component.small`, checked. **Raises** `PluginError` for a key that the kit does not know."""
        for key in self.component.small:
            if key not in SMALL_KEYS:
                raise PluginError(
                    f"{self.kind} '{self.name}': small has no key {key!r}; keys: {', '.join(sorted(SMALL_KEYS))}"
                )
        return self.component.small

    @property
    def config(self) -> Mapping[str, Any]:
        """The small configuration."""
        found: Mapping[str, Any] = self.small.get("config", {})
        return found

    @property
    def excused(self) -> Mapping[str, str]:
        """Promises that cannot hold, with the reason."""
        found: Mapping[str, str] = self.small.get("skip", {})
        return found

    @property
    def contexts(self) -> list[Mapping[str, Any]]:
        """The contexts to try; at least the empty one."""
        return list(self.small.get("contexts", ())) or [{}]

    @cached_property
    def part(self) -> Any:
        """One instance for tests that change nothing in it, in evaluation."""
        return self.fresh()

    def fresh(
        self,
        *,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        port: Port | None = None,
    ) -> Any:
        """A new instance whose weights come from `seed`, in evaluation where it is a module."""
        with seeded(seed):
            part = self.make(self.config if config is None else config, self.ports(folder=folder, port=port), seed)
        if hasattr(part, "eval") and hasattr(part, "parameters"):
            part.eval()
        return part

    def ports(self, *, folder: Path | None = None, port: Port | None = None) -> Ports:
        """The surroundings that a builder sees."""
        upstream = port or self.small.get("upstream") or UPSTREAM.get(self.kind)
        offers: Mapping[str, Any] = {}
        if self.kind == "decoder" and upstream is not None and upstream.type == "Encoded":
            from sltcore.testing.toys import head_and_vocabulary

            offers = head_and_vocabulary(upstream.attributes.get("d", 16))
        return Ports(upstream=upstream, offers=offers, folder=folder)

    def context(self, part: Any, raw: Mapping[str, Any], batch: int, *, seed: int = 0) -> dict[str, Any]:
        """What `part` is given when a user calls a pipeline with `raw` on so many utterances."""
        from sltcore.testing.inputs import generator

        return {**spread(part, raw, batch), "generator": generator(seed)}


def spread(part: Any, raw: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """`raw` with values that stand for single utterances repeated to the size of the batch."""
    from sltcore.context import is_per_utterance

    keys = {key.name: key for key in part.context_keys()}
    return {
        name: [value[row % len(value)] for row in range(batch)]
        if name in keys and is_per_utterance(value, keys[name])
        else value
        for name, value in raw.items()
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, numpy and Python at `seed` inside, and as they were afterwards."""
    import numpy as np
    import torch

    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


def jitter(module: Any, *, seed: int = 3) -> None:
    """Move every trainable parameter a little, so that none sits where its neighbours' gradient is zero."""
    import torch

    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                scale = 0.02 * parameter.abs().mean().item() + 0.01
                parameter += scale * torch.randn(parameter.shape, generator=source, dtype=parameter.dtype)


def without_gradient(module: Any) -> list[str]:
    """Names of trainable parameters that received no gradient, or only zeros.

    Modules on offer (a pretrained head, say) are left out: whoever shares them trains them.
    """
    import torch

    offered = {
        id(parameter)
        for value in (module.offers().values() if isinstance(module, Encoder) else ())
        if isinstance(value, torch.nn.Module)
        for parameter in value.parameters()
    }
    return [
        name
        for name, parameter in module.named_parameters()
        if id(parameter) not in offered
        and parameter.requires_grad
        and (parameter.grad is None or not bool(parameter.grad.abs().sum() > 0))
    ]


def listed(names: list[str], most: int = 6) -> str:
    """The first names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
