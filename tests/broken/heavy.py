"""A config that imports numpy."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from sltcore.spec import Config


class HeavyConfig(Config):
    gain: float = Field(float(np.ones(1)[0]), ge=0, le=10, description="factor")
