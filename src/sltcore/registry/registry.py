"""The registry proper: rows, look-up by kind and name, and late import."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sltcore.errors import PluginError, did_you_mean
from sltcore.plugin import KINDS, Component
from sltcore.registry.known import distribution_of
from sltcore.registry.load import load_plugin, new_manager
from sltcore.registry.probe import disabled_row
from sltcore.registry.rows import Row
from sltcore.registry.scan import scan, selected


@dataclass(frozen=True)
class Entry:
    """One usable component and where it comes from."""

    component: Component
    distribution: str
    version: str
    location: str

    @property
    def label(self) -> str:
        """How messages name it: decoder 'ctc-beam'."""
        return f"{self.component.kind} '{self.component.name}'"

    def load_impl(self) -> Callable[..., Any]:
        """The builder, imported now. **Raises** `PluginError` naming the distribution when that fails."""
        builder: Callable[..., Any] = self._load("impl", self.component.impl)
        return builder

    def load_config(self) -> type[Any]:
        """The config class, imported now. **Raises** `PluginError` naming the distribution when that fails."""
        found: type[Any] = self._load("config", self.component.config)
        return found

    def _load(self, what: str, value: str) -> Any:
        module, _, attribute = value.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = " ".join(str(error).split())
            missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
            remedy = (
                f"install the distribution that brings '{missing}'"
                if missing
                else f"mend or update {self.distribution}"
            )
            raise PluginError(
                f"{self.label} is declared by {self.distribution} {self.version}, whose {what} {value} failed to load: "
                f"{type(error).__name__}: {text}. Next: {remedy}, or set SLT_DISABLE={self.distribution}"
            ) from error


class Registry:
    """Plugins loaded in this process, each in its own try: problems are rows, never an exception.

    `SLT_PLUGINS` (allow list), `SLT_DISABLE` (deny list) and `SLT_STRICT=1` (a problem raises `PluginError`) are read
    from the environment. `path` restricts the scan to folders, which the caller has put on `sys.path`.
    """

    def __init__(self, *, path: Sequence[str] | None = None) -> None:
        self.manager = new_manager()
        rows = []
        for found in scan(path):
            setting = selected(found)
            rows.append(load_plugin(found, self.manager) if setting is None else disabled_row(found, setting))
        self.rows = mark_collisions(rows)
        if os.environ.get("SLT_STRICT") == "1":
            self._raise_first_problem()

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Registry:
        """A registry of rows that `probe` brought home; nothing is imported until a component is used."""
        registry = cls.__new__(cls)
        registry.manager = new_manager()
        registry.rows = mark_collisions(list(rows))
        return registry

    def _raise_first_problem(self) -> None:
        for row in self.rows:
            if row.status not in ("ok", "disabled"):
                raise PluginError(
                    f"plugin '{row.plugin}' of {row.distribution} {row.version} is {row.status}: {row.problem}. "
                    f"Next: {row.remedy} (SLT_STRICT=1)"
                )

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every usable component, sorted by kind and name."""
        found = [
            Entry(component, row.distribution, row.version, row.location)
            for row in self.rows
            if row.usable
            for component in row.components
        ]
        return tuple(sorted(found, key=lambda e: (KINDS.index(e.component.kind), e.component.name, e.distribution)))

    def names(self, *kinds: str) -> list[str]:
        """Names that are usable for any of the kinds; colliding ones as `distribution/name`."""
        wanted = [entry for entry in self.entries if entry.component.kind in kinds]
        plain = [entry.component.name for entry in wanted]
        return sorted(
            {
                entry.component.name
                if plain.count(entry.component.name) == 1
                else f"{entry.distribution}/{entry.component.name}"
                for entry in wanted
            }
        )

    def find(self, kind: str | Sequence[str], name: str) -> Entry:
        """The component `name` (or `distribution/name`) of a kind, or of one of several kinds.

        **Raises** `PluginError` when there is none (naming what is installed, the nearest, and the pip command of a
        published plugin), when its plugin failed to load, or when two distributions offer it.
        """
        kinds = (kind,) if isinstance(kind, str) else tuple(kind)
        kind_prefix, _, rest = name.rpartition("/")
        if kind_prefix in KINDS:
            kinds, name, kind_prefix = (kind_prefix,), rest, ""
        plain = rest if kind_prefix else name
        matches = [
            entry
            for entry in self.entries
            if entry.component.kind in kinds
            and entry.component.name == plain
            and (not kind_prefix or entry.distribution == kind_prefix)
        ]
        if len(matches) == 1:
            return matches[0]
        what = " or ".join(kinds)
        if matches:
            choices = ", ".join(
                f"{m.distribution}/{m.component.name}"
                if len(set(kinds)) == 1
                else f"{m.component.kind}/{m.component.name}"
                for m in matches
            )
            raise PluginError(f"{what} '{name}' is offered {len(matches)} times; write one of: {choices}")
        raise PluginError(self._missing(kinds, what, name))

    def _missing(self, kinds: tuple[str, ...], what: str, name: str) -> str:
        plain = name.rpartition("/")[2]
        for row in self.rows:
            if not row.usable and any(c.kind in kinds and c.name == plain for c in row.components):
                return f"{what} '{name}' is declared by {row.distribution} {row.version}, which is {row.status}: {row.problem}. Next: {row.remedy}"
        for kind in kinds:
            distribution = distribution_of(kind, plain)
            for row in self.rows:
                if distribution == row.distribution and not row.usable:
                    return f"{what} '{name}' is part of {row.distribution} {row.version}, which is {row.status}: {row.problem}. Next: {row.remedy}"
            if distribution is not None:
                return (
                    f"{what} '{name}' is not installed; it comes with {distribution}. Next: pip install {distribution}"
                )
        installed = self.names(*kinds)
        others = sorted(
            {e.component.kind for e in self.entries if e.component.name == plain and e.component.kind not in kinds}
        )
        elsewhere = f" There is a {others[0]} of that name." if others else ""
        listed = f"installed: {', '.join(installed)}" if installed else f"no plugin brings a {what}"
        return f"no {what} is named '{name}'; {listed}.{did_you_mean(plain, installed)}{elsewhere}"


def mark_collisions(rows: list[Row]) -> list[Row]:
    """Rows where two distributions offer one component, marked; neither wins."""
    offered: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.usable:
            for component in row.components:
                offered.setdefault((component.kind, component.name), []).append(row.distribution)
    marked = []
    for row in rows:
        shared = [c for c in row.components if row.usable and len(offered[(c.kind, c.name)]) > 1]
        if shared:
            others = sorted({d for c in shared for d in offered[(c.kind, c.name)]} - {row.distribution})
            names = ", ".join(f"{c.kind} '{c.name}'" for c in shared)
            row = replace(
                row,
                status="collision",
                problem=f"{names} is also offered by {', '.join(others) or row.distribution}",
                remedy=f"write {row.distribution}/{shared[0].name} in specs, or uninstall one",
            )
        marked.append(row)
    return marked


_lock = threading.Lock()
_default: Registry | None = None


def default_registry() -> Registry:
    """The registry of this process, made on first use."""
    global _default
    with _lock:
        if _default is None:
            _default = Registry()
        return _default
