"""Charges as JSON, and their sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, get_args

from slt_pate.events import Charge, Event
from sltcore.errors import PrivacyError

EVENTS: Mapping[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


def charge_to_json(charge: Charge) -> dict[str, Any]:
    """`{"event": NAME, "count": n, ...}` with the event's numbers. **Raises** `PrivacyError` for what is no charge."""
    name = type(getattr(charge, "event", None)).__name__
    if not isinstance(charge, Charge) or type(charge.event) is not EVENTS.get(name):
        raise PrivacyError(f"{charge!r} is no charge; expected Charge(event, count) with one of: {', '.join(EVENTS)}")
    numbers = {key: float(value) for key, value in asdict(charge.event).items()}
    _check(name, numbers, charge.count)
    return {"event": name, "count": int(charge.count), **numbers}


def charge_from_json(data: Any) -> Charge:
    """The charge of `charge_to_json`. **Raises** `PrivacyError` for other data."""
    name = str(data.get("event")) if isinstance(data, dict) else "none"
    if name not in EVENTS:
        raise PrivacyError(f"event {name!r} is none of: {', '.join(EVENTS)}. Next: pip install -U sltcore-pate")
    numbers = {key: value for key, value in data.items() if key not in ("event", "count")}
    wanted = [field.name for field in fields(EVENTS[name])]
    if set(numbers) != set(wanted):
        raise PrivacyError(f"event {name} has the numbers {', '.join(numbers) or 'none'}, expected {', '.join(wanted)}")
    _check(name, numbers, data.get("count"))
    return Charge(EVENTS[name](**numbers), data["count"])


def merge_charges(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """One charge for each distinct event, in the order of first appearance, with summed counts."""
    counts: dict[Event, int] = {}
    for charge in charges:
        counts[charge.event] = counts.get(charge.event, 0) + charge.count
    return tuple(Charge(event, count) for event, count in counts.items())


def _check(name: str, numbers: Mapping[str, Any], count: Any) -> None:
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
            raise PrivacyError(f"event {name} has {key} {value!r}, expected a finite number from 0 on")
    if isinstance(count, bool) or not hasattr(count, "__index__") or count < 1:
        raise PrivacyError(f"event {name} happens {count!r} times, expected a whole number from 1 on")
