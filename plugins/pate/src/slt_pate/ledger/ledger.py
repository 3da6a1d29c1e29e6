"""The ledger that stands between a mechanism and whoever receives its answers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from slt_pate.events import Charge
from slt_pate.ledger.chain import Entry, History, Stamp, first_line, make_line, parse, verify
from slt_pate.ledger.charges import charge_to_json, merge_charges
from slt_pate.ledger.durable import create, sync, sync_folder, write_all
from slt_pate.ledger.private_votes import PrivateVotes
from slt_pate.ledger.terms import checked_terms, refuse_missing, refuse_other_terms
from slt_pate.mechanisms.answers import Answer, Answers, Mechanism
from sltcore.errors import PrivacyError


class Guard(Protocol):
    """What decides whether charges fit into the budget, on data-independent cost."""

    def allows(self, charges: Sequence[Charge]) -> bool:
        """Whether the charges fit beside those charged before."""

    def charge(self, charges: Sequence[Charge]) -> Any:
        """Count them. **Raises** `PrivacyError`, counting nothing, where they do not fit."""


class Ledger:
    """An append-only, hash-chained file of charges, held by one process. Made by `Ledger.open`.

    A charge is on disk before `append` returns, and `release` hands an answer out only after that; so whatever is cut short,
    the file never shows less than what left. After a failed write the object refuses to go on; open the ledger again.
    """

    def __init__(
        self, path: Path, descriptor: int, *, guard: Guard, history: History, votes: PrivateVotes | None
    ) -> None:
        self.path, self.terms = path, history.terms
        self.private_votes = votes
        self._descriptor, self._guard, self._process = descriptor, guard, os.getpid()
        self._hashes, self._entries = list(history.hashes), list(history.entries)
        self._known, self._size = set(history.hashes), history.good
        self._is_open, self._fault, self._turn = True, "", threading.RLock()

    @classmethod
    @contextlib.contextmanager
    def _locked(cls, path: Path) -> Iterator[int]:
        """A descriptor that this process alone holds; closed when the block fails."""
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise PrivacyError(
                f"ledger {path} is in use by another process; two could each spend what is left. Next: wait until it ends"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        epsilon: float,
        delta: float,
        unit: str,
        guard: Guard,
        terms: Mapping[str, Any] | None = None,
        stamps: Mapping[str, Stamp] | None = None,
        keeps_votes: bool = True,
    ) -> Ledger:
        """Begin a ledger, or go on with one, counting its charges into `guard`, which must be new.

        `epsilon`, `delta`, `unit` and further `terms` (JSON) are fixed by the first line. `stamps` are those of artefacts
        released from it before, by name; a ledger that never stood where they say was rolled back. `keeps_votes` writes the
        votes that `release` sees to a private file, which data-dependent figures need.

        **Raises** `PrivacyError` when another process holds it, its terms differ, it is damaged, rolled back or gone, what it
        shows exceeds the guard's budget, or it cannot be written.
        """
        place = Path(path).absolute()
        wanted = {**(terms or {}), **checked_terms(path, epsilon, delta, unit=unit)}
        try:
            begun = first_line(terms=wanted, identity=secrets.token_hex(16), time=_now())
        except (TypeError, ValueError) as error:
            raise PrivacyError(f"the terms of ledger {path} cannot be written as JSON: {error}") from None
        refuse_missing(place, tuple(stamps or ()))
        try:
            create(place, begun)
            with cls._locked(place) as descriptor:
                history = parse(_read(descriptor), str(path))
                refuse_other_terms(path, history.terms, json.loads(json.dumps(wanted)))
                for name, stamp in (stamps or {}).items():
                    history.verify(stamp, what=name)
                _count(path, guard, history.charges)
                # A process that was killed may have written this line, or its name, without a sync.
                sync(descriptor)
                sync_folder(place.parent)
                votes = PrivateVotes(place) if keeps_votes else None
                ledger = cls(place, descriptor, guard=guard, history=history, votes=votes)
                ledger._mend(history)
                return ledger
        except OSError as error:
            raise PrivacyError(
                f"ledger {path} cannot be opened: {error.strerror or error}; nothing was released"
            ) from None

    @property
    def head(self) -> str:
        """The hash of the last line."""
        return self._hashes[-1]

    @property
    def stamp(self) -> Stamp:
        """What goes into an artefact that leaves now."""
        return Stamp(self._hashes[0], self._hashes[-1], len(self._hashes))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All lines after the first."""
        return tuple(self._entries)

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All that was spent, one charge for each distinct event."""
        return merge_charges(charge for entry in self._entries for charge in entry.charges)

    def contains(self, head: str) -> bool:
        """Whether the ledger stood at this head, now or earlier."""
        return head in self._known

    def verify(self, stamp: Stamp, *, what: str) -> None:
        """**Raises** `PrivacyError` when the artefact `what` has a stamp that this ledger never had."""
        verify(str(self.path), self._hashes, stamp, what=what)

    def allows(self, charges: Sequence[Charge]) -> bool:
        """Whether the charges fit into what is left of the budget."""
        return self._guard.allows(charges)

    def append(self, charges: Sequence[Charge], what: str) -> Stamp:
        """Count charges and write them down as one line, on disk when this returns. See `append_all`."""
        return self.append_all([(charges, what)])

    def append_all(self, lines: Iterable[tuple[Sequence[Charge], str]]) -> Stamp:
        """Count several lines and write them with one sync: for answers that leave together. All fit, or none is counted.

        **Raises** `PrivacyError` when the budget would be exceeded (nothing is written) or the disk refuses (the lines may
        have been counted, their answers must not be released).
        """
        with self._turn:
            self._refuse_unusable()
            content, entries = self._encode(lines, "release")
            total = merge_charges(charge for entry in entries for charge in entry.charges)
            self._refuse_excess(total, ", ".join(dict.fromkeys(entry.what for entry in entries)))
            self._guard.charge(total)
            self._write(content, entries)
            return self.stamp

    def release(self, mechanism: Mechanism, data: ArrayLike, what: str) -> Answer:
        """One answer of `mechanism`, its cost on disk before it is returned. See `release_batch`."""
        answers = self.release_batch(mechanism, np.asarray(data)[np.newaxis], what)
        if not answers.answered[0]:
            return Answer(None, answers.charges)
        value = answers.values[0]
        return Answer(int(value) if np.ndim(value) == 0 else value, answers.charges)

    def release_batch(self, mechanism: Mechanism, data: ArrayLike, what: str) -> Answers:
        """Answers of `mechanism` to a batch, one line and one sync for all; votes [q v] go to the private side file.

        **Raises** `PrivacyError`, before noise is drawn, when the worst case of the batch exceeds the budget; and when the
        cost or the votes cannot be written down.
        """
        with self._turn:
            self._refuse_unusable()
            values = np.atleast_1d(np.asarray(data))
            votes = self.private_votes if values.ndim == 2 else None
            if votes is not None:
                votes.refuse_open_to_others()
            self._refuse_excess(mechanism.events(len(values)), what)
            answers = mechanism.release_batch(values)
            if not len(answers):
                return answers
            self.append(answers.charges, what)
            if votes is not None:
                try:
                    votes.append(self.head, values, answers.answered)
                except OSError as error:
                    raise PrivacyError(
                        f"{votes.path} cannot be written: {error.strerror}; the answers were counted and not released"
                    ) from None
            return answers

    def close(self) -> None:
        """Let another process open the ledger."""
        with self._turn:
            if self._is_open:
                self._is_open = False
                os.close(self._descriptor)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _encode(self, lines: Iterable[tuple[Sequence[Charge], str]], kind: str) -> tuple[bytes, list[Entry]]:
        head, now, content, entries = self.head, _now(), bytearray(), list[Entry]()
        for charges, what in lines:
            if not isinstance(what, str) or not what.strip():
                raise PrivacyError(
                    f"ledger {self.path}: a line's text is {what!r}, expected what was released, in words"
                )
            if not charges and kind == "release":
                raise PrivacyError(f"ledger {self.path}: '{what}' has no charges; what costs nothing needs no line")
            seq = len(self._hashes) + len(entries)
            costs = [charge_to_json(charge) for charge in charges]
            line, head = make_line(head, {"seq": seq, "kind": kind, "what": what, "time": now, "charges": costs})
            content += line
            entries.append(Entry(seq, kind, what, now, tuple(charges), head))
        if not entries:
            raise PrivacyError(f"ledger {self.path}: no lines were given; expected at least one")
        return bytes(content), entries

    def _write(self, content: bytes, entries: list[Entry]) -> None:
        try:
            write_all(self._descriptor, content)
            sync(self._descriptor)
        except BaseException as error:
            self._fault = (error.strerror or str(error)) if isinstance(error, OSError) else type(error).__name__
            # After a failed sync the kernel may show bytes that the device never got: take them away, nobody relies on them.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            if isinstance(error, OSError):
                self._refuse_unusable()
            raise
        self._size += len(content)
        self._entries += entries
        self._hashes += [entry.hash for entry in entries]
        self._known.update(entry.hash for entry in entries)

    def _mend(self, history: History) -> None:
        """Finish what a crash left: the missing newline of a whole line, or a line that was cut and never released."""
        if history.torn:
            os.ftruncate(self._descriptor, history.good)
            sync(self._descriptor)
            dropped = f"dropped {len(history.torn)} bytes of a line that was cut; its answer had not left"
            self._write(*self._encode([((), dropped)], "recovery"))
        elif os.fstat(self._descriptor).st_size < history.good:
            write_all(self._descriptor, b"\n")
            sync(self._descriptor)

    def _refuse_unusable(self) -> None:
        if not self._is_open:
            raise PrivacyError(f"ledger {self.path} is closed. Next: Ledger.open")
        if os.getpid() != self._process:
            raise PrivacyError(
                f"ledger {self.path} was opened by process {self._process}, this is {os.getpid()}; a fork must not append. Next: "
                f"append in the process that opened it"
            )
        if self._fault:
            raise PrivacyError(
                f"ledger {self.path} could not be written ({self._fault}); nothing was released, and no more is from this object. "
                f"Next: make room or mend the disk, then open the ledger again"
            )
        try:
            here, named = os.fstat(self._descriptor), os.stat(self.path)
            is_same = (here.st_dev, here.st_ino) == (named.st_dev, named.st_ino) and here.st_size == self._size
        except OSError:
            is_same = False
        if not is_same:
            raise PrivacyError(
                f"ledger {self.path} was moved, replaced or changed while it was open; nothing was released. Next: put it back, "
                f"and open it again"
            )

    def _refuse_excess(self, charges: Sequence[Charge], what: str) -> None:
        if not self._guard.allows(charges):
            counts = ", ".join(f"{charge.count} x {charge.event}" for charge in charges)
            raise PrivacyError(
                f"ledger {self.path}: '{what}' may cost {counts}, more than is left of epsilon {self.terms['epsilon']:g} at delta "
                f"{self.terms['delta']:g} per {self.terms['unit']}; nothing was released. Next: ask less, or stop here"
            )


def _read(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    content = bytearray()
    while len(content) < size:
        part = os.pread(descriptor, size - len(content), len(content))
        if not part:
            break
        content += part
    return bytes(content)


def _count(path: str | Path, guard: Guard, charges: tuple[Charge, ...]) -> None:
    if not charges:
        return
    if not guard.allows(charges):
        raise PrivacyError(
            f"ledger {path} shows more than the budget allows; expected one that stayed within it, counted by the same accountant. "
            f"Next: slt privacy report"
        )
    guard.charge(charges)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
