"""What a ledger's first line fixes, and when a new ledger must not be begun."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slt_pate.ledger.private_votes import PrivateVotes
from sltcore.errors import PrivacyError


def checked_terms(path: str | Path, epsilon: float, delta: float, *, unit: str) -> dict[str, Any]:
    """The budget as JSON. **Raises** `PrivacyError` for one that is none."""
    for name, value, most in (("epsilon", epsilon, math.inf), ("delta", delta, 1.0)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < most:
            bounds = "over 0" if most == math.inf else "between 0 and 1"
            raise PrivacyError(f"ledger {path}: {name} is {value!r}, expected a finite number {bounds}")
    if not isinstance(unit, str) or not unit.strip():
        raise PrivacyError(f"ledger {path}: unit is {unit!r}, expected what one person contributes, such as 'speaker'")
    return {"epsilon": float(epsilon), "delta": float(delta), "unit": unit}


def refuse_missing(path: Path, released: tuple[str, ...]) -> None:
    """**Raises** `PrivacyError` where a new ledger would be begun beside what shows that there was one."""
    votes = PrivateVotes(path).path
    witnesses = [*released, *([str(votes)] if os.path.lexists(votes) else [])]
    if witnesses and not os.path.lexists(path):
        raise PrivacyError(
            f"ledger {path} does not exist, but {', '.join(witnesses)} came from one; a new one would forget what was spent. "
            f"Next: restore the newest copy"
        )


def refuse_other_terms(path: str | Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """**Raises** `PrivacyError` where a ledger was begun with other terms."""
    differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if differing:
        shown = "; ".join(f"{key} {found.get(key)!r} there, {wanted.get(key)!r} asked for" for key in differing)
        raise PrivacyError(
            f"ledger {path} has other terms: {shown}; they are fixed before the first release. Next: ask for those of the ledger"
        )
