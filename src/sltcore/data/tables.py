"""Corpora as tables: `load` gives a `datasets.Dataset`, `show` and `list_corpora` plain facts."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltcore.data.cache import Progress, appearing, cache_folder, locked
from sltcore.data.corpora import CORPORA, Corpus, corpus
from sltcore.data.normalization import normalized
from sltcore.data.rows import COLUMNS, Row
from sltcore.data.sources import Fetched, fetch, located, quiet
from sltcore.data.splits import assign
from sltcore.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

SPLITS = ("train", "test", "overlap", "unused")
TABLE_VERSION = 1  # counts up whenever a loader, the normalisation or a split rule changes what a table holds


def rows(name: str, *, progress: Progress = quiet) -> list[Row]:
    """All utterances of a corpus, split by its rule, fetched where needed; "unused" and "overlap" ones too.

    Raises DataError as `fetch` does, and where the files are damaged.
    """
    entry = corpus(name)
    return _rows(entry, fetch(entry.name, progress=progress))


def load(
    name: str, split: str | None = None, *, streaming: bool = False, progress: Progress = quiet
) -> Dataset | IterableDataset:
    """A corpus as a table, fetched where needed and cached.

    Columns: `id`, `audio` (a dict with `path` and `bytes`, undecoded, as `sltcore.audio` reads it), `text` (normalised
    words), `raw_text` (the script), `speaker`, `language`, `seconds`, `split`, `note`, and those that the descriptor names
    beside them. `split` is "train", "test",
    "overlap", "unused", "all", or None for the two parts "train" and "test" together.

    Raises DataError as `fetch` does; and for a split that does not exist.
    """
    if split not in (None, "all", *SPLITS):
        hint = did_you_mean(str(split), [*SPLITS, "all"])
        raise DataError(f"corpus {name} has no split {split!r}; expected {', '.join(SPLITS)} or all.{hint}")
    entry = corpus(name)
    fetched = fetch(entry.name, progress=progress)
    table = _from_hub(entry) if fetched.source == "hub" else _table(entry, fetched, progress)
    table = _as_audio(table)
    if split != "all":
        wanted = {"train", "test"} if split is None else {split}
        table = table.select([index for index, part in enumerate(table["split"]) if part in wanted])
    return table.to_iterable_dataset() if streaming else table


def show(name: str, *, progress: Progress = quiet) -> dict[str, Any]:
    """What a corpus is and, where it lies on this machine, what it holds; plain data, and no network.

    `parts` maps each split to utterances, minutes, words, distinct texts and speakers. It is absent before `fetch`.

    Raises DataError where no corpus has the name.
    """
    entry = corpus(name)
    facts = _facts(entry)
    fetched = located(entry, progress=progress)
    if fetched is None:
        return facts
    found = _rows(entry, fetched)
    parts = {part: _counts(row for row in found if row.split == part) for part in SPLITS}
    return {
        **facts,
        "fetched": True,
        "source": fetched.source,
        "folders": [str(root) for root in fetched.roots],
        "versions": dict(fetched.versions),
        "total": _counts(found),
        "parts": {part: counts for part, counts in parts.items() if counts["utterances"]},
        "unused_because": dict(Counter(row.note for row in found if row.split == "unused").most_common()),
    }


def list_corpora() -> list[dict[str, Any]]:
    """The facts of every descriptor, in the table's order; plain data, no network and no reading of sound."""
    found = []
    for entry in CORPORA.values():
        place = located(entry)
        found.append({**_facts(entry), "fetched": place is not None, **({"source": place.source} if place else {})})
    return found


def _facts(entry: Corpus) -> dict[str, Any]:
    facts = _plain(entry)
    facts["packages"] = [package.name for package in entry.packages]
    facts["sha256"] = {p.name: dict(p.sha256) for p in entry.packages}
    return {**facts, "fetched": False}


def _plain(entry: Corpus) -> dict[str, Any]:
    """A descriptor as plain lists and dicts."""
    plain: dict[str, Any] = {}
    for key in entry.__dataclass_fields__:
        value = getattr(entry, key)
        if isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        plain[key] = value
    return plain


def _counts(found: Iterable[Row]) -> dict[str, Any]:
    held = list(found)
    return {
        "utterances": len(held),
        "minutes": round(sum(row.seconds for row in held) / 60, 2),
        "words": sum(len(row.text.split()) for row in held),
        "texts": len({row.text for row in held}),
        "speakers": len({row.speaker for row in held}),
    }


def _rows(entry: Corpus, fetched: Fetched) -> list[Row]:
    module, _, function = entry.loader.partition(".")
    loader = getattr(importlib.import_module(f"sltcore.data.{module}"), function)
    found = assign(list(loader(fetched.roots, **entry.options)), entry.split_rule)
    if not found:
        places = ", ".join(map(str, fetched.roots))
        raise DataError(f"corpus {entry.name} has no utterance in {places}; unpack it again, or unset SLT_DATA")
    return found


def _table(entry: Corpus, fetched: Fetched, progress: Progress) -> Dataset:
    """The corpus's table: read from the cache where its files are ours and cannot have changed, else made anew."""
    import datasets

    if not fetched.versions:
        return _build(entry, fetched)
    key = json.dumps([TABLE_VERSION, list(map(str, fetched.roots)), sorted(fetched.versions.items()), entry.split_rule])
    folder = cache_folder() / "tables"
    place = folder / f"{entry.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not place.is_dir():
        with locked(folder / ".lock", progress):
            if not place.is_dir():
                progress(f"reading {entry.name}")
                with appearing(place) as fresh, _no_progress_bars():
                    _build(entry, fetched).save_to_disk(str(fresh))
    return datasets.load_from_disk(str(place))


def _build(entry: Corpus, fetched: Fetched) -> Dataset:
    found = _rows(entry, fetched)
    own = [column for column in entry.columns if column not in COLUMNS]
    return _filled(found, [{"path": row.path, "bytes": row.data} for row in found], own)


def _filled(found: Sequence[Row], sounds: Sequence[Mapping[str, Any]], own: Sequence[str] = ()) -> Dataset:
    """A table of rows, their sounds, and the corpus's `own` columns: lists of texts where the rows hold tuples."""
    import datasets

    text = datasets.Value("string")
    kinds: dict[str, Any] = dict.fromkeys(COLUMNS, text)
    kinds |= {"audio": {"bytes": datasets.Value("binary"), "path": text}, "seconds": datasets.Value("float32")}
    columns = {key: list(sounds) if key == "audio" else [getattr(row, key) for row in found] for key in COLUMNS}
    for key in own:
        values = [row.extra[key] for row in found]
        columns[key] = [list(value) if isinstance(value, tuple) else value for value in values]
        kinds[key] = datasets.List(text) if any(isinstance(value, tuple) for value in values) else text
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def _as_audio(table: Dataset) -> Dataset:
    """The table with its sounds typed as Audio; only now, because encoding such a column needs torchcodec even where
    nothing is encoded, and saving one copies every file's bytes into the table."""
    import datasets

    return table.cast_column("audio", datasets.Audio(decode=False))


def _from_hub(entry: Corpus) -> Dataset:
    """A data set of the hub under our column names, its texts normalised and split by our rule."""
    import datasets

    from sltcore.audio import probe

    column = {name: entry.hub_columns.get(name, name) for name in ("id", "audio", "text", "speaker")}
    parts = datasets.load_dataset(str(entry.hub))
    whole = datasets.concatenate_datasets(list(parts.values()))
    if not {column["audio"], column["text"]} <= set(whole.column_names):
        raise DataError(
            f"{entry.hub} has the columns {', '.join(whole.column_names)}; corpus {entry.name} expects "
            f"{column['audio']} and {column['text']}; mend hub_columns of its descriptor"
        )
    whole = whole.cast_column(column["audio"], datasets.Audio(decode=False))
    made, sounds = [], []
    for index, item in enumerate(whole):
        raw, sound = str(item[column["text"]]), item[column["audio"]]
        text = normalized(raw, entry.languages[0])
        made.append(
            Row(
                id=str(item.get(column["id"], index)),
                path=str(sound.get("path") or ""),
                raw_text=raw,
                text=text or "",
                speaker=str(item.get(column["speaker"], entry.name)),
                language=entry.languages[0],
                seconds=probe(sound).duration_s,
                note="" if text is not None else "a number that the rule does not spell out",
            )
        )
        sounds.append({"path": sound.get("path"), "bytes": sound.get("bytes")})
    return _filled(assign(made, entry.split_rule), sounds)


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


def audio_of(item: Mapping[str, Any]) -> Path | dict[str, Any]:
    """What `sltcore.audio.read_audio` takes of a table's row: the path, or bytes with a name."""
    audio = dict(item["audio"])
    return audio if audio.get("bytes") is not None else Path(str(audio["path"]))
