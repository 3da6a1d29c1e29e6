"""What a user writes about a chip in a spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from slt_nna.chip import Chip, chip_names, is_file, load_chip
from sltcore.errors import SpecError
from sltcore.spec import Config


class NnaConfig(Config):
    """A model in the arithmetic of a chip: in training and evaluation, and in integers."""

    chip: Chip = Field(
        "mixed-8-16",  # type: ignore[assignment]
        validate_default=True,
        description="a shipped chip (ideal, generous-8bit, mixed-8-16, harsh), a YAML file beside the spec, or the fields",
    )
    include: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("*",), description="patterns (* and ?) of the modules and sites that run on the chip"
    )
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="patterns of those that stay on the host, in float"
    )
    range: Literal["max", "percentile", "mse"] = Field(
        "mse",
        description="a grid reaches the largest value measured, a percentile of them, or the limit with the least error",
    )
    percent: float = Field(99.9, gt=50, le=100, description="the percentile, of magnitudes")
    table_gradient: Literal["true", "slope"] = Field(
        "true", description="gradient through a table: of the function itself, or of the table's own steps"
    )
    start: float = Field(
        0.0, ge=0, le=1, description="part of the training steps that run in float before the chip's arithmetic begins"
    )

    @field_validator("chip", mode="before")
    @classmethod
    def _loaded(cls, value: Any, info: ValidationInfo) -> Any:
        """A name or path becomes the whole chip, so that a bundle carries it.

        A path is looked for beside the spec, then where one stands: what is `set` on a bundle has the bundle's folder for
        that of its spec, and no chip lies there.
        """
        if isinstance(value, Mapping | Chip):
            return value
        if not isinstance(value, str | Path):
            raise ValueError(
                f"expected a shipped chip ({', '.join(chip_names())}), the path of a YAML file, or the fields of a chip"
            )
        folder = (info.context or {}).get("folder")
        if is_file(value):
            path = Path(value).expanduser()
            beside = path if folder is None else Path(folder) / path
            value = beside if beside.exists() or not path.exists() else path
        try:
            return load_chip(value)
        except SpecError as error:
            from pydantic_core import PydanticCustomError

            told = str(error).replace("\n", "; ")
            raise PydanticCustomError("slot_problem", "slot", {"inner": "", "message": told, "given": None}) from None
