"""From a validated spec to built components that fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sltcore.errors import PluginError, PortError, SltError, did_you_mean
from sltcore.interfaces import INTERFACES, Part
from sltcore.plugin import Ports
from sltcore.registry import Entry, Registry, default_registry
from sltcore.spec.load import Spec
from sltcore.spec.problems import path_text
from sltcore.spec.slots import Block, Config, Ref
from sltcore.types import Port, Waveform

STAGES = ("encoder", "decoder", "reranker", "vocoder")


@dataclass
class Scope:
    """What has been built so far, by path, and what it offers."""

    registry: Registry
    folder: Path | None = None
    objects: dict[str, Any] = field(default_factory=dict)
    slots: dict[str, dict[str, Any]] = field(default_factory=dict)

    def offers(self) -> dict[str, Any]:
        """Everything on offer by full path, such as `encoder.head`.

        What a wrapper does not offer itself is looked for in the components of its slots, so a head passes through.
        """
        found: dict[str, Any] = {}
        for path in sorted(self.objects, key=len):
            built = self.objects[path]
            if not isinstance(built, Part):
                continue
            for name, value in built.offers().items():
                parts = path.split(".")
                for end in range(len(parts), 0, -1):
                    found.setdefault(".".join((*parts[:end], name)), value)
        return found

    def resolve(self, reference: Ref, path: str) -> Any:
        """The object behind a reference; **Raises** `PortError` when there is nothing of that name."""
        if reference.ref in self.objects:
            return self.objects[reference.ref]
        offers = self.offers()
        if reference.ref in offers:
            return offers[reference.ref]
        choices = sorted({*self.objects, *offers})
        raise PortError(
            f"{path}: {{ref: {reference.ref}}} leads nowhere; before it there is: {', '.join(choices) or 'nothing'}."
            f"{did_you_mean(reference.ref, choices)}"
        )


def build_block(block: Block, path: str, upstream: Port | None, scope: Scope) -> Any:
    """One component with everything in its slots; kept in `scope` under its path."""
    slots: dict[str, Any] = {}
    for name, value in _slot_fields(block.config):
        slots[name] = _fill_slot(value, f"{path}.{name}", upstream, scope)
    ports = Ports(upstream=upstream, slots=slots, offers=scope.offers(), folder=_own_folder(scope.folder, path))
    built = _call_builder(block.entry, block.config, ports, path)
    scope.objects[path] = built
    scope.slots[path] = slots
    return built


def _own_folder(folder: Path | None, path: str) -> Path | None:
    """Files of one component lie in a folder of their own in the bundle."""
    return None if folder is None else folder / "files" / path


def _slot_fields(config: Config) -> Iterator[tuple[str, Any]]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Block | Ref) or (
            isinstance(value, list | tuple) and any(isinstance(v, Block | Ref) for v in value)
        ):
            yield name, value


def _fill_slot(value: Any, path: str, upstream: Port | None, scope: Scope) -> Any:
    if isinstance(value, list | tuple):
        return [_fill_slot(item, f"{path}[{index}]", upstream, scope) for index, item in enumerate(value)]
    if isinstance(value, Ref):
        return scope.resolve(value, path)
    return build_block(value, path, upstream, scope)


def _call_builder(entry: Entry, config: Config, ports: Ports, path: str) -> Any:
    builder = entry.load_impl()
    who = f"{path} ({entry.label} of {entry.distribution} {entry.version})"
    try:
        built = builder(config, ports)
    except SltError as error:
        raise type(error)(f"{path}: {error}" if not str(error).startswith(path) else str(error)) from error
    except Exception as error:
        text = " ".join(str(error).split())
        raise PluginError(f"{who} could not be built: {type(error).__name__}: {text}") from error
    interface = INTERFACES[entry.component.kind]
    if not isinstance(built, interface):
        raise PluginError(
            f"{who} built a {type(built).__module__}.{type(built).__qualname__}, which is no {interface.__name__}; let it inherit from sltcore.interfaces.{interface.__name__}"
        )
    return built


def check_ports(producer: str, produced: Port, consumer: str, consumed: Port) -> None:
    """**Raises** `PortError` naming both components and both values, when what is produced is not what is consumed."""
    if produced.type != consumed.type:
        raise PortError(
            f"{producer} produces {produced}, but {consumer} consumes {consumed}; put something between them, or swap one"
        )
    for name, value in produced.attributes.items():
        expected = consumed.attributes.get(name, value)
        if expected != value:
            raise PortError(
                f"{producer} produces {produced.type} with {name}={value}, but {consumer} consumes {name}={expected}; change one of the two"
            )


class Model(nn.Module):
    """The torch modules of a pipeline under their stage names; transforms attach to it and may call it."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
        self._stages = {name: part for name, part in parts.items() if name in ("encoder", "decoder", "vocoder")}

    def forward(self, value: Any, context: Mapping[str, Any] | None = None) -> Any:
        """Encoder, decoder and vocoder on a batch of what the first of them consumes, as calibration and cost need it."""
        for name, part in self._stages.items():
            if name == "encoder":
                value = part(value, context or {}) if callable(part) else part.forward(value, context or {})
            elif name == "decoder":
                value = part.decode(value, context or {})
            else:
                value = part.synthesize(part.analyze(value) if isinstance(value, Waveform) else value)
        return value


@dataclass
class Built:
    """Everything a pipeline is made of."""

    parts: dict[str, Any]
    transforms: list[Any]
    metrics: list[Any]
    model: Model
    scope: Scope


def build_spec(spec: Spec, registry: Registry, folder: Path | None = None) -> Built:
    """Build every stage in order and check that neighbours fit; transforms are built but not yet attached."""
    scope = Scope(registry, folder)
    parts: dict[str, Any] = {}
    upstream: Port | None = None
    before = ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.model.seed)
        for stage in STAGES:
            block = getattr(spec.model, stage)
            if block is None:
                continue
            label = f"{stage} '{block.use}'" if isinstance(block, Block) else stage
            try:
                part = _stage(block, stage, upstream, scope)
            except PortError as error:
                if upstream is None:
                    raise
                raise PortError(f"{error} ({before} produces {upstream.type}, {label} stands after it)") from error
            if upstream is not None:
                check_ports(before, upstream, label, part.consumes)
            parts[stage] = part
            upstream, before = part.produces, label
        transforms = _list(spec.model.transforms, "transforms", upstream, scope)
        metrics = _list(spec.model.metrics, "metrics", upstream, scope)
    return Built(parts, transforms, metrics, Model(parts), scope)


def _stage(block: Block | Ref, stage: str, upstream: Port | None, scope: Scope) -> Any:
    if isinstance(block, Block):
        return build_block(block, stage, upstream, scope)
    part = scope.resolve(block, stage)
    if not isinstance(part, INTERFACES[stage]):
        raise PortError(
            f"{stage}: {{ref: {block.ref}}} is a {type(part).__name__}, expected {INTERFACES[stage].__name__}"
        )
    return part


def _list(blocks: Sequence[Block | Ref], name: str, upstream: Port | None, scope: Scope) -> list[Any]:
    """Transforms or metrics, each one built where it stands."""
    return [_fill_slot(block, path_text((name, place)), upstream, scope) for place, block in enumerate(blocks)]


def build_component(
    kind: str,
    name: str,
    config: Mapping[str, Any] | None = None,
    *,
    registry: Registry | None = None,
    upstream: Port | None = None,
    offers: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    seed: int = 0,
) -> Any:
    """One component alone, as a test or a program needs it.

    `config` is what a spec's block would hold beside `use`. `offers` stands in for earlier stages
    (`{"encoder.head": …}`). **Raises** `SpecError` for a wrong config and `PluginError` for a wrong builder.
    """
    registry = registry if registry is not None else default_registry()
    block = validated_block(kind, name, config or {}, registry)
    scope = Scope(registry)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        slots = {
            slot: _fill_slot(value, f"{kind}.{slot}", upstream, scope) for slot, value in _slot_fields(block.config)
        }
        ports = Ports(upstream=upstream, slots=slots, offers={**scope.offers(), **(offers or {})}, folder=folder)
        return _call_builder(block.entry, block.config, ports, kind)


def validated_block(kind: str, name: str, config: Mapping[str, Any], registry: Registry) -> Block:
    """One block, validated through a throw-away model with one slot, so that errors read as those of a spec."""
    from typing import Annotated

    from pydantic import ValidationError, create_model

    from sltcore.spec.document import Document, Mark
    from sltcore.spec.problems import problems_of, spec_error
    from sltcore.spec.slots import Slot

    data = {kind: {"use": name, **config}}
    model = create_model("Single", __base__=Config, **{kind: (Annotated[Block, Slot(kind)], ...)})  # type: ignore[call-overload]
    try:
        validated = model.model_validate(data, context={"registry": registry})
    except ValidationError as error:
        raise spec_error(
            list(problems_of(error, model, data=data)), Document(data, {(): Mark(1, 1)}, "<dict>")
        ) from None
    block = getattr(validated, kind)
    assert isinstance(block, Block)
    return block
