"""Tux Paint's stamps: the name of each picture, read aloud by about one volunteer a language.

Layout below `usr/share/tuxpaint/stamps`: `NAME.txt`, its first line in English, then lines `LANG.utf8=text`; beside it
`NAME_desc_LANG.ogg` (or `.wav`), and `NAME_desc.ogg` for English.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sltcore.data.layout import first
from sltcore.data.normalization import normalized
from sltcore.data.rows import Row, sound_seconds

LANGUAGES = ("be", "bg", "ca", "da", "el", "en", "es", "fr", "nl", "pt_BR", "ro", "ru")
_NAME = re.compile(r"(.+)_desc(?:_([a-z]{2}(?:_[A-Z]{2})?))?\.(?:ogg|wav)")


def rows(roots: Sequence[Path], *, languages: Sequence[str] = LANGUAGES) -> Iterator[Row]:
    """One row for each distinct recording with a text in one of the languages: stamps that share a file count once.

    Raises DataError where the folder of stamps is missing.
    """
    folder = first(roots, "usr/share/tuxpaint/stamps")
    seen: set[tuple[str, str]] = set()
    for path in sorted(folder.rglob("*_desc*")):
        match = _NAME.fullmatch(path.name)
        language = (match[2] or "en") if match else ""
        script = path.parent / f"{match[1]}.txt" if match else path
        if language not in languages or not script.is_file():
            continue
        raw = _text(script, language)
        key = (language, hashlib.sha256(path.read_bytes()).hexdigest())
        if not raw or key in seen:
            continue
        seen.add(key)
        short = language[:2]
        text = normalized(raw, short)
        yield Row(
            id=f"{language}/{path.relative_to(folder).with_suffix('')}",
            path=str(path),
            raw_text=raw,
            text=text or "",
            speaker=f"tuxpaint-{language}",
            language=short,
            seconds=sound_seconds(path),
            note="" if text is not None else "a number that the rule does not spell out",
        )


def _text(script: Path, language: str) -> str:
    lines = script.read_text(encoding="utf-8", errors="replace").splitlines()
    if language == "en":
        return lines[0].strip() if lines else ""
    start = f"{language}.utf8="
    return next((line.removeprefix(start).strip() for line in lines if line.startswith(start)), "")
