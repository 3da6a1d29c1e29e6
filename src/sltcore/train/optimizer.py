"""Which parameters change, in which groups, by which rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from sltcore.errors import PluginError, SpecError, did_you_mean
from sltcore.interfaces import Adapter
from sltcore.spec.training import OptimizerConfig, OptimizerGroup, ScheduleConfig
from sltcore.train.schedule import rate

EVERYTHING = ("*",)


def chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Names that the patterns of `trainable` choose, in order; one that begins with ! takes names away again.

    A list that begins with ! begins with all names. **Raises** `SpecError` for a pattern that matches nothing.
    """
    kept = dict.fromkeys(names, patterns[0].startswith("!"))
    for place, pattern in enumerate(patterns):
        takes_away = pattern.startswith("!")
        matched = _matched(names, pattern.removeprefix("!"), f"trainable[{place}]")
        kept.update(dict.fromkeys(matched, not takes_away))
    return [name for name in names if kept[name]]


def _matched(names: Iterable[str], pattern: str, where: str) -> list[str]:
    listed = list(names)
    matched = [name for name in listed if fnmatchcase(name, pattern)]
    if not matched:
        raise SpecError(
            f"{where}: no parameter is named like '{pattern}'; parameters are: {_outline(listed, pattern)}."
            f"{did_you_mean(pattern, [*listed, *_stems(listed)])}"
        )
    return matched


def _stems(names: Iterable[str]) -> list[str]:
    """Patterns of whole modules, such as `encoder.*` and `encoder.blocks.*`."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            found[".".join(parts[:depth]) + ".*"] = None
    return list(found)


def _outline(names: Sequence[str], pattern: str) -> str:
    """The modules a reader can choose from, beside the deepest module that the pattern begins with."""
    parts = pattern.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        prefix = ".".join(parts[:depth])
        below = [name for name in names if not prefix or name.startswith(prefix + ".")]
        if below:
            break
    heads = list(dict.fromkeys(_head(name, prefix) for name in below))
    return ", ".join(heads[:8]) + (f" and {len(heads) - 8} more" if len(heads) > 8 else "") if heads else "none"


def _head(name: str, prefix: str) -> str:
    rest = name[len(prefix) + 1 :] if prefix else name
    first, dot, _ = rest.partition(".")
    return (f"{prefix}." if prefix else "") + first + (".*" if dot else "")


def freeze(
    model: nn.Module, patterns: Sequence[str], transforms: Sequence[Any], own: Iterable[nn.Parameter] = ()
) -> dict[str, nn.Parameter]:
    """Leave a gradient only to the parameters of `model` that `patterns` choose, and return those by name.

    An adapter promises to leave its base as it is, so with one among `transforms` the pattern that stands for
    everything chooses nothing; other patterns count. `own` are parameters of transforms that are attached already, which
    no pattern is about. A parameter that its component froze stays frozen. Called before new transforms attach, while
    names are those of the base.
    """
    apart = {id(parameter) for parameter in own}
    named = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in apart}
    kept_base = tuple(patterns) == EVERYTHING and any(isinstance(transform, Adapter) for transform in transforms)
    names = chosen(list(named), patterns) if named and not kept_base else []
    keep = set(names)
    for name, parameter in named.items():
        if name not in keep:
            parameter.requires_grad_(False)
    return {name: named[name] for name in names if named[name].requires_grad}


def groups(
    parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, further: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Torch parameter groups: each of `config.groups` (the first that matches counts) and the rest, matrices apart from
    norms and biases, which have no weight decay; then `further`, the groups of transforms.

    Each group holds `highest`, the learning rate that the schedule scales. **Raises** `SpecError` for a pattern that
    matches nothing.
    """
    for place, group in enumerate(config.groups):
        for pattern in group.match:
            _matched(parameters, pattern, f"optimizer.groups[{place}].match")
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        place = _place(name, config.groups)
        decays = parameter.ndim >= 2
        settings = found.setdefault((place, decays), _settings(config, place, decays=decays))
        settings["params"].append(parameter)
    ordered = [found[key] for key in sorted(found)]
    known = {id(parameter) for group in ordered for parameter in group["params"]}
    for given in further:
        own = [parameter for parameter in given["params"] if id(parameter) not in known]
        known.update(map(id, own))
        if own:
            settings = {"weight_decay": 0.0, "lr": config.learning_rate, **given, "params": own}
            ordered.append({**settings, "highest": settings["lr"]})
    return ordered


def _place(name: str, listed: Sequence[OptimizerGroup]) -> int:
    for place, group in enumerate(listed):
        if any(fnmatchcase(name, pattern) for pattern in group.match):
            return place
    return len(listed)


def _settings(config: OptimizerConfig, place: int, *, decays: bool) -> dict[str, Any]:
    group = config.groups[place] if place < len(config.groups) else None
    highest = group.learning_rate if group is not None and group.learning_rate is not None else config.learning_rate
    decay = group.weight_decay if group is not None and group.weight_decay is not None else config.weight_decay
    return {"params": [], "lr": highest, "highest": highest, "weight_decay": decay if decays else 0.0}


def make_optimizer(parameter_groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a spec. **Raises** `SpecError` when there is nothing to train.

    Weight decay is decoupled, a factor 1 - lr · decay on the weight, for adamw and sgd; adam adds it to the gradient, which
    is all that tells it from adamw.
    """
    if not parameter_groups:
        raise SpecError("trainable: no parameter is left to train; write a pattern that matches some, such as '*'")
    if config.name == "sgd":
        return DecoupledSgd(parameter_groups, lr=config.learning_rate, momentum=config.momentum)
    rule = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return rule(
        parameter_groups,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


class DecoupledSgd(torch.optim.SGD):
    """SGD with momentum and decoupled weight decay (SGDW): w ← w (1 - lr · decay), then the step of SGD.

    **Source**: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 1.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient."""
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            for parameter in group["params"] if decay else ():
                if parameter.grad is not None:
                    parameter.mul_(1.0 - group["lr"] * decay)
            group["weight_decay"] = 0.0
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


def set_rates(optimizer: torch.optim.Optimizer, schedule: ScheduleConfig, step: int, total: int) -> float:
    """Give every group its rate for `step`; returns the highest of them."""
    factor = rate(schedule, step, total)
    for group in optimizer.param_groups:
        group["lr"] = group.get("highest", group["lr"]) * factor
    return float(max(group["lr"] for group in optimizer.param_groups))


def trained_in(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Every parameter that the optimizer changes, once. **Raises** `PluginError` where a wrapped optimizer hides them."""
    listed = getattr(optimizer, "param_groups", None)
    if listed is None:
        raise PluginError(
            f"a transform's wrap_optimizer gave a {type(optimizer).__name__} without param_groups; keep those of the "
            f"optimizer that it wraps"
        )
    return list({id(p): p for group in listed for p in group["params"]}.values())
