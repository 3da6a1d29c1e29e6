"""Typed configs and the slots through which components take other components."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    SerializationInfo,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError, core_schema

from sltcore.errors import PluginError
from sltcore.plugin import KINDS

if TYPE_CHECKING:
    from pydantic import ValidationInfo

    from sltcore.registry import Entry, Registry


_NOT_SCHEMAS = ("metadata", "serialization", "default", "expected", "cls", "function", "ref", "schema_ref", "config")


def _no_boolean(value: Any) -> Any:
    """Python takes True for 1; a spec does not."""
    if isinstance(value, bool):
        raise PydanticCustomError("literal_error", "expected another type than a boolean")
    return value


def _exact(node: Any) -> Any:
    """A core schema whose numbers and booleans are strict."""
    if isinstance(node, list | tuple):
        return type(node)(_exact(item) for item in node)
    if not isinstance(node, dict):
        return node
    inner = {key: value if key in _NOT_SCHEMAS else _exact(value) for key, value in node.items()}
    kind = node.get("type")
    if kind in ("int", "float", "bool"):
        inner.setdefault("strict", True)
    if kind == "literal" and all(isinstance(v, int) and not isinstance(v, bool) for v in node["expected"]):
        return core_schema.no_info_before_validator_function(_no_boolean, cast("core_schema.CoreSchema", inner))
    return inner


class Config(BaseModel):
    """The configuration of one component: frozen, with no field that is not declared.

    Every field has a description, a range, a unit where it has one, and a default that works on a laptop.
    """

    @classmethod
    def migrated(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """The fields `data` of an older component `version`, as this class understands them; override to rename."""
        return data

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Numbers and booleans are taken as they are written: "5", 5.0 and true are no whole numbers, "yes" is no
        boolean. Lists still become tuples and texts paths."""
        return cast("core_schema.CoreSchema", _exact(handler(source)))


@dataclass(frozen=True)
class Ref:
    """`{ref: encoder.head}`: the same object as at another place of the spec."""

    ref: str


@dataclass(frozen=True)
class Block:
    """A filled slot: the component's kind and name, its validated config, and the entry that brings it."""

    kind: str
    use: str
    config: Config
    entry: Entry


class Slot:
    """Marks a config field that takes a component of one of `kinds`, or a reference.

        base: Annotated[Block, Slot("encoder")]
        frontend: Annotated[Block | None, Slot("encoder")] = None
        head: Annotated[Ref | None, Slot()] = None            # only {ref: …}
        stages: list[Annotated[Block, Slot("augmentation")]] = []

    The block is validated against the component's **own** config model, found in the registry of the validation
    context. A bare name is short for `{use: name}`.
    """

    def __init__(self, *kinds: str) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise PluginError(
                f"Slot({', '.join(map(repr, kinds))}): no kind is named '{unknown[0]}'; kinds: {', '.join(KINDS)}"
            )
        self.kinds = kinds

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        optional = type(None) in get_args(source)

        def validate(value: Any, info: ValidationInfo) -> Block | Ref | None:
            if value is None and optional:
                return None
            return self._validate(value, info.context)

        return core_schema.with_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_serialized, info_arg=True),
            metadata={"slot": self, "optional": optional},
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"x-slot": list(self.kinds), "x-optional": bool((schema.get("metadata") or {}).get("optional"))}

    def _validate(self, value: Any, context: Mapping[str, Any] | None) -> Block | Ref:
        what = " or ".join(self.kinds) or "reference"
        if isinstance(value, Block | Ref):
            return value
        if isinstance(value, str) and self.kinds:
            value = {"use": value}
        if not isinstance(value, Mapping):
            raise _problem(
                "",
                f"expected {'an' if what[0] in 'aeo' else 'a'} {what}, as {{use: NAME}} or a bare name"
                if self.kinds
                else "expected {ref: PATH}",
                value,
            )
        if "ref" in value:
            return self._reference(value)
        if not self.kinds:
            raise _problem("", "expected {ref: PATH}", value)
        name = value.get("use")
        if name is None:
            raise _problem(
                "",
                f"this {what} has no 'use'; write use: NAME, installed: {', '.join(_registry(context).names(*self.kinds))}",
                value,
            )
        if not isinstance(name, str):
            raise _problem("use", "expected a component's name", name)
        return self._block(name, {key: item for key, item in value.items() if key != "use"}, context)

    def _reference(self, value: Mapping[str, Any]) -> Ref:
        target = value["ref"]
        if not isinstance(target, str) or not re.fullmatch(r"[a-z_]+([.\[][\w\]-]+)*", target):
            raise _problem("ref", "expected the path of another place of this spec, such as encoder.head", target)
        extra = [key for key in value if key != "ref"]
        if extra:
            raise _problem(extra[0], "nothing may stand beside 'ref'", value[extra[0]])
        return Ref(target)

    def _block(self, name: str, fields: dict[str, Any], context: Mapping[str, Any] | None) -> Block:
        try:
            entry = _registry(context).find(self.kinds, name)
            model = config_class(entry)
        except PluginError as error:
            raise _problem("use", str(error), None) from None
        try:
            config = model.model_validate(fields, context=context)
        except ValidationError as error:
            raise PydanticCustomError("slot", "slot", {"nested": error, "model": model, "entry": entry}) from None
        return Block(entry.component.kind, name, config, entry)


def config_class(entry: Entry) -> type[Config]:
    """The config class of a component; **Raises** `PluginError` when it is none of ours or cannot be imported."""
    found = entry.load_config()
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise PluginError(
            f"{entry.label} of {entry.distribution} {entry.version}: config {entry.component.config} is no subclass of "
            f"sltcore.spec.Config; let it inherit from it"
        )
    return found


def _problem(inner: str, message: str, value: Any) -> PydanticCustomError:
    return PydanticCustomError("slot_problem", "slot", {"inner": inner, "message": message, "given": value})


def _registry(context: Mapping[str, Any] | None) -> Registry:
    from sltcore.registry import default_registry

    found = (context or {}).get("registry")
    return found if found is not None else default_registry()


def dump_slot(value: Block | Ref | None, *, portable: bool = False) -> Any:
    """A slot's value as it stands in a spec, every default written out; `portable` keeps only the names of files."""
    if value is None:
        return None
    if isinstance(value, Ref):
        return {"ref": value.ref}
    return {"use": value.use, **value.config.model_dump(mode="json", context={"portable": portable})}


def _serialized(value: Block | Ref | None, info: SerializationInfo) -> Any:
    return dump_slot(value, portable=_is_portable(info))


def _is_portable(info: SerializationInfo) -> bool:
    return bool((info.context or {}).get("portable"))


def _file_text(value: Path, info: SerializationInfo) -> str:
    return value.name if _is_portable(info) else str(value)


def _resolved(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str | Path):
        raise ValueError("expected the path of a file")
    if not str(value).strip("\0") or "\0" in str(value):
        raise ValueError("expected the path of a file")
    folder = (info.context or {}).get("folder")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError("expected a path whose ~user exists here") from None
    return path if path.is_absolute() or folder is None else Path(folder) / path


File = Annotated[Path, BeforeValidator(_resolved), PlainSerializer(_file_text, return_type=str)]
"""A path in a config: relative ones are resolved against the folder of the spec that names them.

In a bundle only the name is kept; a builder reads the file where the path exists, else its copy in `ports.folder`.
"""

_ENVIRONMENT = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


class _FromEnvironment(str):
    """A text with variables put in, which remembers how it was written."""

    written: str


def _interpolated(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if not isinstance(value, str) or not _ENVIRONMENT.search(value):
        return handler(value)

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match.group(1))
        if found is None:
            raise ValueError(f"environment variable {match.group(1)} is not set; set it or write the value")
        return found

    text = _FromEnvironment(handler(_ENVIRONMENT.sub(replace, value)))
    text.written = value
    return text


def _as_written(value: str) -> str:
    return value.written if isinstance(value, _FromEnvironment) else value


EnvText = Annotated[str, WrapValidator(_interpolated), PlainSerializer(_as_written, return_type=str)]
"""A text in which `${env:NAME}` stands for an environment variable; other fields take no interpolation.

Filled specs and bundles keep `${env:NAME}`, so that no secret is written into them.
"""
