"""Parsed language models in the user's cache folder: one file for each, mapped into memory when it is asked for again.

The file: a magic string, the length of a JSON head, the head (shapes, types, places and checksum), arrays at multiples
of 64 bytes, the words. It is written beside its place and renamed, so it is complete or absent; whatever is wrong with
it, the source is parsed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slt_ctc_personalization.language_model.arpa import ArpaModel
from slt_ctc_personalization.language_model.ngram import NgramModel
from slt_ctc_personalization.language_model.ngram_tables import automaton_tables, build_model
from sltcore.data.cache import cache_place

log = logging.getLogger("slt_ctc_personalization")

MAGIC = b"slt n-gram tables 1\n"
FIELDS = ("sizes", "slots", "unigrams", "backoff", "suffix")
ALIGNMENT = 64


def cache_folder() -> Path:
    """A folder of this plugin in the core's cache folder (`SLT_CACHE`, or the platform's), which need not be writable."""
    return cache_place() / "ctc-personalization"


def file_digest(path: Path) -> str:
    """The sha256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_model(source: Path, parse: Callable[[], ArpaModel]) -> NgramModel:
    """The model of `source`: from the cache under the file's sha256, or parsed now and kept when the folder allows."""
    target = cache_folder() / f"lm-{file_digest(source)[:32]}.slt"
    model = read_model(target, name=str(source))
    if model is None:
        model = build_model(parse(), source=str(source))
        store_model(model, target)
    return model


def store_model(model: NgramModel, target: Path) -> bool:
    """Keep a model's tables; False, with one line in the log, when the folder cannot be written."""
    arrays = [np.ascontiguousarray(getattr(model.tables, field)) for field in FIELDS]
    words = "\n".join(model.words).encode()
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(array.tobytes() if not array.size else array.data.cast("B"), checksum)
    head: dict[str, Any] = {
        "order": model.order,
        "arrays": [[array.dtype.str, array.size] for array in arrays],
        "words": len(words),
        "crc32": zlib.crc32(words, checksum),
    }
    text = json.dumps(head).encode()
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + len(text).to_bytes(4, "little") + text)
            for array in arrays:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                file.write(array.data.cast("B") if array.size else b"")
            file.write(words)
        os.replace(temporary, target)
    except OSError as error:
        log.warning("%s cannot be kept for next time (%s); it is parsed again then", model.source or target, error)
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True


def read_model(target: Path, *, name: str = "") -> NgramModel | None:
    """A kept model, mapped into memory, or None when there is none or it was damaged."""
    try:
        with target.open("rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):
        return None
    try:
        return _unpack(data, name)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        log.warning("%s is damaged (%s); the language model is parsed again", target, error)
        return None


def _unpack(data: mmap.mmap, name: str) -> NgramModel:
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("it does not begin as it should")
    start = len(MAGIC) + 4
    place = start + int.from_bytes(data[len(MAGIC) : start], "little")
    head = json.loads(data[start:place])
    arrays, checksum = [], 0
    for kind, size in head["arrays"]:
        place += -place % ALIGNMENT
        array = np.frombuffer(data, np.dtype(kind), count=size, offset=place)
        checksum = zlib.crc32(array.data.cast("B"), checksum) if size else checksum
        arrays.append(array)
        place += array.nbytes
    words = data[place : place + head["words"]]
    if zlib.crc32(words, checksum) != head["crc32"] or place + len(words) != len(data):
        raise ValueError("its checksum differs")
    names = words.decode().split("\n")
    if len(arrays) != len(FIELDS) or len(names) != len(arrays[2]):
        raise ValueError("arrays are missing")
    return NgramModel(names, int(head["order"]), automaton_tables(*arrays), source=name)
