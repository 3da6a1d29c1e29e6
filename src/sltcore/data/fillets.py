"""Fish Fillets: the dialogues of a puzzle game, acted in Czech and Dutch (some sounds in English).

Layout below `usr/share/games/fillets-ng`: `script/LEVEL/*dialogs_LANG.lua` with `dialogId("ID", "font_ROLE",
"English")` and `dialogStr("text")`, `sound/LEVEL/LANG/ID.ogg`; the dialogues that levels share lie in `script/share`,
their sounds in `sound/share/*/LANG`. The font names the role, which is the speaker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sltcore.data.layout import first
from sltcore.data.normalization import normalized
from sltcore.data.rows import Row, sound_seconds

_STRING = r'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(
    rf"dialogId\(\s*{_STRING}\s*,\s*{_STRING}\s*,\s*{_STRING}\s*\)(?:\s|--[^\n]*\n)*(?:dialogStr\(\s*{_STRING}\s*\))?"
)
_HOME = "usr/share/games/fillets-ng"


def rows(roots: Sequence[Path], *, language: str, package: str) -> Iterator[Row]:
    """One row for each line of dialogue with a text and a recording, by level and file.

    Raises DataError where the scripts or the sounds are missing.
    """
    scripts = first(roots, f"{_HOME}/script")
    sounds = [root / _HOME / "sound" for root in roots if (root / _HOME / "sound").is_dir()]
    first(roots, f"{_HOME}/sound/*/{language}")
    seen: set[Path] = set()
    for script in sorted(scripts.glob(f"*/*dialogs_{language}.lua")):
        level = script.parent.name
        folders = [
            f for sound in sounds for f in sorted(sound.glob(f"{'share/*' if level == 'share' else level}/{language}"))
        ]
        for name, font, english, own in _LINE.findall(script.read_text(encoding="utf-8", errors="replace")):
            raw = _unescaped(own or (english if language == "en" else ""))
            path = next((folder / f"{name}.ogg" for folder in folders if (folder / f"{name}.ogg").is_file()), None)
            if path is None or path in seen or not raw.strip():
                continue
            seen.add(path)
            text = normalized(raw, language)
            yield Row(
                id=f"{level}/{name}",
                path=str(path),
                raw_text=raw.strip(),
                text=text or "",
                speaker=f"{package}-{font.removeprefix('font_')}",
                language=language,
                seconds=sound_seconds(path),
                note="" if text is not None else "a number that the rule does not spell out",
            )


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: " " if match[1] == "n" else match[1], text)
