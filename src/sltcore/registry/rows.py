"""One plugin as one row: what it brings, or what is wrong with it and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sltcore.plugin import Component

STATUSES = ("ok", "slow", "collision", "disabled", "broken", "misspelt", "too-new", "too-old", "hung", "exited")
USABLE = ("ok", "slow", "collision")


@dataclass(frozen=True)
class Row:
    """The state of one plugin. `problem` and `remedy` are empty when the status is "ok"."""

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
    shadowed: tuple[str, ...] = field(default=())

    @property
    def usable(self) -> bool:
        """Whether its components can be used."""
        return self.status in USABLE

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a component's `small` stays behind, for it may hold anything."""
        data = asdict(self)
        data["components"] = [
            {key: value for key, value in asdict(component).items() if key != "small"} for component in self.components
        ]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The row that `to_dict` wrote."""
        fields = dict(data)
        fields["components"] = tuple(Component(**component) for component in data["components"])
        fields["commands"] = tuple(tuple(command) for command in data["commands"])
        fields["shadowed"] = tuple(data["shadowed"])
        return cls(**fields)
