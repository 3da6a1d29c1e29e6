"""One line of the log before kernels are compiled, which takes a while once on a machine."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from numba.core import event

LOG = logging.getLogger(__name__)


class _Announcement(event.Listener):
    """Hears numba begin to compile; code that it finds on disk is no such event."""

    said = False

    def on_start(self, event: Any) -> None:
        function = getattr((event.data or {}).get("dispatcher"), "py_func", None)
        if not self.said and str(getattr(function, "__module__", "")).startswith("slt_nna."):
            self.said = True
            LOG.warning(
                "compiling the arithmetic of chips for this machine, once, up to half a minute; kept in the cache folder where "
                "one can be written"
            )

    def on_end(self, event: Any) -> None:
        """Nothing to say."""


@cache
def announce_compilation() -> None:
    """Say it in this process when it happens, and only once."""
    event.register("numba:compile", _Announcement())  # type: ignore[no-untyped-call]
