"""One plugin as one row: what it brings, or what is wrong with it and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sltcore.errors import PluginError
from sltcore.plugin import Component

STATUSES = ("ok", "slow", "collision", "disabled", "broken", "misspelt", "too-new", "too-old", "hung", "exited")
USABLE = ("ok", "slow", "collision")
MAX_TEXT = 400
_DATA = tuple(item.name for item in fields(Component) if item.name != "small")


@dataclass(frozen=True)
class Row:
    """The state of one plugin. `problem` and `remedy` are empty when the status is "ok".

    `faults` names components ("kind/name") whose config failed to load, each with what to do; the plugin's other
    components stay usable.
    """

    plugin: str
    distribution: str
    version: str
    module: str
    location: str = ""
    status: str = "ok"
    problem: str = ""
    remedy: str = ""
    seconds: float = 0.0
    components: tuple[Component, ...] = ()
    commands: tuple[tuple[str, str, str], ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    shadowed: tuple[str, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Distribution and entry name: unique, unlike either."""
        return f"{self.distribution}/{self.plugin}"

    @property
    def usable(self) -> bool:
        """Whether its components can be used."""
        return self.status in USABLE

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a component's `small` stays behind, for it may hold anything."""
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        data["components"] = [{name: getattr(component, name) for name in _DATA} for component in self.components]
        data["commands"] = [list(command) for command in self.commands]
        data["checks"] = dict(self.checks)
        data["shadowed"] = list(self.shadowed)
        data["faults"] = dict(self.faults)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The row that `to_dict` wrote."""
        values = dict(data)
        values["components"] = tuple(Component(**component) for component in data["components"])
        values["commands"] = tuple(tuple(command) for command in data["commands"])
        values["shadowed"] = tuple(data["shadowed"])
        return cls(**values)


def one_line(text: str) -> str:
    """Foreign text as a message can carry it: on one line, printable, at most 400 characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_TEXT]).split())
    return flat if len(flat) <= MAX_TEXT else flat[: MAX_TEXT - 1] + "…"


def describe_error(error: BaseException) -> str:
    """An exception's type and text on one line, even when its own `__str__` fails."""
    try:
        text = one_line(str(error))
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load_failure(component: Component, what: str, origin: str, error: BaseException) -> str:
    """The one line for a component whose `what` ("impl" or "config") cannot be imported; `origin` is its distribution
    and version."""
    distribution = origin.partition(" ")[0]
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    remedy = f"install the distribution that brings '{missing}'" if missing else f"mend or update {distribution}"
    return (
        f"{component.kind} '{component.name}' is declared by {origin}, whose {what} {getattr(component, what)} failed to "
        f"load: {describe_error(error)}. Next: {remedy}, or set SLT_DISABLE={distribution}"
    )


def refuse_problems(rows: Iterable[Row], settings: Iterable[str] = ()) -> None:
    """**Raises** `PluginError` for the first row that is neither "ok" nor disabled on purpose, or for a setting that
    names no plugin (SLT_STRICT=1)."""
    for problem in settings:
        raise PluginError(f"{problem} (SLT_STRICT=1)")
    for row in rows:
        if row.status not in ("ok", "disabled"):
            raise PluginError(
                f"plugin '{row.plugin}' of {row.distribution} {row.version} is {row.status}: {row.problem}. "
                f"Next: {row.remedy} (SLT_STRICT=1)"
            )
