"""Which function does which kind of unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import speech
import synthetic
from study import Study, Unit

WORK: Mapping[str, Callable[[Study, Unit], dict[str, Any]]] = {
    "start": speech.start,
    "trial": speech.trial,
    "arm": speech.arm,
    "teacher": speech.teacher,
    "shadow": speech.shadow,
    "choice": synthetic.choice,
    "crossing": synthetic.crossing,
    "audit": synthetic.audit,
}
