"""One utterance of a corpus, as loaders make it and tables hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

COLUMNS = ("id", "audio", "text", "raw_text", "speaker", "language", "seconds", "split", "note")


@dataclass(frozen=True)
class Row:
    """One utterance: its sound is a file (`path`) or a file's bytes (`data`, with `path` as a name for its ending).

    `raw_text` is the script as it was found, `text` its normalised words. `split` is "train", "test", "overlap" (of a
    training speaker, but its words occur in the test part) or "unused" (with the reason in `note`).
    `extra` holds the columns that only this corpus has: texts, or tuples of texts.
    """

    id: str
    path: str
    raw_text: str
    text: str
    speaker: str
    language: str
    seconds: float
    data: bytes | None = None
    split: str = "train"
    note: str = ""
    extra: Mapping[str, str | tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))


def sound_seconds(path: Path) -> float:
    """Length in seconds, by the size for G.722 (64 kbit/s), by the header for the rest; 0 for what cannot be read.

    A corpus may hold a broken file (fillets-nl has an empty one); its row is then "unused", not the end of the corpus.
    """
    if path.suffix == ".g722":
        return path.stat().st_size / 8000
    from sltcore.audio import probe
    from sltcore.errors import AudioError

    try:
        return probe(path).duration_s
    except AudioError:
        return 0.0
