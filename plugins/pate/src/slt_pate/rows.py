"""Rows of data, whoever made them: `Example`, `Item`, or a mapping with the keys audio, text, id, speaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sltcore.errors import DataError, PrivacyError
from sltcore.types import Item, NBest

UTTERANCE = "utterance"


def item_of(row: Any) -> Any:
    """The `Item` of a row; a mapping is its own item."""
    return row if isinstance(row, Item | Mapping) else row.item


def value_of(row: Any, column: str) -> str | None:
    """A row's value in a column as a text, or None."""
    value = _get(row, column)
    return None if value is None or not str(value).strip() else str(value).strip()


def _get(row: Any, name: str) -> Any:
    item = item_of(row)
    if isinstance(item, Mapping):
        return item.get(name)
    return getattr(item, name) if name in Item._fields else item.extra.get(name)


def text_of(row: Any) -> str | None:
    """Its transcript, or None."""
    text = _get(row, "text")
    return None if text is None else str(text)


def id_of(row: Any, place: int) -> str:
    """Its id; the place in the data where it has none."""
    name = _get(row, "id")
    return f"{place:06d}" if name is None else str(name)


def source_of(row: Any) -> str | None:
    """The path of its recording, where it is a file."""
    source = _get(row, "source")
    return (
        None if source is None or (not isinstance(source, str) and not hasattr(source, "__fspath__")) else str(source)
    )


def with_text(row: Any, text: str) -> Any:
    """The row with another transcript."""
    item = item_of(row)
    if isinstance(item, Mapping):
        return {**item, "text": text}
    changed = item._replace(text=text)
    return changed if isinstance(row, Item) else row._replace(item=changed)


def column_of(row: Any, column: str, place: int, *, what: str) -> str:
    """A row's value in a column. **Raises** `DataError` where there is none."""
    value = value_of(row, column)
    if value is None:
        raise DataError(
            f"{what} utterance '{id_of(row, place)}' has no {column}, which is the unit that is protected; give every utterance "
            f"one, or protect single utterances with unit: {UTTERANCE}"
        )
    return value


def unit_of(row: Any, unit: str, place: int, *, what: str = "private") -> str:
    """Whom a row belongs to: its id for the unit 'utterance', else the column named `unit`.

    **Raises** `DataError` for a row without one: it could stand in two shards unnoticed.
    """
    return id_of(row, place) if unit == UTTERANCE else column_of(row, unit, place, what=what)


def readings(model: Any, rows: Sequence[Any]) -> list[NBest]:
    """What a model reads in each row: of a `Pipeline` its n-best lists, else `model(audio)`.

    **Raises** `PrivacyError` where it gives something other than n-best lists.
    """
    if hasattr(model, "run"):
        found = [output.value for output in model.run([item_of(row) for row in rows], count=len(rows))]
    else:
        found = list(model([_get(row, "audio") for row in rows]))
    odd = next((one for one in found if not isinstance(one, NBest)), None)
    if odd is not None or len(found) != len(rows):
        raise PrivacyError(
            f"a teacher gave {len(found)} results for {len(rows)} utterances, one a {type(odd).__name__}; expected an n-best "
            f"list for each: votes are about texts"
        )
    return found
