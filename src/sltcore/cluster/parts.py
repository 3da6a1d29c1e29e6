"""Parts: the results of a shard as one parquet file, written beside its place and renamed, and what is known of a run."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sltcore.errors import DataError
from sltcore.types import NBest, Port

if TYPE_CHECKING:
    import pyarrow as pa

    from sltcore.cluster.shards import Shard
    from sltcore.pipeline import Output

Form = Literal["text", "audio", "array"]

RUN = "run.json"
RUN_SCHEMA = 1
METADATA = b"sltcore"
FLAC_SUBTYPE = "PCM_24"  # float32 has 24 bits of its own


def form_of(port: Port) -> Form:
    """What a row holds: a text with its other readings, sound, or an array [t d]."""
    if port.type in ("Hypotheses", "Text"):
        return "text"
    return "audio" if port.type == "Waveform" else "array"


def schema(form: Form) -> pa.Schema:
    """The columns of a part.

    All forms: `id`, `reference` (the manifest's text), `seconds` (of audio that went in), `error` (null where all is well).
    text: `text`, `nbest` (text, score; best first), `words` (word, start_s, end_s) where the decoder knows words, `times`
    (token, start_s, end_s) where it knows times of labels alone. audio: `audio` (a FLAC file, 24 bit, clipped to [-1, 1])
    and `sample_rate_hz`. array: `array` (float32, row by row) and its `shape`.
    """
    import pyarrow as pa

    texts, span = pa.string(), [("start_s", pa.float32()), ("end_s", pa.float32())]
    own: Mapping[str, list[tuple[str, pa.DataType]]] = {
        "text": [
            ("text", texts),
            ("nbest", pa.list_(pa.struct([("text", texts), ("score", pa.float64())]))),
            ("words", pa.list_(pa.struct([("word", texts), *span]))),
            ("times", pa.list_(pa.struct([("token", pa.int32()), *span]))),
        ],
        "audio": [("audio", pa.binary()), ("sample_rate_hz", pa.int32())],
        "array": [("array", pa.list_(pa.float32())), ("shape", pa.list_(pa.int32()))],
    }
    return pa.schema([("id", texts), *own[form], ("reference", texts), ("seconds", pa.float64()), ("error", texts)])


def row_of(output: Output, form: Form, *, host: str | None = None) -> dict[str, Any]:
    """One output as a row; `host` is named where an input is not found there."""
    item = output.item
    row: dict[str, Any] = {"id": as_unicode(item.id), "seconds": output.duration_s}
    if item.text is not None and form == "text":
        row["reference"] = as_unicode(item.text)
    error: Exception | None = output.error
    if error is None:
        try:
            return row | _fields(output.value, form)
        except Exception as found:
            error = found
    text = " ".join(f"{error}".split()) or type(error).__name__
    if (
        host is not None
        and isinstance(item.source, str)
        and os.path.isabs(item.source)
        and not os.path.exists(item.source)
    ):
        text += f"; looked for on {host}: does every worker see that folder?"
    return row | {"error": as_unicode(text)}


def _fields(value: Any, form: Form) -> dict[str, Any]:
    if isinstance(value, str) and form == "text":
        return {"text": as_unicode(value)}
    if isinstance(value, NBest) and form == "text":
        readings = [{"text": as_unicode(reading.text), "score": float(reading.score)} for reading in value]
        return {"text": as_unicode(value.text), "nbest": readings, **_times(value.best)}
    from sltcore.audio import Recording

    if isinstance(value, Recording) and form == "audio":
        import soundfile

        file = io.BytesIO()
        soundfile.write(file, value.samples, value.sample_rate_hz, format="FLAC", subtype=FLAC_SUBTYPE)
        return {"audio": file.getvalue(), "sample_rate_hz": value.sample_rate_hz}
    if form == "array" and hasattr(value, "reshape"):
        return {"array": value.astype("float32").reshape(-1), "shape": list(value.shape)}
    raise DataError(f"the pipeline gave a {type(value).__name__} where its last stage promises {form}")


def _times(best: Any) -> dict[str, Any]:
    """Words with times where the decoder knows words, else labels with times where it knows those."""
    words = best.extra.get("words")
    spans = [{"start_s": start, "end_s": end} for start, end in best.times]
    if words is not None and len(words) == len(spans):
        return {"words": [{"word": str(word), **span} for word, span in zip(words, spans, strict=True)]}
    if spans and len(best.tokens) == len(spans):
        return {"times": [{"token": int(token), **span} for token, span in zip(best.tokens, spans, strict=True)]}
    return {}


def as_unicode(text: str) -> str:
    """Names that are no Unicode (bytes of a foreign file system) get escapes: parquet holds UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def encoded(rows: Sequence[Mapping[str, Any]], form: Form, shard: Shard) -> bytes:
    """Rows as a parquet file whose metadata says what they are the results of."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    facts = {"part": shard.part, "digest": shard.digest, **counts(rows)}
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema(form))
    file = io.BytesIO()
    with pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({METADATA: json.dumps(facts).encode()})
    return file.getvalue()


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows, those with an error, and seconds of audio of the others."""
    listed = list(rows)
    failed = sum(row.get("error") is not None for row in listed)
    seconds = sum(row.get("seconds") or 0.0 for row in listed if row.get("error") is None)
    return {"rows": len(listed), "failed": failed, "audio_s": round(seconds, 3)}


def read_results(folder: str | Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of all parts of a run, in the order of its inputs. **Raises** `DataError` when there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = sorted(Path(folder).glob("part-*.parquet"))
    if not found:
        raise DataError(f"{folder} holds no parts of a run; expected part-00000.parquet and so on")
    return pa.concat_tables([pq.read_table(path, columns=columns) for path in found]).replace_schema_metadata(None)


class Store:
    """The folder of a run: parts appear by rename, so what is there is whole. Written by one process, the one that asked.

    **Raises** `DataError` when the folder holds something else, belongs to another run, or cannot be written.
    """

    def __init__(self, folder: Path, mark: str, *, resume: bool) -> None:
        self.folder = folder
        self.mark = mark
        self.before: dict[str, Any] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"--out {folder}: cannot be made: {error.strerror}; with --engine ray it is a folder"
            ) from None
        if not (folder / RUN).exists():
            if any(folder.glob("part-*.parquet")):
                raise DataError(
                    f"--out {folder}: holds parts without {RUN}, so nobody knows whose; choose another folder"
                )
            return
        self.before = self._read()
        if not resume:
            self.before = {}
            self._remove(folder.glob("part-*.parquet"))
        elif self.before.get("mark") != mark:
            raise DataError(
                f"--out {folder}: was written with another spec or other side information; choose another folder, or "
                "--force to start it anew"
            )

    def _read(self) -> dict[str, Any]:
        place = self.folder / RUN
        try:
            found = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or found.get("schema") != RUN_SCHEMA:
            raise DataError(f"{place} is no record of a run with --engine ray; choose another folder")
        return found

    def path(self, part: int) -> Path:
        """Where a part lies."""
        return self.folder / f"part-{part:05d}.parquet"

    def done(self, shards: Sequence[Shard]) -> dict[int, dict[str, Any]]:
        """Facts of the parts that are whole and of these very inputs; parts that no shard has are removed."""
        found = {}
        for shard in shards:
            facts = _facts(self.path(shard.part))
            if facts is not None and facts.get("digest") == shard.digest:
                found[shard.part] = facts
        known = {self.path(shard.part) for shard in shards}
        self._remove(path for path in self.folder.glob("part-*.parquet") if path not in known)
        return found

    def add(self, part: int, data: bytes) -> None:
        """Keep a part."""
        self._write(self.path(part), data)

    def record(self, facts: Mapping[str, Any]) -> None:
        """Write run.json."""
        text = json.dumps({"schema": RUN_SCHEMA, "mark": self.mark, **facts}, indent=1, ensure_ascii=False)
        self._write(self.folder / RUN, (text + "\n").encode("utf-8", "backslashreplace"))

    def _write(self, place: Path, data: bytes) -> None:
        work = place.with_name(f".{place.name}.{socket.gethostname()}.{os.getpid()}")
        try:
            with work.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(work, place)
        except OSError as error:
            work.unlink(missing_ok=True)
            raise DataError(f"{place} cannot be written: {error.strerror}; finished parts are kept") from None

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            if _facts(path) is not None or path.stat().st_size == 0:
                path.unlink()
            else:
                raise DataError(f"{path} was not written by slt run, so it is not replaced; choose another folder")


def _facts(path: Path) -> dict[str, Any] | None:
    """What a part says of itself; None where it is no whole part of ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_metadata(path).metadata or {}
        facts = json.loads(found[METADATA])
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    return facts if isinstance(facts, dict) and isinstance(facts.get("digest"), str) else None
