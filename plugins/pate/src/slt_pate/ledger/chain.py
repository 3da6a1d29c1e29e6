"""The ledger's lines: JSON, each with the hash of the line before it and its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slt_pate.events import Charge
from slt_pate.ledger.charges import charge_from_json, merge_charges
from sltcore.errors import PrivacyError

FORMAT = 1
START = "0" * 64
"""What stands for the hash of a line before the first."""


@dataclass(frozen=True)
class Stamp:
    """Where a ledger stood when an artefact was released: the ledger's id, its head, and its number of lines."""

    ledger: str
    head: str
    lines: int

    def to_json(self) -> dict[str, Any]:
        """What goes into the artefact."""
        return {"ledger": self.ledger, "head": self.head, "lines": self.lines}

    @classmethod
    def from_json(cls, data: Any) -> Stamp:
        """The stamp of `to_json`. **Raises** `PrivacyError` for other data."""
        match data:
            case {"ledger": str(ledger), "head": str(head), "lines": int(lines)} if not isinstance(lines, bool):
                return cls(ledger, head, lines)
        raise PrivacyError(
            f"{data!r} is no stamp of a ledger; expected {{'ledger': id, 'head': sha256, 'lines': number}}"
        )


@dataclass(frozen=True)
class Entry:
    """One line after the first: what was released, when (UTC), and what it cost. `kind` is 'release' or 'recovery'."""

    seq: int
    kind: str
    what: str
    time: str
    charges: tuple[Charge, ...]
    hash: str


@dataclass(frozen=True)
class History:
    """A verified ledger: its terms, its entries, its heads. `good` is the length in bytes of the complete lines with their
    newlines, `torn` what follows them; where only the last newline is missing, `good` is one more than there are bytes."""

    terms: Mapping[str, Any]
    hashes: tuple[str, ...]
    entries: tuple[Entry, ...] = ()
    good: int = 0
    torn: bytes = b""
    name: str = field(default="", compare=False)

    @property
    def stamp(self) -> Stamp:
        """The ledger's state, for an artefact."""
        return Stamp(self.hashes[0], self.hashes[-1], len(self.hashes))

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All that was spent, one charge for each distinct event."""
        return merge_charges(charge for entry in self.entries for charge in entry.charges)

    def contains(self, head: str) -> bool:
        """Whether the ledger stood at this head, now or earlier."""
        return head in self.hashes

    def verify(self, stamp: Stamp, *, what: str) -> None:
        """**Raises** `PrivacyError` when the artefact `what` has a stamp that this ledger never had."""
        verify(self.name, self.hashes, stamp, what=what)


def verify(name: str, hashes: Sequence[str], stamp: Stamp, *, what: str) -> None:
    """**Raises** `PrivacyError` when a ledger with these hashes never stood where the stamp says."""
    if stamp.ledger != hashes[0]:
        raise PrivacyError(
            f"{what} belongs to ledger {stamp.ledger[:8]}…, not to {name} ({hashes[0][:8]}…); expected the ledger that it was "
            f"released with. Next: find that one"
        )
    if stamp.lines > len(hashes):
        raise PrivacyError(
            f"ledger {name} was rolled back: it has {len(hashes)} lines, {what} was released at line {stamp.lines}; no more may "
            f"be released from it. Next: restore the newest copy"
        )
    if stamp.lines < 1 or hashes[stamp.lines - 1] != stamp.head:
        raise PrivacyError(
            f"ledger {name} has another history than {what}: line {stamp.lines} is not {stamp.head[:8]}…; it was rolled back and "
            f"written on, or changed. Next: restore the newest copy"
        )


def make_line(previous: str, body: Mapping[str, Any]) -> tuple[bytes, str]:
    """A line with its newline, and its hash: sha256 of the line's canonical JSON without the field 'hash'."""
    content = {**body, "prev": previous}
    digest = _hash(content)
    return _canonical({**content, "hash": digest}) + b"\n", digest


def first_line(*, terms: Mapping[str, Any], identity: str, time: str) -> bytes:
    """The line that a ledger begins with: its terms, fixed for good."""
    return make_line(
        START, {"format": FORMAT, "seq": 0, "kind": "terms", "id": identity, "time": time, "terms": terms}
    )[0]


def read_ledger(path: str | Path) -> History:
    """Read and verify a ledger without opening it for writing; a torn last line is passed over, it was never released.

    **Raises** `PrivacyError` when it cannot be read or is damaged.
    """
    try:
        return parse(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise PrivacyError(f"ledger {path} cannot be read: {error.strerror}") from None


def parse(content: bytes, name: str) -> History:
    """The history in a ledger's bytes.

    Bytes after the last newline are a line that a crash cut, unless only its newline is missing: then it counts. A last line
    with zero bytes, which some file systems leave where a block was not written, was cut too. **Raises** `PrivacyError` for
    any other damage, with the line.
    """
    if not content.endswith(b"\n"):
        with contextlib.suppress(PrivacyError):
            whole = parse(content + b"\n", name)
            if not whole.torn:
                return whole
    hashes: list[str] = []
    entries: list[Entry] = []
    terms: Mapping[str, Any] = {}
    good = 0
    for number, line, is_last in _lines(content):
        if is_last and b"\0" in line:
            break
        data = _checked(line, number, hashes[-1] if hashes else START, name)
        if number == 1:
            terms = _terms(data, name)
        else:
            entries.append(_entry(data, number, name))
        hashes.append(data["hash"])
        good += len(line) + 1
    if not hashes:
        raise PrivacyError(
            f"ledger {name} has no complete first line, although it is written whole before it gets its name; it was cut "
            f"later. Next: restore the newest copy"
        )
    return History(terms, tuple(hashes), tuple(entries), good, content[good:], name)


def _lines(content: bytes) -> Iterator[tuple[int, bytes, bool]]:
    end = content.rfind(b"\n")
    lines = content[:end].split(b"\n") if end >= 0 else []
    for place, line in enumerate(lines):
        yield place + 1, line, place == len(lines) - 1


def _checked(line: bytes, number: int, previous: str, name: str) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(line)
        digest = _hash({key: value for key, value in data.items() if key != "hash"})
        if data["hash"] != digest or _canonical(data) != line or data["seq"] != number - 1:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(name, number, "does not match its own hash") from None
    if data["prev"] != previous:
        raise _damaged(name, number, f"does not follow line {number - 1}" if number > 1 else "does not begin a ledger")
    return data


def _terms(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if data.get("format") != FORMAT:
        raise PrivacyError(
            f"ledger {name} has format {data.get('format')}, expected {FORMAT}. Next: pip install -U sltcore-pate"
        )
    if data.get("kind") != "terms" or not isinstance(data.get("terms"), dict):
        raise _damaged(name, 1, "does not begin a ledger")
    return dict(data["terms"])


def _entry(data: Mapping[str, Any], number: int, name: str) -> Entry:
    try:
        charges = tuple(charge_from_json(one) for one in data["charges"])
        return Entry(data["seq"], data["kind"], data["what"], data["time"], charges, data["hash"])
    except PrivacyError as error:
        raise PrivacyError(f"ledger {name}, line {number}: {error}") from None
    except (KeyError, TypeError):
        raise _damaged(name, number, "has not the fields of an entry") from None


def _damaged(name: str, number: int, how: str) -> PrivacyError:
    return PrivacyError(
        f"ledger {name} is damaged: line {number} {how}; nothing may be released on a ledger that cannot be trusted. Next: "
        f"restore the newest copy"
    )


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _canonical(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode()
