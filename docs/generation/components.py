"""The plugin catalogue and the reference of all fields, from the registry of installed plugins."""

from __future__ import annotations

import yaml

from generation.tables import code, table
from sltcore.cli.explain import config_rows, example, implementation_docstring, origin_of
from sltcore.errors import SltError
from sltcore.plugin import KINDS
from sltcore.registry import Entry, Registry

FIELDS = """# Components and their fields

Every component of the plugins that were installed when this site was built, with the fields of its block in a spec.
`slt explain KIND/NAME` prints the same for the plugins installed on your machine, and `slt schema` writes it as a JSON
Schema for an editor. The fields around the blocks are on the page of [the grammar](../grammar.md)."""

CATALOGUE = """# Plugin catalogue

The plugins that were installed when this site was built. `slt plugins` lists those on your machine."""


def anchor(kind: str, name: str) -> str:
    """The id of a component's heading."""
    return f"{kind}-{name}"


def fields_page(registry: Registry) -> str:
    """One section for each component: what it is, its fields, and a block to paste."""
    parts = [FIELDS]
    for kind in KINDS:
        entries = [entry for entry in registry.entries if entry.component.kind == kind]
        if entries:
            parts.append(f"## {kind}")
            parts += [_section(entry) for entry in entries]
    return "\n\n".join(parts) + "\n"


def _section(entry: Entry) -> str:
    component = entry.component
    heading = f"### {component.name} {{#{anchor(component.kind, component.name)}}}"
    about = f"{_sentence(component.summary)} From `{entry.distribution}`, component version {component.version}."
    try:
        config = entry.load_config()
    except SltError as error:
        return "\n\n".join([heading, about, f"Not usable here: {error}"])
    rows = [[code(name), kind, code(default), meaning] for name, kind, default, meaning in config_rows(config)]
    fields = table(["field", "type", "default", "meaning"], rows) if rows else "It has no fields."
    block = yaml.safe_dump(example(component.kind, component.name, config), sort_keys=False, allow_unicode=True)
    return "\n\n".join([heading, about, fields, f"```yaml\n{block.rstrip()}\n```"])


def catalogue_page(registry: Registry) -> str:
    """One section for each plugin, with a table of its components and what their classes say of themselves."""
    parts = [CATALOGUE]
    for row in sorted(registry.rows, key=lambda row: row.distribution):
        parts.append(f"## {row.plugin}")
        parts.append(f"Distribution `{row.distribution}` {row.version}.")
        if not row.usable:
            parts.append(f"It is {row.status}: {row.problem}. {row.remedy}")
            continue
        entries = [e for e in registry.entries if e.distribution == row.distribution and e.component in row.components]
        cells = [
            [
                code(e.component.kind),
                f"[{e.component.name}](components.md#{anchor(e.component.kind, e.component.name)})",
                e.component.summary,
                e.component.source or "not stated",
            ]
            for e in entries
        ]
        parts.append(table(["kind", "component", "what it does", "source"], cells))
        parts += [_described(entry) for entry in entries]
    return "\n\n".join(parts) + "\n"


def _described(entry: Entry) -> str:
    origin = origin_of(entry.component.impl)
    text = implementation_docstring(entry.component.impl, origin) or origin.docstring
    heading = f"### {entry.component.kind} {entry.component.name}"
    return f"{heading}\n\n{text}" if text else f"{heading}\n\n{_sentence(entry.component.summary)}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
