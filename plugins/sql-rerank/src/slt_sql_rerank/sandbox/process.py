"""One process that answers for SQLite files, from its start to its end."""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slt_sql_rerank.sandbox.limits import Limits
from sltcore.errors import DataError

PROGRAM = Path(__file__).with_name("child.py")
START_SECONDS = 30.0


class Late(Exception):
    """No answer came in time."""


class Gone(Exception):
    """The process has ended."""


class Process:
    """A child process with its databases open, limits set, and nothing else in reach."""

    def __init__(self, databases: Mapping[str, str], limits: Limits) -> None:
        if not sys.executable:
            raise DataError("sys.executable is empty, so no sandbox can be started; run under a Python interpreter")
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}
        self.child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=kept,
            cwd="/",
            start_new_session=True,
        )
        self._ready = False
        self.owed = 0
        """Answers that were asked for and not received."""
        self._received = bytearray()
        self._most = 12 * limits.result_bytes + 32 * limits.cells + (1 << 24)  # a character takes up to 12 in JSON
        self.stop = weakref.finalize(self, _stop, self.child)
        self.send({"databases": dict(databases), "limits": limits.message(), "parent": os.getpid()})

    @property
    def pid(self) -> int:
        """Of the child."""
        return self.child.pid

    @property
    def is_clean(self) -> bool:
        """Whether the next answer will be the next question's: nothing is on its way, and nobody has stopped it."""
        return self.owed == 0 and self.stop.alive

    def wait_ready(self) -> None:
        """Until its databases are open. **Raises** `DataError` where one cannot be opened."""
        if self._ready:
            return
        try:
            answer = self.receive(time.monotonic() + START_SECONDS)
        except (Late, Gone) as error:
            self.stop()
            raise DataError(f"the sandbox's process did not start: {error}") from error
        if "fault" in answer:
            self.stop()
            raise DataError(answer["fault"])
        self._ready = True

    def send(self, message: Mapping[str, Any]) -> None:
        """**Raises** `Gone` where nobody reads any more."""
        raw = json.dumps(message).encode("ascii")
        view = memoryview(struct.pack("<I", len(raw)) + raw)
        assert self.child.stdin is not None
        try:
            while view:
                view = view[os.write(self.child.stdin.fileno(), view) :]
        except OSError as error:
            raise Gone(self._ending()) from error

    def receive(self, deadline: float) -> Any:
        """The next message. **Raises** `Late` at the deadline (monotonic seconds), `Gone` where the process ended."""
        while len(self._received) < 4:
            self._more(deadline)
        (size,) = struct.unpack_from("<I", self._received)
        if size > self._most:
            raise Gone(f"it announced an answer of {size} bytes")
        while len(self._received) < 4 + size:
            self._more(deadline)
        raw = bytes(self._received[4 : 4 + size])
        del self._received[: 4 + size]
        return json.loads(raw.decode("utf-8", "surrogatepass"))

    def _more(self, deadline: float) -> None:
        assert self.child.stdout is not None
        pipe = self.child.stdout.fileno()
        waiter = select.poll()
        waiter.register(pipe, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not waiter.poll(max(1, round(1000 * left))):
            raise Late("no answer in time")
        part = os.read(pipe, 1 << 20)
        if not part:
            raise Gone(self._ending())
        self._received += part

    def _ending(self) -> str:
        try:
            code = self.child.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "its pipe closed"
        return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    child.wait()
