"""What the first bytes of a recording say: its container, and how much sound it promises compared with what is there.

Decoders take a cut file without a word (libsndfile shortens a WAV to what it finds), so the promise is read here.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

AUDIO_EXTENSIONS = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".g722", ".gsm"),
    *(".aiff", ".aif", ".au", ".caf", ".webm", ".wma"),
)
# Sizes that a program writes when it streams a WAV and does not know its length: ffmpeg and sox to a pipe.
_UNKNOWN_SIZES = frozenset({0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 8, 0x7FFFFFFF - 36})
_OGG_PAGE_BYTES = 65307  # RFC 3533, section 6: 27 + 255 + 255 * 255
_MP3_KBITS = {  # ISO/IEC 11172-3 and 13818-3, layer III
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class Shortfall(NamedTuple):
    """A recording that ends before its header says: seconds promised (None where it does not say) and present."""

    promised_s: float | None
    present_s: float | None


def container(head: bytes) -> str | None:
    """The container that the first 64 bytes announce, or None for raw or unknown bytes.

    >>> container(b"RIFF....WAVEfmt ")
    'wav'
    """
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return "wav"
    for magic, name in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3"), (b"caff", "caf"), (b".snd", "au")):
        if head.startswith(magic):
            return name
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] == b"ftyp":
        return "mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:  # a frame of MPEG audio, layer III, without a tag
        return "mp3"
    return None


def shortfall(file: BinaryIO, kind: str | None) -> Shortfall | None:
    """How a recording of this `kind` of container falls short of its own header, or None when nothing shows it.

    Raw streams (G.722, GSM), FLAC and MP4 show it only when they are decoded. The file's position is kept.

    Source: RIFF (Multimedia Programming Interface 1.0), EBU Tech 3306 (RF64), RFC 3533 (Ogg), the Xing tag of MP3.
    """
    reader = {"wav": _wav, "aiff": _aiff, "ogg": _ogg, "mp3": _mp3}.get(kind or "")
    if reader is None:
        return None
    place = file.tell()
    try:
        return reader(file, file.seek(0, os.SEEK_END))
    finally:
        file.seek(place)


def _wav(file: BinaryIO, size: int) -> Shortfall | None:
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    byte_rate, long_data, place = 0, None, 12
    while place + 8 <= size:
        file.seek(place)
        name = file.read(4)
        length = struct.unpack(order + "I", file.read(4))[0]
        if name == b"ds64" and length >= 16:
            long_data = struct.unpack("<QQ", file.read(16))[1]
        elif name == b"fmt " and length >= 16:
            fields = file.read(12)
            if len(fields) == 12:
                byte_rate = struct.unpack(order + "HHII", fields)[3]
        elif name == b"data":
            if long_data is not None and length == 0xFFFFFFFF:
                length = long_data
            elif length in _UNKNOWN_SIZES:
                return None
            present = size - place - 8
            if present >= length:
                return None
            if not byte_rate:
                return Shortfall(None, None)
            return Shortfall(length / byte_rate, present / byte_rate)
        place += 8 + length + length % 2
    return Shortfall(None, 0.0)  # the data chunk itself is missing


def _aiff(file: BinaryIO, size: int) -> Shortfall | None:
    file.seek(4)
    promised = 8 + int.from_bytes(file.read(4), "big")
    return Shortfall(None, None) if size < promised else None


def _ogg(file: BinaryIO, size: int) -> Shortfall | None:
    start = max(0, size - 2 * _OGG_PAGE_BYTES)
    file.seek(start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return Shortfall(None, None)
    if page + 27 > len(tail):
        return Shortfall(None, None)
    segments = tail[page + 26]
    lacing = tail[page + 27 : page + 27 + segments]
    cut = len(lacing) < segments or page + 27 + segments + sum(lacing) > len(tail)
    ends = bool(tail[page + 5] & 4)  # the end-of-stream flag
    return None if ends and not cut else Shortfall(None, None)


def _mp3(file: BinaryIO, size: int) -> Shortfall | None:
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3":
        high, second, third, low = head[6:10]
        start = 10 + (high << 21 | second << 14 | third << 7 | low)
    file.seek(start)
    frame = file.read(192)
    if len(frame) < 8 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    version = {3: 1, 2: 2, 0: 25}.get(frame[1] >> 3 & 3)
    rates = {1: (44100, 48000, 32000), 2: (22050, 24000, 16000), 25: (11025, 12000, 8000)}
    kbits_index, rate_index = frame[2] >> 4, frame[2] >> 2 & 3
    if version is None or rate_index == 3 or kbits_index in (0, 15):
        return None
    side = (17 if frame[3] >> 6 == 3 else 32) if version == 1 else (9 if frame[3] >> 6 == 3 else 17)
    tag = frame[4 + side : 4 + side + 16]
    if tag[:4] not in (b"Xing", b"Info") or len(tag) < 16 or tag[7] & 3 != 3:
        return None
    frames, promised = struct.unpack(">II", tag[8:16])
    samples, rate = (1152 if version == 1 else 576), rates[version][rate_index]
    slack = samples // 8 * _MP3_KBITS[min(version, 2)][kbits_index] * 1000 // rate + 1024
    present = size - start
    if present + slack >= promised or not promised:
        return None
    promised_s = frames * samples / rate
    return Shortfall(promised_s, promised_s * present / promised)
