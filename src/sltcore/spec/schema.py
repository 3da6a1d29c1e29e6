"""The JSON Schema of specs for the plugins actually installed, for completion and checking in an editor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sltcore.errors import PluginError
from sltcore.registry import Entry, Registry
from sltcore.spec.grammar import PipelineFields
from sltcore.spec.load import MODELS

START = "pipeline"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(registry: Registry, kind: str = "pipeline") -> dict[str, Any]:
    """The schema of specs of one kind, one definition for each slot and each installed component.

    A component whose config cannot be imported is described by its name alone, so that one broken plugin never spoils
    the rest.
    """
    definitions: dict[str, Any] = {}
    for entry in registry.entries:
        definitions[_component_key(entry)] = _component(entry, definitions)
    root = MODELS[kind].model_json_schema()
    _lift(root, definitions, kind)
    if kind != "pipeline":
        definitions[START] = PipelineFields.model_json_schema()
        _lift(definitions[START], definitions, "pipeline")
    root = _resolved(root)
    for kinds in _slot_kinds(definitions, root):
        definitions[_slot_key(kinds)] = _slot(kinds, registry)
    definitions = {key: _resolved(value) for key, value in definitions.items()}
    return {"$schema": DIALECT, "title": "sltcore spec", **root, "$defs": dict(sorted(definitions.items()))}


def _component_key(entry: Entry) -> str:
    return f"{entry.component.kind}.{entry.distribution}.{entry.component.name}"


def _component(entry: Entry, definitions: dict[str, Any]) -> dict[str, Any]:
    summary = entry.component.summary
    try:
        schema = entry.load_config().model_json_schema()
    except PluginError as error:
        return {"type": "object", "description": f"{summary} (not usable: {error})"}
    _lift(schema, definitions, _component_key(entry))
    properties = {"use": {"description": summary}, **schema.get("properties", {})}
    return {
        "type": "object",
        "description": summary,
        "properties": properties,
        "required": ["use", *schema.get("required", [])],
        "additionalProperties": False,
    }


def _lift(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> None:
    """Move a model's own `$defs` to the common place, under names that cannot clash."""
    local = schema.pop("$defs", {})
    for name, value in local.items():
        definitions[f"{prefix}.{name}"] = value
    if local:
        for value in (schema, *(definitions[f"{prefix}.{name}"] for name in local)):
            _rename(value, {f"#/$defs/{name}": f"#/$defs/{prefix}.{name}" for name in local})


def _rename(node: Any, names: dict[str, str]) -> None:
    if isinstance(node, dict):
        if node.get("$ref") in names:
            node["$ref"] = names[node["$ref"]]
        if "discriminator" in node:
            mapping = node["discriminator"]["mapping"]
            node["discriminator"]["mapping"] = {tag: names.get(target, target) for tag, target in mapping.items()}
        for value in node.values():
            _rename(value, names)
    elif isinstance(node, list):
        for value in node:
            _rename(value, names)


def _slot_key(kinds: tuple[str, ...]) -> str:
    return "slot." + ("-or-".join(kinds) or "reference")


def _slot_kinds(*nodes: Any) -> list[tuple[str, ...]]:
    found: dict[tuple[str, ...], None] = {}

    def walk(node: Any) -> Iterator[tuple[str, ...]]:
        if isinstance(node, dict):
            if "x-slot" in node:
                yield tuple(node["x-slot"])
            reference = node.get("$ref", "")
            if reference.startswith("#/$defs/slot."):
                name = reference.removeprefix("#/$defs/slot.")
                yield () if name == "reference" else tuple(name.split("-or-"))
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    for node in nodes:
        found.update(dict.fromkeys(walk(node)))
    return list(found)


def _resolved(node: Any) -> Any:
    """A schema without our marks and without what only pydantic knows: slots, starts, and unions told apart by a field."""
    if isinstance(node, list):
        return [_resolved(value) for value in node]
    if not isinstance(node, dict):
        return node
    marks = ("x-slot", "x-optional", "x-start", "discriminator", *(("oneOf",) if "discriminator" in node else ()))
    rest = {key: _resolved(value) for key, value in node.items() if key not in marks}
    if "patternProperties" in rest:
        rest.setdefault("additionalProperties", False)
    if "discriminator" in node:
        return {**rest, **_tagged(node["discriminator"])}
    if "x-start" in node:
        fields = {"$ref": f"#/$defs/{START}"}
        return {**rest, "if": {"type": "object"}, "then": fields, "else": {"type": "string", "minLength": 1}}
    if "x-slot" not in node:
        return rest
    reference = {"$ref": f"#/$defs/{_slot_key(tuple(node['x-slot']))}"}
    return {**rest, "if": {"type": "null"}, "else": reference} if node.get("x-optional") else {**rest, **reference}


def _tagged(discriminator: dict[str, Any]) -> dict[str, Any]:
    """A union whose members one field tells apart, so that an editor flags what is wrong with the one that is meant."""
    field, members = discriminator["propertyName"], discriminator["mapping"]
    cases = [
        {"if": {"properties": {field: {"const": value}}}, "then": {"$ref": reference}}
        for value, reference in members.items()
    ]
    return {
        "type": "object",
        "properties": {field: {"enum": list(members), "description": "which of them this is"}},
        "required": [field],
        "allOf": cases,
    }


def _slot(kinds: tuple[str, ...], registry: Registry) -> dict[str, Any]:
    reference = {
        "type": "object",
        "properties": {
            "ref": {"type": "string", "description": "path of another place of this spec, such as encoder.head"}
        },
        "required": ["ref"],
        "additionalProperties": False,
    }
    if not kinds:
        return reference
    names = registry.names(*kinds)
    if not names:
        return {**reference, "description": f"no installed plugin brings a {' or '.join(kinds)}"}
    forms = {name: _forms(registry, kinds, name) for name in names}
    longer = sorted(form for name in names for form in forms[name] if form != name)
    # The shortest names are completed; the longer ones are right too, and stay out of the list.
    known = {"anyOf": [{"enum": names}, {"pattern": f"^({'|'.join(longer)})$"}]}
    cases = [
        {
            "if": {"properties": {"use": {"enum": forms[name]}}},
            "then": {"$ref": f"#/$defs/{_component_key(registry.find(kinds, name))}"},
        }
        for name in names
    ]
    choice = {
        "type": "object",
        "properties": {"use": {"type": "string", **known, "description": f"the {' or '.join(kinds)} to use"}},
        "required": ["use"],
        "allOf": cases,
    }
    return {
        "if": {"type": "object"},
        "then": {"if": {"required": ["ref"]}, "then": reference, "else": choice},
        "else": {"type": "string", **known},
    }


def _forms(registry: Registry, kinds: tuple[str, ...], name: str) -> list[str]:
    """Every way to write a component's name where one of `kinds` may stand."""
    entry = registry.find(kinds, name)
    kind, plain = entry.component.kind, entry.component.name
    found = []
    for form in (plain, f"{entry.distribution}/{plain}", f"{kind}/{plain}", f"{kind}/{entry.distribution}/{plain}"):
        try:
            if registry.find(kinds, form) == entry:
                found.append(form)
        except PluginError:
            continue
    return found
