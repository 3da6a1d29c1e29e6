"""Where adapters go: modules by pattern, and the width of what they return."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from slt_residual_adapters.outputs import first_tensor
from sltcore.errors import PluginError, did_you_mean

CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)
TRANSFORMERS = (
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.TransformerEncoder, nn.TransformerDecoder,
)  # fmt: skip
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
WIDTH_NAMES = ("d_model", "hidden_size", "embed_dim", "output_size", "d", "width")
MOST_NAMED = 8


class Place(NamedTuple):
    """A module of the model that an adapter stands at: `d` is the width of its output, along `axis` (-1, or 1 for
    convolutions), `d_in` that of its input where it is a linear layer."""

    name: str
    module: nn.Module
    d: int
    axis: int = -1
    d_in: int | None = None


def named(model: nn.Module, patterns: Sequence[str], *, linear: bool = False) -> dict[str, nn.Module]:
    """The modules that the patterns choose, in the order of the model; without any, `repeated`, or every linear layer
    where only those will do.

    In a pattern `*` stands for anything between two dots, `**` also for dots; one that begins with ! takes modules away
    again. **Raises** `PluginError` for a pattern that matches nothing, and for modules that are never called.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if not patterns:
        return linears(model) if linear else repeated(model)
    kept = dict.fromkeys(modules, patterns[0].startswith("!"))
    for pattern in patterns:
        expression = _expression(pattern.removeprefix("!"))
        matched = [name for name in modules if expression.fullmatch(name)]
        if not matched:
            some = ", ".join(list(modules)[:MOST_NAMED])
            more = f" and {len(modules) - MOST_NAMED} more" if len(modules) > MOST_NAMED else ""
            raise PluginError(
                f"place: no module is named like '{pattern}'; modules: {some}{more}."
                f"{did_you_mean(pattern.removeprefix('!'), modules)}"
            )
        kept.update(dict.fromkeys(matched, not pattern.startswith("!")))
    chosen = {name: module for name, module in modules.items() if kept[name]}
    for name, module in chosen.items():
        if isinstance(module, CONTAINERS):
            raise PluginError(f"place: {name} is a {type(module).__name__}, which is never called; write '{name}.*'")
    if not chosen:
        raise PluginError(f"place: {', '.join(patterns)} leave no module; write a pattern that keeps some")
    return chosen


def repeated(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a model: recurrent layers, and the entries of its outermost lists of modules that hold linear or
    recurrent layers; where there are none, every linear layer. **Raises** `PluginError` for a model without any."""
    return dict(_blocks(model, "")) or linears(model)


def linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer that is called, which those inside `nn.MultiheadAttention` are not. **Raises** `PluginError` for a
    model without any."""
    hidden = {
        id(inner)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for inner in module.modules()
    }
    found: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if name and isinstance(module, nn.Linear) and id(module) not in hidden
    }
    if not found:
        raise PluginError(
            f"place: {type(model).__name__} has no blocks and no linear or recurrent layers to choose; name modules of it"
        )
    return found


def _blocks(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList):
            entries = {f"{path}.{place}": entry for place, entry in enumerate(child)}
            deep = {place: entry for place, entry in entries.items() if _is_block(entry)}
            yield from deep.items()
        elif isinstance(child, nn.RNNBase):
            yield path, child
        else:
            yield from _blocks(child, f"{path}.")


def _is_block(module: nn.Module) -> bool:
    if isinstance(module, nn.RNNBase):
        return True
    inner = [child for child in module.modules() if child is not module]
    return any(isinstance(child, nn.Linear | nn.RNNBase | nn.MultiheadAttention) for child in inner)


def _expression(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*|\*|\?)", pattern)
    meant = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    return re.compile("".join(meant.get(piece, re.escape(piece)) for piece in pieces))


def places(
    model: nn.Module, patterns: Sequence[str], *, d: int | None = None, example: Any = None, linear: bool = False
) -> list[Place]:
    """The places that the patterns choose, of `linear` layers only where that is asked for. Widths are `d`, or those of a call of the model on `example` where one is
    given, or what the modules say of themselves.

    **Raises** `PluginError` for patterns that match nothing, a module that the call on `example` does not reach, and a
    module whose width nobody knows.
    """
    chosen = named(model, patterns, linear=linear)
    seen = {} if example is None else _call(model, chosen, example)
    found = []
    for name, module in chosen.items():
        axis = 1 if isinstance(module, CONVOLUTIONS) else -1
        width = d if d is not None else seen.get(name, own_width(module))
        if width is None:
            raise PluginError(
                f"place: {name} ({type(module).__name__}) does not say how wide its output is; set d, give calibration data, or "
                f"name a module inside it"
            )
        wide = module.in_features if isinstance(module, nn.Linear) else None
        found.append(Place(name, module, width, axis, wide))
    return found


def own_width(module: nn.Module) -> int | None:
    """The width of a module's output, from its type, its attributes, or the last module inside that has one."""
    known: int | None = None
    if isinstance(module, nn.Linear):
        known = module.out_features
    elif isinstance(module, nn.RNNBase):
        known = (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
    elif isinstance(module, CONVOLUTIONS):
        known = module.out_channels
    elif isinstance(module, nn.Embedding):
        known = module.embedding_dim
    elif isinstance(module, nn.LayerNorm):
        known = module.normalized_shape[-1]
    if known is not None:
        return known
    holders = [module, getattr(module, "config", None)]
    for holder in holders:
        for name in WIDTH_NAMES:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    for child in reversed(list(module.children())):
        inner = None if isinstance(child, nn.Dropout) else own_width(child)
        if inner is not None:
            return inner
    return None


def is_batch_first(model: nn.Module, name: str) -> bool:
    """Whether the utterances of a call run along the first axis of what a module returns, as it says itself, or the next
    module around it that says something of it; True where none does."""
    parts = name.split(".")
    for depth in range(len(parts), -1, -1):
        known = _says_batch_first(model.get_submodule(".".join(parts[:depth])))
        if known is not None:
            return known
    return True


def _says_batch_first(module: nn.Module) -> bool | None:
    if isinstance(module, TRANSFORMERS):
        return next((one.batch_first for one in module.modules() if isinstance(one, nn.MultiheadAttention)), None)
    known = getattr(module, "batch_first", None)
    return known if isinstance(known, bool) else None


def _call(model: nn.Module, chosen: dict[str, nn.Module], example: Any) -> dict[str, int]:
    """Widths as a call in evaluation shows them; the model is left in the mode it was in."""
    seen: dict[str, int] = {}

    def look(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, arguments: Any, output: Any) -> None:
            axis = 1 if isinstance(module, CONVOLUTIONS) else -1
            seen[name] = first_tensor(output, name).shape[axis]

        return module.register_forward_hook(hook)

    modes = [(module, module.training) for module in model.modules()]
    handles = [look(name, module) for name, module in chosen.items()]
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    silent = [name for name in chosen if name not in seen]
    if silent:
        raise PluginError(
            f"place: {silent[0]} is not called when the model runs{f', nor are {len(silent) - 1} more' if len(silent) > 1 else ''}, "
            f"so an adapter there would have no effect; name other modules"
        )
    return seen
