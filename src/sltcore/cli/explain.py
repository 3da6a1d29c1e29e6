"""slt explain: where a component comes from, what its fields mean, and an example."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from sltcore.cli.console import Console, table
from sltcore.cli.specs import isolated_registry, spec_file
from sltcore.errors import SltError, did_you_mean
from sltcore.plugin import KINDS
from sltcore.registry import Entry, Registry
from sltcore.spec.document import dump_document


def explain(
    what: Annotated[str, typer.Argument(metavar="KIND/NAME|SPEC", help="a component, or a spec file")],
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="one place of the spec, such as decoder.beam")
    ] = None,
) -> None:
    """Tell what a component is (distribution, version, file and line, docstring, config table, example), or what one
    place of a spec holds."""
    kind, _, name = what.partition("/")
    if path is None and kind in KINDS and name:
        registry = isolated_registry({name.rpartition("/")[2]})
        Console().result(describe(registry.find(kind, name), registry))
    elif path is not None:
        Console().result(_place(what, path))
    else:
        registry = isolated_registry()
        choices = [f"{e.component.kind}/{e.component.name}" for e in registry.entries]
        raise SltError(
            f"'{what}' is neither KIND/NAME nor a spec with a PATH; components: {', '.join(choices) or 'none'}.{did_you_mean(what, choices)}"
        )


class Origin(NamedTuple):
    """Where a function stands in its source, found without importing it."""

    file: str
    line: int
    docstring: str
    returns: str


def origin_of(target: str) -> Origin:
    """The place and docstring of `"module:attribute"`; the module's own place when it is a file that cannot be parsed."""
    module, _, attribute = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise SltError(f"{target}: module {module} cannot be found; reinstall its distribution")
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return Origin(spec.origin, 1, "", "")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == attribute:
            returns = ast.unparse(node.returns) if isinstance(node, ast.FunctionDef) and node.returns else ""
            return Origin(spec.origin, node.lineno, ast.get_docstring(node) or "", returns)
    return Origin(spec.origin, 1, ast.get_docstring(tree) or "", "")


def describe(entry: Entry, registry: Registry) -> str:
    """Everything `slt explain KIND/NAME` prints."""
    component = entry.component
    origin = origin_of(component.impl)
    lines = [
        f"{component.kind} {component.name}: {component.summary}",
        f"from {entry.distribution} {entry.version}, component version {component.version}",
        f"built by {component.impl}, {origin.file}:{origin.line}",
        f"source: {component.source or 'not stated'}",
    ]
    documentation = implementation_docstring(component.impl, origin) or origin.docstring
    if documentation:
        lines += ["", documentation]
    config = entry.load_config()
    lines += [
        "",
        table(["field", "type", "default", "meaning"], config_rows(config)) if config.model_fields else "no fields",
    ]
    lines += [
        "",
        "example:",
        "",
        dump_document(example(component.kind, component.name, config)).rstrip(),
    ]
    return "\n".join(lines)


def implementation_docstring(target: str, origin: Origin) -> str:
    """The docstring of the class that a builder says it returns, found by following its imports in the source."""
    name = origin.returns.strip("\"'").rpartition(".")[2]
    if not name.isidentifier():
        return ""  # nothing is stated, or the source could not be parsed
    tree = ast.parse(Path(origin.file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and any((alias.asname or alias.name) == name for alias in node.names)
        ):
            try:
                return origin_of(f"{node.module}:{name}").docstring
            except (SltError, OSError, SyntaxError):
                return ""
    return next(
        (ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name),
        "",
    )


def config_rows(config: Any) -> list[list[str]]:
    """One row for each field: name, type with its range, default, meaning."""
    schema = config.model_json_schema()
    rows = []
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        default = "required" if required else json.dumps(_default(config, name), ensure_ascii=False, default=str)
        rows.append([name, type_text(field, schema.get("$defs", {})), default, field.get("description", "")])
    return rows


def _default(config: Any, name: str) -> Any:
    from sltcore.spec.filled import fill

    found = next(field for key, field in config.model_fields.items() if name in (key, field.alias))
    value = found.get_default(call_default_factory=True)
    return fill(value) if hasattr(value, "model_dump") else value


def type_text(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON Schema type as a person would say it: integer 1 to 8, "a" or "b", list of text."""
    if "x-slot" in field:
        kinds = " or ".join(field["x-slot"]) or "{ref: …}"
        return f"{kinds}{' or null' if field.get('x-optional') else ''}"
    if "x-start" in field:
        return "map or path"
    if "$ref" in field:
        return type_text(definitions.get(field["$ref"].rpartition("/")[2], {}), definitions)
    if "enum" in field:
        return " or ".join(json.dumps(value) for value in field["enum"])
    if "const" in field:
        return json.dumps(field["const"])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(type_text(part, definitions) for part in field["anyOf"]))
    if field.get("type") == "array":
        return _list_text(field, definitions)
    if field.get("type") == "object":
        return _map_text(field, definitions)
    name = {"string": "text"}.get(field.get("type", ""), field.get("type", "anything"))
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    above = "above " if "exclusiveMinimum" in field else ""
    below = "below " if "exclusiveMaximum" in field else ""
    if low is not None and high is not None:
        return f"{name} {above}{low:g} to {below}{high:g}"
    if low is not None:
        return f"{name} {'above' if above else 'from'} {low:g}"
    return f"{name} {'below' if below else 'up to'} {high:g}" if high is not None else str(name)


def _list_text(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    places = [type_text(place, definitions) for place in field.get("prefixItems", ())]
    if places:
        same = len(set(places)) == 1
        return f"list of {len(places)}: {places[0] if same else ', '.join(places)}"
    inner = type_text(field.get("items", {}), definitions)
    return "list" if inner == "anything" else f"list of {inner}"


def _map_text(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    values = [*field.get("patternProperties", {}).values(), field.get("additionalProperties")]
    inner = next((type_text(value, definitions) for value in values if isinstance(value, dict)), "anything")
    return "map" if inner in ("map", "anything") else f"map of {inner}"


def example(kind: str, name: str, config: Any) -> dict[str, Any]:
    """A block to paste: required fields stand as a mark to fill in, the first few defaults are written out."""
    block: dict[str, Any] = {"use": name}
    for field in config.model_fields:
        if config.model_fields[field].is_required():
            block[field] = f"<{field}>"
    for field in list(config.model_fields)[:3]:
        default = _default(config, field) if field not in block else None
        if isinstance(default, str | int | float | bool):
            block[field] = default
    if kind == "metric":
        return {"metrics": [block]}
    return {kind: block} if kind not in ("quantizer", "accelerator", "adapter") else {"transforms": [block]}


def _place(source: str, place: str) -> str:
    from sltcore.cli.specs import component_names
    from sltcore.spec.load import load_spec, open_source
    from sltcore.spec.overrides import parse_path
    from sltcore.spec.problems import path_text
    from sltcore.spec.slots import Block, dump_slot

    file = spec_file(source)
    document = open_source(file)
    registry = isolated_registry(component_names([file]))
    spec = load_spec(file, registry=registry)
    node: Any = spec.model
    path = parse_path(place)
    owner: Any = None
    for depth, part in enumerate(path):
        owner = node.config if isinstance(node, Block) else node
        fields = {field.alias or name: name for name, field in getattr(type(owner), "model_fields", {}).items()}
        if isinstance(owner, Mapping):
            fields = {str(key): str(key) for key in owner}
        in_list = isinstance(owner, list | tuple) and isinstance(part, int) and part < len(owner)
        if in_list or (isinstance(owner, Mapping) and part in owner):
            node = owner[part]
        elif part in fields:
            node = getattr(owner, fields[str(part)])
        else:
            here = path_text(path[:depth]) or "the spec"
            raise SltError(
                f"{source}: {here} has no place '{part}'; it has: {', '.join(fields) or 'none'}.{did_you_mean(str(part), fields)}"
            )
    mark = document.marks.get(path)
    where = f"{file}:{mark.line}:{mark.column}" if mark else f"default, not written in {file}"
    if isinstance(node, Block):
        return f"{place}: {where}\n\n{dump_document(dump_slot(node))}\n{describe(node.entry, registry)}"
    field = getattr(type(owner), "model_fields", {}).get(fields.get(str(path[-1]), ""))
    meaning = field.description if field is not None and field.description else ""
    value: Any = spec.filled()
    for part in path:
        value = value.get(part) if isinstance(value, dict) else value[part]  # a null that is the default is left out
    return f"{place} = {json.dumps(value, ensure_ascii=False)}\n{where}\n{meaning}".rstrip()
