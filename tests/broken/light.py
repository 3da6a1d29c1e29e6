"""Configs that import nothing heavy, as they should be."""

from __future__ import annotations

from pydantic import Field

from sltcore.spec import Config


class LightConfig(Config):
    gain: float = Field(1.0, ge=0, le=10, description="factor")
