"""The transcribed part of LibriSpeech mini: read English, FLAC bytes in parquet tables, read without decoding.

Layout: `transcribed/train.parquet` and `transcribed/test.parquet` with columns `id`, `audio` (`bytes`, `path`), `text`,
`speaker`, `gender`, `seconds`, `rare_words` and `biasing_list_100` (words parted by blanks); the two files are the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sltcore.data.layout import first
from sltcore.data.normalization import normalized
from sltcore.data.rows import Row
from sltcore.errors import DataError

COLUMNS = ("id", "audio", "text", "speaker", "gender", "seconds", "rare_words", "biasing_list_100")
OWN_COLUMNS = ("gender", "rare_words", "biasing_list")


def rows(roots: Sequence[Path]) -> Iterator[Row]:
    """One row for each utterance, those of the training file first.

    Raises DataError where a file is missing, is no parquet table, or lacks a column.
    """
    for split in ("train", "test"):
        for record in _table(first(roots, f"transcribed/{split}.parquet")):
            raw = str(record["text"])
            text = normalized(raw, "en")
            yield Row(
                id=str(record["id"]),
                path=str(record["audio"]["path"]),
                raw_text=raw,
                text=text or "",
                speaker=str(record["speaker"]),
                language="en",
                seconds=float(record["seconds"]),
                data=record["audio"]["bytes"],
                split=split,
                note="" if text is not None else "a number that the rule does not spell out",
                extra={
                    "gender": str(record["gender"]),
                    "rare_words": tuple(str(record["rare_words"] or "").split()),
                    "biasing_list": tuple(str(record["biasing_list_100"] or "").split()),
                },
            )


def _table(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        missing = [column for column in COLUMNS if column not in file.schema_arrow.names]
        if missing:
            raise DataError(
                f"{path} has no column '{missing[0]}'; expected {', '.join(COLUMNS)}; copy the corpus again"
            )
        for batch in file.iter_batches(batch_size=16, columns=list(COLUMNS)):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as parquet: {' '.join(str(error).split())[:160]}; copy it again"
        ) from None
