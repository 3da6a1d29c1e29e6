"""Promises of the loaders, on small corpora made here in each layout."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sltcore.audio import read_audio
from sltcore.data import asterisk, fillets, fotaq, tuxpaint
from sltcore.errors import DataError

TONE = (0.3 * np.sin(np.arange(8000) / 5)).astype(np.float32)


def sound(path: Path, seconds: float = 0.5, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.resize(TONE, round(16000 * seconds)), 16000, **options)


def asterisk_tree(root: Path, listing: str, names: list[str]) -> None:
    doc = root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    doc.parent.mkdir(parents=True)
    doc.write_bytes(gzip.compress(listing.encode()))
    for name in names:
        path = root / f"usr/share/asterisk/sounds/en_US_f_Allison/{name}.g722"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(8000))


def test_asterisk_pairs_texts_and_recordings(tmp_path: Path) -> None:
    listing = (
        "\ufeff; comment: no prompt\n\nhello: Hello, Joe.\nletters/at: at\nbeep: [a tone]\nnothing:\n"
        "lost: There is no file.\nhello: Again.\nbig: Dial 500.\nplain line\ncolon: Note: this.\n"
    )
    asterisk_tree(tmp_path, listing, ["hello", "letters/at", "beep", "nothing", "big", "colon"])
    found = list(asterisk.rows([tmp_path], language="en", voice="en_US_f_Allison"))
    assert [(row.id, row.text) for row in found] == [
        ("hello", "hello joe"),
        ("letters/at", "at"),
        ("big", ""),
        ("colon", "note this"),
    ]
    assert {row.seconds for row in found} == {1.0}
    assert found[2].note == "a number that the rule does not spell out"
    assert read_audio(found[0].path).duration_s == 1.0


def test_a_list_without_compression_is_read_too(tmp_path: Path) -> None:
    asterisk_tree(tmp_path, "a: A.\n", ["a"])
    doc = tmp_path / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    doc.with_suffix("").write_bytes(gzip.decompress(doc.read_bytes()))
    doc.unlink()
    assert len(list(asterisk.rows([tmp_path], language="en", voice="en_US_f_Allison"))) == 1


def test_fillets_finds_lines_by_level_and_in_what_levels_share(tmp_path: Path) -> None:
    data, own = tmp_path / "data", tmp_path / "cs"
    home = "usr/share/games/fillets-ng"
    scripts = {
        "cellar/dialogs_cs.lua": 'dialogId("a", "font_big", "Hi")\ndialogStr("Ahoj \\"rybo\\"!")\n\n'
        '-- comment\ndialogId("b", "font_small", "No sound")\ndialogStr("Nic")\n'
        'dialogId("c", "font_small", "No text")\n'
        'for i = 0, 9 do dialogId("k"..i, "", "") end\n',
        "cellar/demo_dialogs_cs.lua": 'dialogId("d", "font_small",\n "Two lines")\ndialogStr("Kolik je 12?")\n',
        "share/black_dialogs_cs.lua": 'dialogId("e", "font_big", "Joke")\ndialogStr("Vtip")\n',
        "cellar/dialogs_en.lua": 'dialogId("a", "font_big", "Hi, fish")\n',
    }
    for name, text in scripts.items():
        (path := data / home / "script" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("cellar/cs/a", "cellar/cs/c", "cellar/cs/d", "share/blackjokes/cs/e"):
        sound(own / home / f"sound/{name}.ogg")
    sound(data / home / "sound/cellar/en/a.ogg")
    found = {row.id: row for row in fillets.rows([data, own], language="cs", package="fillets")}
    assert {name: row.text for name, row in found.items()} == {
        "cellar/a": "ahoj rybo",
        "cellar/d": "",
        "share/e": "vtip",
    }
    assert found["cellar/a"].speaker == "fillets-big"
    assert found["cellar/a"].seconds == pytest.approx(0.5)
    assert found["cellar/d"].note == "a number that the rule does not spell out"
    (english,) = fillets.rows([data, own], language="en", package="fillets")
    assert english.text == "hi fish"


def test_a_broken_recording_does_not_end_the_corpus(tmp_path: Path) -> None:
    home = tmp_path / "usr/share/games/fillets-ng"
    (home / "script/cellar").mkdir(parents=True)
    (home / "script/cellar/dialogs_cs.lua").write_text('dialogId("a", "font_big", "Hi")\ndialogStr("Ahoj")\n')
    (home / "sound/cellar/cs").mkdir(parents=True)
    (home / "sound/cellar/cs/a.ogg").write_bytes(b"OggS")
    (row,) = fillets.rows([tmp_path], language="cs", package="fillets")
    assert row.seconds == 0


def test_tuxpaint_takes_each_recording_once_in_its_language(tmp_path: Path) -> None:
    stamps = tmp_path / "usr/share/tuxpaint/stamps"
    (stamps / "animals").mkdir(parents=True)
    (stamps / "animals/cat.txt").write_text("A cat.\nfr.utf8=Un chat.\npt_BR.utf8=Um gato.\nde.utf8=Eine Katze.\n")
    (stamps / "animals/cat2.txt").write_text("A cat.\nfr.utf8=Un chat.\n")
    sound(stamps / "animals/cat_desc.ogg")
    sound(stamps / "animals/cat_desc_fr.ogg", 0.6)
    sound(stamps / "animals/cat_desc_pt_BR.wav", 0.7)
    sound(stamps / "animals/cat_desc_it.ogg")
    sound(stamps / "animals/dog_desc_fr.ogg")
    (stamps / "animals/cat2_desc_fr.ogg").write_bytes((stamps / "animals/cat_desc_fr.ogg").read_bytes())
    found = sorted((row.speaker, row.language, row.text) for row in tuxpaint.rows([tmp_path]))
    assert found == [
        ("tuxpaint-en", "en", "a cat"),
        ("tuxpaint-fr", "fr", "un chat"),
        ("tuxpaint-pt_BR", "pt", "um gato"),
    ]
    assert [row.language for row in tuxpaint.rows([tmp_path], languages=("fr",))] == ["fr"]


def lines(numbered: list[tuple[int, str]], start: int) -> bytes:
    out = b""
    for number, text in numbered:
        out += struct.pack(">HHB", 0, number, len(text)) + text.encode("cp437")
        out += bytes(-(start + len(out)) % 4)
    return out


def talkie(sounds: list[str]) -> bytes:
    """A `queen.1c` with one dialogue of depth 1, written from the layout alone."""
    joe = lines([(0, "*04Hi, I'm Joe.*02I fly.*03"), (0x1E, 'Any "news"?*04*03')], 128)
    person_at = 128 + len(joe)
    person = lines([(0x1E, "*FLNo.*XY00(12,34)Go away!*02"), (0x2F, "<gulp>*02")], person_at)
    again_at = person_at + len(person)
    again = b"".join(bytes([len(t)]) + t + bytes((1 + len(t)) % 2) for t in (b"You again?", b"Me again.*02"))
    header = struct.pack(">h13H", -1, 0, 7, 2, 2, 0, 0, 0, 0, 0, 0, person_at, 0, again_at)
    dog = bytes(20) + header.ljust(128, b"\0") + joe + person + again
    buffer = io.BytesIO()
    soundfile.write(buffer, np.resize(TONE, 11025), 11025, format="MP3")
    parts = {"BOB1.DOG": dog, **dict.fromkeys(sounds, buffer.getvalue())}
    offset = 15 + 21 * len(parts)
    directory = b""
    for name, content in parts.items():
        directory += struct.pack(">12sBII", name.encode(), 1, offset, len(content))
        offset += len(content)
    return b"QTBLCEM10\0\0\0\1" + struct.pack(">H", len(parts)) + directory + b"".join(parts.values())


def queen(root: Path, data: bytes) -> None:
    path = root / "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)


def test_the_talkie_names_each_segment_by_key_line_speaker_and_place(tmp_path: Path) -> None:
    sounds = ["07SSSSJ2.SB", "07SSSSJ3.SB", "07001EJ1.SB", "07001EP2.SB", "07001EP3.SB", "07002FP1.SB"]
    sounds += ["07XXXXP1.SB", "07XXXXJ1.SB", "070099J1.SB"]
    queen(tmp_path, talkie(sounds))
    found = {row.id: row for row in fotaq.rows([tmp_path])}
    assert {name: (row.speaker, row.text) for name, row in found.items()} == {
        "07SSSSJ2": ("joe", "hi i'm joe"),
        "07SSSSJ3": ("joe", "i fly"),
        "07001EJ1": ("joe", "any news"),
        "07001EP2": ("bob", "no"),
        "07001EP3": ("bob", "go away"),
        "07002FP1": ("bob", ""),
        "07XXXXP1": ("bob", "you again"),
        "07XXXXJ1": ("joe", "me again"),
    }
    row = found["07SSSSJ2"]
    assert row.seconds == pytest.approx(1.0, abs=0.1)
    assert read_audio({"bytes": row.data, "path": row.path}).duration_s == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("damage", ["magic", "cut", "garbage"])
def test_a_damaged_talkie_is_refused(tmp_path: Path, damage: str) -> None:
    data = talkie(["07SSSSJ2.SB"])
    damaged = {"magic": b"XXXX" + data[4:], "cut": data[: len(data) // 2], "garbage": b"QTBL" + b"\xff" * 40}[damage]
    queen(tmp_path, damaged)
    with pytest.raises(
        DataError, match=r"queen\.1c is not the talkie's data file, or damaged .*; fetch the corpus again"
    ):
        list(fotaq.rows([tmp_path]))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing matches usr/share/tuxpaint/stamps in .*; unpack the corpus again"):
        list(tuxpaint.rows([tmp_path]))
