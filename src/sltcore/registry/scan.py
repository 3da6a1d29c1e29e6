"""Which plugins are announced: entry points of group `sltcore`, read from the metadata of installed distributions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

from sltcore.plugin import ENTRY_POINT_GROUP


@dataclass(frozen=True)
class Found:
    """One announced plugin, not imported. `shadowed` lists further copies of its distribution later on the path."""

    plugin: str
    value: str
    distribution: str
    version: str
    location: str
    shadowed: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Distribution and entry name: unique, unlike either."""
        return f"{self.distribution}/{self.plugin}"


def scan(path: Iterable[str] | None = None) -> list[Found]:
    """Every announced plugin, sorted by distribution; of two copies of one distribution the first on the path counts."""
    first: dict[str, metadata.Distribution] = {}
    shadowed: dict[str, list[str]] = {}
    for distribution in metadata.distributions(path=list(path)) if path is not None else metadata.distributions():
        text = distribution.read_text("entry_points.txt")
        if not text or ENTRY_POINT_GROUP not in text:
            continue
        name = _name(distribution)
        if name in first:
            place = _location(distribution)
            if place != _location(first[name]):
                shadowed.setdefault(name, []).append(place)
        else:
            first[name] = distribution
    found = []
    for name in sorted(first):
        distribution = first[name]
        found.extend(
            Found(
                plugin=point.name,
                value=point.value,
                distribution=name,
                version=distribution.version or "?",
                location=_location(distribution),
                shadowed=tuple(shadowed.get(name, ())),
            )
            for point in sorted(distribution.entry_points, key=lambda point: point.name)
            if point.group == ENTRY_POINT_GROUP
        )
    return found


def selected(found: Found, environ: Mapping[str, str] = os.environ) -> str | None:
    """None when the plugin may load, else the setting that keeps it out.

    `SLT_PLUGINS` is an allow list of entry names or distributions (empty: none), `SLT_DISABLE` a deny list.
    """
    names = {found.plugin, found.distribution, found.key}
    allowed = environ.get("SLT_PLUGINS")
    if allowed is not None and not names & set(_words(allowed)):
        return "SLT_PLUGINS"
    if names & set(_words(environ.get("SLT_DISABLE", ""))):
        return "SLT_DISABLE"
    return None


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def _name(distribution: metadata.Distribution) -> str:
    name = distribution.metadata["Name"] if distribution.metadata else None
    return (name or "unnamed").lower().replace("_", "-").replace(".", "-")


def _location(distribution: metadata.Distribution) -> str:
    return str(distribution.locate_file(""))
