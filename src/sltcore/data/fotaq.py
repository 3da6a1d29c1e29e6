"""Flight of the Amazon Queen: an adventure game with spoken dialogue; its one data file holds texts and MP3 lines.

`queen.1c` is the magic `QTBL`, at byte 13 the number of entries (u16), then entries of 21 bytes: name (12), bundle
(u8), offset (u32), size (u32), all big-endian. An entry `.SB` is one line as MP3, a `.DOG` one dialogue: after 20 bytes
of bank header, words (u16) for the depth of the tree [0], the talk key [2], the numbers of lines of the hero [3] and of
the other person [4], the offsets of that person's lines [11] and of the two repeated greetings [13]. Lines are a pad
(u16), an id (u16), a length (u8) and the text, padded to 4 bytes; the hero's begin at byte 32 + 96 * depth.

`*XX` in a text is a stage command and begins a new segment; segments count from 1 and each has its own recording, named
by talk key, id (hexadecimal), `J` for the hero or `P`, and segment. The hero's line 0 is named `SSSS`, the repeated
greetings `XXXX`. Only dialogues are read here; cut scenes and remarks hold about 107 minutes more.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sltcore.data.layout import first
from sltcore.data.normalization import normalized
from sltcore.data.rows import Row
from sltcore.errors import DataError

HERO = "joe"
_COMMAND = re.compile(r"\*(?:XY\d\d\(\d+,\d+\)|..)")
_EFFECT = re.compile(r"<[^>]*>|\([^)]*\)|\^_")


class Line(NamedTuple):
    """One segment of a dialogue: the entry that holds its recording, the file of the dialogue, who speaks, what."""

    entry: str
    dialogue: str
    hero: bool
    text: str


def rows(roots: Sequence[Path], *, language: str = "en") -> Iterator[Row]:
    """One row for each segment of dialogue with a text and a recording, in the order of the dialogues' names.

    Raises DataError where `queen.1c` is missing, no such archive, or damaged.
    """
    path = first(roots, "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c")
    data = path.read_bytes()
    try:
        entries = directory(data)
        found = list(lines(data, entries))
    except (struct.error, IndexError, ValueError) as error:
        raise DataError(
            f"{path} is not the talkie's data file, or damaged ({error}); fetch the corpus again"
        ) from error
    import soundfile

    for line in found:
        offset, size = entries[line.entry]
        sound = data[offset : offset + size]
        raw = line.text.strip()
        text = normalized(_EFFECT.sub(" ", raw), language)
        name = line.entry.removesuffix(".SB")
        yield Row(
            id=name,
            path=f"{name}.mp3",
            data=sound,
            raw_text=raw,
            text=text or "",
            speaker=HERO if line.hero else re.sub(r"\d*\.DOG$", "", line.dialogue).lower(),
            language=language,
            seconds=float(soundfile.info(io.BytesIO(sound)).duration),
            note="" if text is not None else "a number that the rule does not spell out",
        )


def directory(data: bytes) -> dict[str, tuple[int, int]]:
    """Entry names of the archive, each with offset and size in bytes.

    Raises ValueError where the data is no such archive, or shorter than its directory says.
    """
    if data[:4] != b"QTBL":
        raise ValueError("it does not begin with QTBL")
    (count,) = struct.unpack_from(">H", data, 13)
    entries = {}
    for index in range(count):
        name, _, offset, size = struct.unpack_from(">12sBII", data, 15 + 21 * index)
        if offset + size > len(data):
            raise ValueError(f"entry {index} ends at byte {offset + size} of {len(data)}")
        entries[name.rstrip(b"\0 ").decode("latin-1")] = (offset, size)
    return entries


def lines(data: bytes, entries: Mapping[str, tuple[int, int]]) -> Iterator[Line]:
    """The segments of all dialogues that have a recording, each recording once (the game takes the first)."""
    seen: set[str] = set()
    for dialogue in sorted(name for name in entries if name.endswith(".DOG")):
        offset, size = entries[dialogue]
        for prefix, text in _strings(data[offset + 20 : offset + size]):
            for number, segment in enumerate(_COMMAND.split(text), 1):
                entry = f"{prefix}{number:x}.SB".upper()
                if segment.strip() and entry in entries and entry not in seen:
                    seen.add(entry)
                    yield Line(entry, dialogue, prefix.endswith("J"), segment)


def _strings(dog: bytes) -> Iterator[tuple[str, str]]:
    header = struct.unpack_from(">h13H", dog)
    key = f"{header[2]:02d}"
    for who, start, count in (("J", 32 + 96 * abs(header[0]), header[3]), ("P", header[11], header[4])):
        place = start
        for _ in range(count):
            number, length = struct.unpack_from(">HB", dog, place + 2)
            text = dog[place + 5 : place + 5 + length].decode("cp437")
            yield f"{key}{f'{number:04X}' if number or who == 'P' else 'SSSS'}{who}", text
            place = (place + 5 + length + 3) // 4 * 4
    place = header[13]
    for who in "PJ":
        length = dog[place]
        yield f"{key}XXXX{who}", dog[place + 1 : place + 1 + length].decode("cp437")
        place = (place + 1 + length + 1) // 2 * 2
