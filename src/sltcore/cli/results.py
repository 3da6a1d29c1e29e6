"""What `slt run` leaves behind: the results file that a second run continues, and files named after their inputs."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from sltcore.audio.headers import AUDIO_EXTENSIONS
from sltcore.errors import DataError

if TYPE_CHECKING:
    from sltcore.pipeline import Item


def json_line(row: Mapping[str, Any]) -> str:
    """One row as JSON; names that are no Unicode (bytes of a foreign file system) are written with escapes."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return line


class Rows:
    """The results file: what is done, and appending so that a kill loses at most the line being written.

    `texts` holds the text (None for other results) of every input that is done, by id. **Raises** `DataError` when the
    file is no results file, belongs to another run, or cannot be written; it is changed only after all of that.
    """

    def __init__(self, path: Path | None, fingerprint: str, *, force: bool) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.texts: dict[str, str | None] = {}
        self._bytes: dict[str, int] = {}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._read(path, force=force) if path.exists() else 0
            with path.open("ab") as file:
                file.truncate(whole)
        except OSError as error:
            raise DataError(f"--out {path}: cannot be written: {error.strerror}") from None

    def _read(self, path: Path, *, force: bool) -> int:
        """Learn what is done; the number of bytes that stay."""
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and (number > 1 or line.startswith(b"{")):
                    break
                try:
                    row = json.loads(line)
                    mark, name = row["run"], row["id"]
                except (ValueError, KeyError, TypeError):
                    remedy = "choose another file" if force else "choose another file, or remove it"
                    raise DataError(f"--out {path}: line {number} is no result of slt run; {remedy}") from None
                if force:
                    return 0
                if mark != self.fingerprint:
                    raise DataError(
                        f"--out {path}: was written with another spec or other side information; choose another file, or --force to start it anew"
                    )
                self.texts[name] = row.get("text")
                if isinstance(row.get("bytes"), int):
                    self._bytes[name] = row["bytes"]
                whole += len(line)
        return whole

    def is_done(self, item: Item) -> bool:
        """Whether the file has a result for an input; **Raises** `DataError` when it was of another recording."""
        if item.id not in self.texts:
            return False
        now, then = size_of(item), self._bytes.get(item.id)
        if now is not None and then is not None and now != then:
            raise DataError(
                f"--out {self.path}: '{shown(item.id)}' was a recording of {then} bytes, now it has {now}; choose another file, or --force to start it anew"
            )
        return True

    def add(self, item: Item, row: Mapping[str, Any]) -> None:
        """Append a result."""
        self.texts[item.id] = row.get("text")
        if self.path is None:
            return
        size = size_of(item)
        marked = {**row, **({} if size is None else {"bytes": size}), "run": self.fingerprint}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json_line(marked) + "\n")
        except OSError as error:
            raise DataError(
                f"--out {self.path}: cannot be written: {error.strerror}; what was finished is kept"
            ) from None


def size_of(item: Item) -> int | None:
    """Bytes of an input's file, None where it is none."""
    try:
        return os.stat(item.source).st_size if isinstance(item.source, str | Path) else None
    except (OSError, ValueError):
        return None


def shown(name: str) -> str:
    """A name on one line, whatever a file system allows in it."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


class Targets:
    """Files beside the results, below the same folders as the inputs below theirs; no two inputs share one.

    The recording's ending gives way to the new one, unless two inputs differ in it alone (a.wav, a.mp3).
    """

    def __init__(self, items: Iterable[Item], out: Path | None) -> None:
        names = [item.id for item in items]
        self._folder = out.parent if out is not None else Path()
        self._single = len(names) == 1
        self._times = Counter(self._inside(name) for name in names)

    def path(self, item: Item, ending: str) -> Path:
        """Where a file with `ending` for this input goes; its folder is made. **Raises** `DataError`."""
        inside = self._inside(item.id)
        if self._times[inside] > 1:
            inside = self._inside(item.id, keep=True)
        target = self._folder / inside.with_name(inside.name + ending)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{target.parent} cannot be made: {error.strerror}; choose another place with --out"
            ) from None
        return target

    def name(self, item: Item) -> str:
        """The input's name for a CTM line: without ending and white space, alike for no two inputs."""
        inside = self._inside(item.id, keep=self._times[self._inside(item.id)] > 1)
        return "_".join(shown(inside.as_posix()).split())

    def _inside(self, name: str, *, keep: bool = False) -> Path:
        parts = [part for part in PurePath(name.replace("\0", "")).parts if part not in ("..", "/", "\\", "")]
        path = Path(*(parts[-1:] if self._single else parts)) if parts else Path("input")
        return path.with_suffix("") if path.suffix.lower() in AUDIO_EXTENSIONS and not keep else path
