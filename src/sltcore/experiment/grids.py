"""Stages of an experiment as they run: grids spread out, names resolved, each after those that it needs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from sltcore.errors import SpecError
from sltcore.spec.overrides import Setting, parse_path, replace

DATA = ("train", "dev", "private", "public")


def needs_of(fields: Mapping[str, Any]) -> list[str]:
    """The stages whose results a stage reads, each once."""
    found = [fields["from"]] if fields.get("from") else []
    found += fields.get("of", [])
    found += [entry["stage"] for entry in data_entries(fields) if entry.get("stage")]
    found += _references(fields.get("set", {}))
    return list(dict.fromkeys(found))


def data_entries(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every data entry of a stage, those for calibration too."""
    data = fields.get("data") or []
    lists = [data[name] for name in DATA if data.get(name)] if isinstance(data, Mapping) else [data]
    for entries in (*lists, fields.get("calibration") or []):
        yield from entries


def _references(value: Any) -> Iterator[str]:
    """The stages of every `{stage: NAME}` in the values that a stage sets."""
    if isinstance(value, Mapping):
        if is_reference(value):
            yield value["stage"]
        else:
            for item in value.values():
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def is_reference(value: Any) -> bool:
    """Whether a value stands for what a stage left."""
    return isinstance(value, Mapping) and set(value) == {"stage"} and isinstance(value["stage"], str)


def put_references(value: Any, places: Mapping[str, str]) -> Any:
    """`value` with each `{stage: NAME}` replaced by its entry in `places`."""
    if is_reference(value):
        return places[value["stage"]]
    if isinstance(value, Mapping):
        return {key: put_references(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [put_references(item, places) for item in value]
    return value


def in_order(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the stages of a checked spec, each after those that it needs, else as written."""
    done: list[str] = []

    def visit(name: str) -> None:
        if name not in done:
            for need in needs_of(stages[name]):
                visit(need if need in stages else need.partition("/")[0])
            done.append(name)

    for name in stages:
        visit(name)
    return done


class Grid:
    """The grids of a checked spec's stages, which map names to filled fields.

    `spread` are the stages as they run, in order; `names` maps each stage of the spec to them; `settings` says for each
    stage of a grid what it is one of, with what the stage it begins from was one of.
    """

    def __init__(self, stages: Mapping[str, Mapping[str, Any]]) -> None:
        self.spread: dict[str, dict[str, Any]] = {}
        self.names: dict[str, list[str]] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        for name in in_order(stages):
            variants = list(self._variants(stages[name]))
            is_single = len(variants) == 1 and not stages[name].get("grid")
            self.names[name] = []
            for number, (settings, fields) in enumerate(variants, 1):
                called = name if is_single else f"{name}/{number}"
                self.names[name].append(called)
                self.spread[called] = fields
                self.settings[called] = settings

    def _variants(self, written: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each combination of the stage it begins from and of its own grid."""
        grid = written.get("grid") or {}
        starts = self._of(written["from"]) if written.get("from") else [None]
        for start in starts:
            for values in product(*grid.values()):
                chosen = dict(zip(grid, values, strict=True))
                fields = copy.deepcopy({key: value for key, value in written.items() if key != "grid"})
                for path, value in chosen.items():
                    replace(fields, Setting(parse_path(path), copy.deepcopy(value), path))
                if start is not None:
                    fields["from"] = start
                self._resolve(fields)
                yield {**self.settings.get(start or "", {}), **chosen}, fields

    def _of(self, need: str) -> list[str]:
        """The stages that a name means: all of a grid, or one of them."""
        return self.names.get(need, [need])

    def _resolve(self, fields: dict[str, Any]) -> None:
        """Names of stages with a grid become the names of all that they mean. **Raises** `SpecError` for a path that
        would have to be several."""
        if "of" in fields:
            fields["of"] = list(dict.fromkeys(found for need in fields["of"] for found in self._of(need)))
        data = fields.get("data")
        if isinstance(data, Mapping):
            fields["data"] = {key: self._entries(entries) for key, entries in data.items()}
        elif data:
            fields["data"] = self._entries(data)
        if fields.get("calibration"):
            fields["calibration"] = self._entries(fields["calibration"])
        for need in _references(fields.get("set", {})):
            if len(self._of(need)) > 1:
                raise SpecError(
                    f"set: {{stage: {need}}} has a grid and means {len(self._of(need))} stages; name one of: "
                    f"{', '.join(self._of(need))}"
                )

    def _entries(self, entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**entry, "stage": found} if found else dict(entry)
            for entry in entries
            for found in (self._of(entry["stage"]) if entry.get("stage") else [None])
        ]
