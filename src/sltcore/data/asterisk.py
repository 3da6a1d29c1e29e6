"""Asterisk's core sounds: telephone prompts by one studio voice a language, as G.722, beside a list of their texts.

Layout: `usr/share/asterisk/sounds/VOICE/ID.g722` and `usr/share/doc/asterisk-core-sounds-LANG/core-sounds-LANG.txt.gz`
with lines `ID: text`; lines that begin with `;` are comments, a text in brackets describes a sound that is no speech.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

from sltcore.data.layout import first
from sltcore.data.normalization import is_direction, normalized
from sltcore.data.rows import Row, sound_seconds


def rows(roots: Sequence[Path], *, language: str, voice: str) -> Iterator[Row]:
    """One row for each prompt with a text and a recording, in the list's order.

    Raises DataError where the list or the folder of recordings is missing.
    """
    listing = first(roots, f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt*")
    folder = first(roots, f"usr/share/asterisk/sounds/{voice}")
    data = gzip.decompress(listing.read_bytes()) if listing.suffix == ".gz" else listing.read_bytes()
    seen: set[str] = set()
    for line in data.decode("utf-8-sig", errors="replace").splitlines():
        name, colon, raw = line.partition(":")
        name, raw = name.strip(), raw.strip()
        if not colon or name.startswith(";") or not raw or is_direction(raw) or name in seen:
            continue
        path = folder / f"{name}.g722"
        if not path.is_file():
            continue
        seen.add(name)
        text = normalized(raw, language)
        yield Row(
            id=name,
            path=str(path),
            raw_text=raw,
            text=text or "",
            speaker=voice,
            language=language,
            seconds=sound_seconds(path),
            note="" if text is not None else "a number that the rule does not spell out",
        )
