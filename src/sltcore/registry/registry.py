"""The registry proper: rows, look-up by kind and name, and late import."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sltcore.errors import PluginError, did_you_mean
from sltcore.plugin import KINDS, Component
from sltcore.registry.announcements import is_strict, scan, selected, settings_problems
from sltcore.registry.known import distribution_of
from sltcore.registry.load import disabled_row, load_plugin, new_manager
from sltcore.registry.rows import Row, load_failure, one_line, refuse_problems


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
            origin = f"{self.distribution} {self.version}"
            raise PluginError(load_failure(self.component, what, origin, error)) from error


class Registry:
    """Plugins loaded in this process, each in its own try: problems are rows, never an exception.

    `SLT_PLUGINS` (allow list), `SLT_DISABLE` (deny list) and `SLT_STRICT=1` (a problem raises `PluginError`) are read
    from the environment. `path` restricts the scan to folders, which the caller has put on `sys.path`.
    """

    def __init__(self, *, path: Sequence[str] | None = None) -> None:
        self.manager = new_manager()
        strict = is_strict()
        announced = scan(path)
        rows = []
        for found in announced:
            setting = selected(found)
            rows.append(load_plugin(found, self.manager) if setting is None else disabled_row(found, setting))
        self.rows = mark_collisions(rows)
        if strict:
            refuse_problems(self.rows, settings_problems(announced))

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Registry:
        """A registry of rows that `probe` brought home; nothing is imported until a component is used."""
        registry = cls.__new__(cls)
        registry.manager = new_manager()
        registry.rows = mark_collisions(list(rows))
        return registry

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every usable component, sorted by kind and name."""
        found = [
            Entry(component, row.distribution, row.version, row.location)
            for row in self.rows
            if row.usable
            for component in row.components
            if f"{component.kind}/{component.name}" not in row.faults
        ]
        return tuple(sorted(found, key=lambda e: (KINDS.index(e.component.kind), e.component.name, e.distribution)))

    def names(self, *kinds: str) -> list[str]:
        """Names that are usable for any of the kinds, each the shortest that means one component alone."""
        return sorted(self.address(entry, kinds) for entry in self.entries if entry.component.kind in kinds)

    def find(self, kind: str | Sequence[str], name: str) -> Entry:
        """The component `name` (or `distribution/name`) of a kind, or of one of several kinds.

        **Raises** `PluginError` when there is none (naming what is installed, the nearest, and the pip command of a
        published plugin), when its plugin failed to load, or when two distributions offer it.
        """
        kinds = (kind,) if isinstance(kind, str) else tuple(dict.fromkeys(kind))
        what, shown = " or ".join(kinds), one_line(name)
        first, _, rest = name.partition("/")
        if first in kinds and rest:
            kinds, name = (first,), rest
        distribution, _, plain = name.rpartition("/")
        matches = [
            entry
            for entry in self.entries
            if entry.component.kind in kinds
            and entry.component.name == plain
            and (not distribution or entry.distribution == distribution)
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = ", ".join(self.address(match, kinds) for match in matches)
            raise PluginError(f"{what} '{shown}' is offered {len(matches)} times; write one of: {choices}")
        raise PluginError(self._missing(kinds, what, distribution, plain, shown))

    def address(self, entry: Entry, kinds: Sequence[str]) -> str:
        """The shortest `use:` that means this component where any of `kinds` may stand."""
        name = entry.component.name
        same = [e for e in self.entries if e.component.kind in kinds and e.component.name == name]
        if len(same) == 1:
            return name
        if len({e.distribution for e in same}) == len(same):
            return f"{entry.distribution}/{name}"
        if len({e.component.kind for e in same}) == len(same):
            return f"{entry.component.kind}/{name}"
        return f"{entry.component.kind}/{entry.distribution}/{name}"

    def _missing(self, kinds: tuple[str, ...], what: str, distribution: str, plain: str, shown: str) -> str:
        wanted = {f"{kind}/{plain}" for kind in kinds}
        for row in self.rows:
            if distribution and row.distribution != distribution:
                continue
            for fault in sorted(wanted & set(row.faults)):
                return row.faults[fault]
            if not row.usable and any(f"{c.kind}/{c.name}" in wanted for c in row.components):
                return f"{what} '{shown}' is declared by {_sick(row)}"
        for kind in kinds:
            publisher = distribution_of(kind, plain)
            if publisher is None or distribution not in ("", publisher):
                continue
            for row in self.rows:
                if row.distribution == publisher and not row.usable:
                    return f"{what} '{shown}' is part of {_sick(row)}"
            if not any(row.distribution == publisher for row in self.rows):
                return f"{what} '{shown}' is not installed; it comes with {publisher}. Next: pip install {publisher}"
            return f"{what} '{shown}' is not in the {publisher} that is installed. Next: pip install -U {publisher}"
        installed = self.names(*kinds)
        others = sorted(
            {e.component.kind for e in self.entries if e.component.name == plain and e.component.kind not in kinds}
        )
        elsewhere = f" There is {_article(others[0])} of that name." if others else ""
        listed = f"installed: {', '.join(installed)}" if installed else f"no plugin brings {_article(what)}"
        return f"no {what} is named '{shown}'; {listed}.{did_you_mean(shown, installed) or did_you_mean(plain, installed)}{elsewhere}"


def _sick(row: Row) -> str:
    return f"{row.distribution} {row.version}, which is {row.status}: {row.problem}. Next: {row.remedy}"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeo' else 'a'} {noun}"


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
