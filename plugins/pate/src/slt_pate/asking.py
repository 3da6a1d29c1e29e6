"""Questions to answers: votes through the mechanism, through the ledger, within a plan; what was answered is kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slt_pate.budget import Plurality
from slt_pate.ledger import Ledger
from slt_pate.ledger.durable import create, sync, sync_folder, write_all
from slt_pate.mechanisms import ConfidentGNMax, Mechanism, NoisyPosterior
from slt_pate.queries.design import NOTHING, Question
from sltcore.errors import PrivacyError

ANSWERS = ".answers.jsonl"
SALT = ".salt-private"


class Asking:
    """Puts questions to a mechanism, at most `queries` of them with at most `answers` answers.

    Each question is asked once in the life of a run: its released answer is kept in a file, and given again when a run is
    taken up after a crash; that is free. Whatever cannot be afforded any more has no answer: the plan's end is known
    beforehand, and the budget's end depends on released answers alone.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        ledger: Ledger | None,
        kept: KeptAnswers,
        *,
        queries: int,
        answers: int | None = None,
        what: str = "answers",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.mechanism, self.kept, self.what = mechanism, kept, what
        self.left = queries
        self.left_answers = queries if answers is None else answers
        self.asked = self.answered = self.reused = 0
        self.exhausted = False
        self._ledger, self._say = ledger, say

    def __call__(self, questions: Sequence[Question]) -> NDArray[np.int64]:
        """The class that each released answer names, or NOTHING: int64 [q]."""
        found = np.full(len(questions), NOTHING, dtype=np.int64)
        fresh: list[int] = []
        for place, question in enumerate(questions):
            known = self.kept.get(question.key)
            if known is None:
                fresh.append(place)
                continue
            found[place] = known
            self._count(1, int(known != NOTHING), reused=1)
        fresh.sort(key=lambda place: questions[place].scores.shape[1])
        for _, group in groupby(fresh, key=lambda place: questions[place].scores.shape[1]):
            places = list(group)
            while places and (most := self._most()):
                chunk, places = places[:most], places[most:]
                chosen = [questions[place] for place in chunk]
                values = self._release(chosen)
                if values is None:
                    return found
                self.kept.add((question.key, int(value)) for question, value in zip(chosen, values, strict=True))
                self._count(len(chunk), int((values != NOTHING).sum()))
                found[chunk] = values
        return found

    def _most(self) -> int:
        """How many may be asked at once: all might be answered."""
        if self.exhausted:
            return 0
        return min(self.left, self.left_answers) if isinstance(self.mechanism, ConfidentGNMax) else self.left

    def _count(self, queries: int, answers: int, reused: int = 0) -> None:
        self.left = max(0, self.left - queries)
        self.left_answers = max(0, self.left_answers - answers)
        self.asked += queries
        self.answered += answers
        self.reused += reused

    def _release(self, questions: Sequence[Question]) -> NDArray[np.int64] | None:
        """Released classes, or None where the ledger refuses."""
        if isinstance(self.mechanism, NoisyPosterior):
            data: Any = np.stack([question.posteriors() for question in questions])
        else:
            data = np.stack([question.votes() for question in questions])
        if isinstance(self.mechanism, Plurality):
            return np.asarray(self.mechanism.release_batch(data).values, dtype=np.int64)
        assert self._ledger is not None
        if not self._ledger.allows(self.mechanism.events(len(questions))):
            self.exhausted = True
            self._say(
                f"the budget is spent after {self.asked:,} queries; what is left has no answer (a run that was cut short paid "
                f"for answers that it could not keep)"
            )
            return None
        what = described(len(questions), self.what, self.mechanism)
        released = self._ledger.release_batch(self.mechanism, data, what)
        values = np.asarray(released.values)
        return values.argmax(axis=1) if values.ndim == 2 else values.astype(np.int64)


def described(count: int, what: str, mechanism: Mechanism) -> str:
    """A ledger line's text; it tells the threshold of a test, which the charges do not hold."""
    test = f", threshold {mechanism.threshold!r} votes" if isinstance(mechanism, ConfidentGNMax) else ""
    return f"{count} {what}{test}"


def threshold_in(what: str) -> float | None:
    """The threshold that a ledger line's text tells."""
    found = re.search(r", threshold (\S+) votes$", what)
    return None if found is None else float(found[1])


class KeptAnswers:
    """Released answers beside a ledger, by run and question: `<ledger>.answers.jsonl`. They are public, as what they trained.

    `run` is a name that `run_name` gives, `plan` one that `plan_name` gives to what is public of it.

    A line is written after the ledger's and before the answer is used. A line that a crash cut is passed over; its answer
    was paid for and is asked for again.
    """

    def __init__(self, ledger: str | Path, run: str, plan: str) -> None:
        self.path = Path(f"{ledger}{ANSWERS}")
        self.run, self.plan = run, plan
        self._known: dict[str, int] = {}
        self.of_plan = 0
        """Answers of any run with this plan, when the file was read."""
        for line in self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []:
            self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            data = json.loads(line)
            run, plan, key, answer = data["run"], data["plan"], str(data["key"]), int(data["answer"])
        except (ValueError, KeyError, TypeError):
            return
        self.of_plan += plan == self.plan
        if run == self.run:
            self._known[key] = answer

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> int | None:
        """The class that was released for a question, NOTHING, or None where it was not asked."""
        return self._known.get(key)

    def add(self, answers: Iterable[tuple[str, int]]) -> None:
        """Keep released answers; on disk when this returns. **Raises** `PrivacyError` when they cannot be written."""
        given = list(answers)
        lines = "".join(
            json.dumps({"run": self.run, "plan": self.plan, "key": key, "answer": answer}, separators=(",", ":")) + "\n"
            for key, answer in given
        )
        is_new = not self.path.exists()
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                write_all(descriptor, b"\n" * torn + lines.encode())
                sync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise PrivacyError(
                f"{self.path} cannot be written: {error.strerror}; {len(given)} answers were counted and are lost"
            ) from None
        self._known.update(given)


def plan_name(facts: Any) -> str:
    """A name for what is public of a run: design, noise, and which utterances are asked about."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def run_name(ledger: str | Path, plan: str, models: Sequence[Any]) -> str:
    """A name for a run that differs where its plan or its models' weights differ, and tells nothing about them.

    HMAC-SHA256 under a salt in a private file beside the ledger.
    """
    digest = hashlib.sha256(plan.encode())
    for model in models:
        for name, tensor in sorted(_state(model).items()):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.flatten().view(_bytes()).numpy().tobytes() if values.numel() else b"")
        digest.update(b"\0")
    return hmac.new(_salt(Path(f"{ledger}{SALT}")), digest.digest(), hashlib.sha256).hexdigest()[:32]


def _state(model: Any) -> dict[str, Any]:
    module = getattr(model, "model", model)
    return dict(module.state_dict()) if hasattr(module, "state_dict") else {}


def _bytes() -> Any:
    import torch

    return torch.uint8


def _salt(path: Path) -> bytes:
    try:
        create(path, secrets.token_bytes(32), mode=0o600)
        return path.read_bytes()
    except OSError as error:
        raise PrivacyError(f"{path} cannot be used: {error.strerror}; nothing was released") from None
