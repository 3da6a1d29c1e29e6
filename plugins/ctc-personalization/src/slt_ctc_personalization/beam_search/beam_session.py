"""One utterance in pieces: the streaming side of a beam search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sltcore.errors import StreamError
from sltcore.types import NBest

if TYPE_CHECKING:
    from slt_ctc_personalization.beam_search.beam_state import BeamState, Clock
    from slt_ctc_personalization.beam_search.search import BeamSearch
    from slt_ctc_personalization.beam_search.settings import PhraseTable
    from slt_ctc_personalization.evidence.evidence import Evidence

SETTLE_EVERY_FRAMES = 256

Frames = npt.NDArray[np.float32]


class BeamSession:
    """One utterance in pieces: `push` log-probabilities, read `partial` when needed, `finish` for the n-best list.

    The state does not grow with the audio: what all hypotheses share leaves the search and is kept as plain labels.
    Windowed boosting looks `window_after` frames ahead, so the search runs that many frames behind what was pushed;
    `finish` reads the rest.
    """

    def __init__(self, search: BeamSearch, table: PhraseTable, clock: Clock) -> None:
        self._search, self._table, self._clock = search, table, clock
        self._state: BeamState | None = search.engine.open(table)
        settings = search.settings
        self._window: EvidenceWindow | None = None
        if settings.boosting == "windowed":
            self._window = EvidenceWindow(len(settings.labels), settings.window_before, settings.window_after)

    @property
    def partial(self) -> str:
        """The text that leads now; its end may still change."""
        return str(self._search.engine.partial(self._living("partial"), self._table))

    @property
    def rows(self) -> int:
        """Rows of the search tree that are allocated: bounded, whatever the length of the audio."""
        return self._living("rows").rows

    def push(self, log_probs: Any, evidence: Evidence | None = None) -> None:
        """Read a chunk [t v] of log-probabilities, and what is heard of each phrase in its frames.

        **Raises** as `decode`, and `StreamError` after `finish`.
        """
        state = self._living("push")
        values = self._search.check_frames(log_probs, "the chunk")
        heard = self._search.check_evidence(evidence, self._table, len(values), "the chunk")
        if self._window is None:
            self._read(state, values, None)
        else:
            self._read(state, *self._window.push(values, heard))

    def finish(self) -> NBest:
        """The n-best list of everything pushed. **Raises** `StreamError` when called twice."""
        state = self._living("finish")
        if self._window is not None:
            self._read(state, *self._window.finish())
        self._state = None
        return self._search.finish(state, self._table, self._clock)

    def _read(self, state: BeamState, values: Frames, evidence: Evidence | None) -> None:
        for begin in range(0, len(values), SETTLE_EVERY_FRAMES):
            end = min(begin + SETTLE_EVERY_FRAMES, len(values))
            self._search.read(state, self._table, values[begin:end], _part(evidence, begin, end))
            self._search.engine.settle(state, self._table)

    def _living(self, what: str) -> BeamState:
        if self._state is None:
            raise StreamError(f"{what}: this session is finished; open another one")
        return self._state


class EvidenceWindow:
    """Frames of a stream, handed on `after` frames late with the largest evidence from `before` frames ago until then.

    Frame t comes out with `max(evidence[t - before : t + after + 1])` for each phrase, as `evidence.windowed` gives for
    the whole utterance, whatever the chunks: it keeps the frames not yet handed on and the `before` behind them.
    """

    def __init__(self, labels: int, before: int, after: int) -> None:
        from slt_ctc_personalization.evidence.evidence import nothing

        self._before, self._after = before, after
        self._values = np.zeros((0, labels), np.float32)
        self._evidence = nothing(0)

    def push(self, values: Frames, evidence: Evidence) -> tuple[Frames, Evidence]:
        """Take a chunk's frames [t v]; returns those whose future is known by now."""
        from slt_ctc_personalization.evidence.evidence import joined

        self._values = np.concatenate([self._values, values])
        self._evidence = joined([self._evidence, evidence])
        return self._hand_on(max(len(self._values) - self._after, 0))

    def finish(self) -> tuple[Frames, Evidence]:
        """The frames held back; nothing follows them."""
        return self._hand_on(len(self._values))

    def _hand_on(self, count: int) -> tuple[Frames, Evidence]:
        from slt_ctc_personalization.evidence.evidence import piece, windowed

        total = len(self._evidence.start) - 1
        begin = total - len(self._values)
        around = windowed(self._evidence, before=self._before, after=self._after)
        out = self._values[:count], piece(around, begin, begin + count)
        self._values = self._values[count:].copy()
        self._evidence = piece(self._evidence, max(begin + count - self._before, 0), total)
        return out


def _part(evidence: Evidence | None, begin: int, end: int) -> Evidence | None:
    if evidence is None:
        return None
    from slt_ctc_personalization.evidence.evidence import piece

    return piece(evidence, begin, end)
