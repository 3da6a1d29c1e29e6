"""Tables of `datasets` as sources: a hub id, a folder that save_to_disk wrote, or parquet files; sounds stay undecoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sltcore.data.cache import cache_folder
from sltcore.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

_AUDIO_COLUMNS = ("audio", "path", "file", "audio_filepath", "wav", "speech")
_TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
_OWN_NAMES = ("id", "text", "speaker")


class Sound(Mapping[str, Any]):
    """One entry of an audio column, `path` and `bytes`, read from the table when it is asked for and not kept."""

    def __init__(self, table: Dataset, column: str, index: int, path: str, *, embedded: bool) -> None:
        self.table = table
        self.column = column
        self.index = index
        self.path = path
        self.embedded = embedded

    def _entry(self) -> dict[str, Any]:
        value = self.table[self.index][self.column]
        return {"path": value, "bytes": None} if isinstance(value, str) else dict(value)

    def __getitem__(self, key: str) -> Any:
        return self._entry()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("path", "bytes"))

    def __len__(self) -> int:
        return 2


class Source(NamedTuple):
    """A table, its column of sounds (None where it has only texts), its version in words, and whether a split of its own
    was taken."""

    table: Dataset
    audio: str | None
    version: str
    split_taken: bool


def open_table(
    name: str, *, config: str | None, revision: str | None, split: str | None, columns: Mapping[str, str]
) -> Source:
    """The table that `name` stands for, with `columns` (our name: its own) under our names.

    **Raises** `DataError` when nothing lies there, or a split or column does not exist.
    """
    import datasets

    with _no_progress_bars():
        parts, version = _parts(name, config, revision)
    table, taken = _of_split(name, parts, split)
    renames = {theirs: ours for ours, theirs in columns.items() if theirs != ours}
    missing = [theirs for theirs in columns.values() if theirs not in table.column_names]
    if missing:
        raise DataError(
            f"dataset {name} has no column '{missing[0]}' (columns); there are: {', '.join(table.column_names)}."
            f"{did_you_mean(missing[0], table.column_names)}"
        )
    blocked = [ours for ours in renames.values() if ours in table.column_names and ours not in renames]
    table = table.remove_columns(blocked).rename_columns(renames)
    if not any(ours == "text" for ours in table.column_names):
        spoken = next((column for column in _TEXT_COLUMNS if column in table.column_names), None)
        table = table.rename_column(spoken, "text") if spoken is not None else table
    audio = next((column for column in _AUDIO_COLUMNS if column in table.column_names), None)
    if audio is None and "text" not in table.column_names:
        raise DataError(
            f"dataset {name} has neither sound nor text among its columns {', '.join(table.column_names)}; name them, "
            f"such as columns: {{audio: COLUMN, text: COLUMN}}"
        )
    if audio is not None and isinstance(table.features[audio], datasets.Audio):
        table = table.cast_column(audio, datasets.Audio(decode=False))
    return Source(table, audio, version, taken)


def can_open(name: str, config: str | None, revision: str | None) -> bool:
    """Whether `open_table` finds something there."""
    try:
        with _no_progress_bars():
            _parts(name, config, revision)
    except DataError:
        return False
    return True


def table_rows(table: Dataset, audio: str | None) -> Iterator[dict[str, Any]]:
    """The rows as dicts, the sound as a `Sound`; the sounds' bytes are not read."""
    others = [column for column in table.column_names if column != audio]
    plain = table.select_columns(others) if others else None
    sounds: Iterator[Sound] = iter(()) if audio is None else _sounds(table, audio)
    for index in range(len(table)):
        row = dict(plain[index]) if plain is not None else {}
        if audio is not None:
            row[audio] = next(sounds)
        yield row


def _sounds(table: Dataset, column: str) -> Iterator[Sound]:
    """Where each sound lies, from the arrow columns, without copying bytes."""
    import pyarrow as pa

    index = 0
    view = table.select_columns([column]).with_format("arrow")
    for batch in view.iter(batch_size=1000):
        values = batch[column]
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if pa.types.is_struct(values.type):
            names = [values.type.field(place).name for place in range(values.type.num_fields)]
            paths = values.field("path").to_pylist() if "path" in names else [None] * len(values)
            held = values.field("bytes").is_valid().to_pylist() if "bytes" in names else [False] * len(values)
        else:
            paths, held = values.to_pylist(), [False] * len(values)
        for path, embedded in zip(paths, held, strict=True):
            yield Sound(table, column, index, str(path or ""), embedded=bool(embedded))
            index += 1


def _parts(name: str, config: str | None, revision: str | None) -> tuple[dict[str, Dataset], str]:
    """The data set's splits, and its version in words."""
    import datasets

    path = Path(name).expanduser()
    if path.is_dir() and any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        saved = datasets.load_from_disk(str(path))
        parts = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"": saved}
        return parts, " ".join(str(part._fingerprint) for part in parts.values())
    if name.endswith(".parquet") or any(mark in name for mark in "*?["):
        files = sorted(glob(str(path), recursive=True))
        if not files:
            raise DataError(f"no parquet file is called {name}; check the path, or the pattern")
        place = str(cache_folder() / "datasets")
        try:
            parts = dict(datasets.load_dataset("parquet", data_files={"files": files}, cache_dir=place))
        except Exception as error:  # pyarrow and datasets raise what they like for damaged files
            raise DataError(f"dataset {name}: the parquet files cannot be read: {_short(error)}") from error
        return {"": parts["files"]}, " ".join(f"{Path(file).name} {Path(file).stat().st_size}" for file in files)
    try:
        loaded = datasets.load_dataset(str(path) if path.is_dir() else name, config, revision=revision)
    except Exception as error:  # datasets has dozens of its own, and the hub's and the network's besides
        raise DataError(
            f"dataset {name} cannot be loaded: {_short(error)}; give a hub id, a folder of save_to_disk, or parquet files"
        ) from error
    parts = dict(loaded)
    return parts, f"revision {revision or 'main'} " + " ".join(str(part._fingerprint) for part in parts.values())


def _of_split(name: str, parts: Mapping[str, Dataset], split: str | None) -> tuple[Dataset, bool]:
    import datasets

    if split is not None and split in parts:
        return parts[split], True
    first = next(iter(parts.values()))
    if split is not None and "split" not in first.column_names:
        known = [part for part in parts if part]
        raise DataError(
            f"dataset {name} has no split '{split}'; splits: {', '.join(known) or 'none'}.{did_you_mean(split, known)}"
        )
    return (first if len(parts) == 1 else datasets.concatenate_datasets(list(parts.values()))), False


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()
