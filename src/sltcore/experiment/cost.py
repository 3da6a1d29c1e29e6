"""What a piece of work costs: wall and processor time, and the most memory it held."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


class Meter:
    """Measures what happens inside `with`.

    `max_rss_bytes` is the largest resident set of the whole process while it was inside. Where the system cannot
    forget an earlier peak (anywhere but Linux), it is that of the process so far, and `max_rss_since` says so.
    """

    def __init__(self) -> None:
        self._fresh = False
        self._start = (0.0, 0.0)
        self._took = (0.0, 0.0)

    def __enter__(self) -> Meter:
        self._fresh = _forget_peak()
        self._start = (time.perf_counter(), time.process_time())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._took = (time.perf_counter() - self._start[0], time.process_time() - self._start[1])

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self._took[0]

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all threads."""
        return self._took[1]

    def facts(self) -> dict[str, Any]:
        """All of it, rounded to what the clocks can tell."""
        return {
            "seconds": round(self.seconds, 4),
            "cpu_seconds": round(self.cpu_seconds, 4),
            "max_rss_bytes": peak_bytes(),
            "max_rss_since": "unit" if self._fresh else "process",
        }


def _forget_peak() -> bool:
    """Let the peak begin again at what is held now; False where the system has no such thing."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """The largest resident set since the process began or `Meter` made it forget; None where nobody knows."""
    try:
        found = _PEAK.search(Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        found = None
    if found:
        return int(found.group(1)) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
