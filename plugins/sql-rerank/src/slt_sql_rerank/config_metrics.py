"""Configurations of the plugin's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sltcore.spec import Config

Forms = Annotated[
    tuple[Literal["official", "strict"], ...],
    Field(min_length=1, description="official: as Spider's scorer counts; strict: with its traps mended"),
]
Script = Annotated[
    str | None,
    Field(description="SQL that makes the one database, for small examples; instead of databases and database"),
]
Folder = Annotated[
    Path | None,
    Field(description="folder with NAME.sqlite, or NAME/NAME.sqlite; a suite is every file of NAME/"),
]
One = Annotated[str | None, Field(description="name or path of the database of references that name none")]
Seconds = Annotated[float, Field(gt=0, le=3600, description="deadline of one statement on one database, in seconds")]
ByHardness = Annotated[bool, Field(description="also for easy, medium, hard and extra gold queries")]
Tables = Annotated[
    Path | None,
    Field(description="schemas in the format of Spider's tables.json; without it they are read from the databases"),
]


class ExactMatchConfig(Config):
    """Settings of `exact-match`."""

    databases: Folder = None
    database: One = None
    tables: Tables = None
    script: Script = None
    forms: Forms = ("official", "strict")
    by_hardness: ByHardness = False


class ExecutionConfig(ExactMatchConfig):
    """Settings of `execution` and of `test-suite`."""

    seconds: Seconds = 10.0
