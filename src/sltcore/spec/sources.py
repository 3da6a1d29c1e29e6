"""Where a training run or a stage begins: the fields of a pipeline, a spec file, or a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError, core_schema

from sltcore.spec.grammar import PipelineFields
from sltcore.spec.slots import File

_FILE = TypeAdapter(File)


def _validated(value: Any, info: ValidationInfo) -> PipelineFields | Path:
    if isinstance(value, PipelineFields):
        return value
    if isinstance(value, Mapping):
        try:
            return PipelineFields.model_validate(dict(value), context=info.context)
        except ValidationError as error:
            raise PydanticCustomError("slot", "slot", {"nested": error, "model": PipelineFields}) from None
    if isinstance(value, str | Path):
        return _FILE.validate_python(value, context=info.context)
    raise PydanticCustomError(
        "slot_problem",
        "slot",
        {"inner": "", "message": "expected the fields of a pipeline, or the path of a spec or bundle", "given": value},
    )


def _dumped(value: PipelineFields | Path, info: SerializationInfo) -> Any:
    if isinstance(value, Path):
        return str(value)
    return value.model_dump(mode="json", context=info.context, exclude_none=True)


class _Schema:
    """Tells the JSON Schema that the fields of a pipeline or a path may stand here."""

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"x-start": True}


Start = Annotated[PipelineFields | Path, PlainValidator(_validated), PlainSerializer(_dumped), _Schema()]
"""`PipelineFields`, or the path of a spec file or bundle folder, resolved against the folder of the spec that names it."""
