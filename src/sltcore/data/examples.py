"""Utterances for training and evaluation, from any source a spec names: what is taken of it, and how long each lasts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sltcore.data.cache import Progress
from sltcore.data.corpora import corpus
from sltcore.data.manifests import read_manifest
from sltcore.data.sources import fetch, located, quiet
from sltcore.data.splits import fraction
from sltcore.data.table_source import Sound, can_open, open_table, table_rows
from sltcore.errors import AudioError, DataError, did_you_mean
from sltcore.spec.training import DataConfig
from sltcore.types import Item

OUTPUTS_FILE = "outputs.jsonl"
_SECONDS_COLUMNS = ("seconds", "duration", "duration_s")


class Example(NamedTuple):
    """One utterance: `item.extra` holds the source's other columns, `seconds` is its length (0 for a text), `weight`
    how often an epoch draws it, and `origin` what its source says of itself and its version."""

    item: Item
    seconds: float
    weight: float = 1.0
    origin: str = ""


class Examples(list[Example]):
    """A list of examples that remembers what was left out: `skipped` maps ids to the reason, `absent` names the optional
    sources that are not at hand."""

    def __init__(self, examples: Iterable[Example] = (), skipped: Mapping[str, str] | None = None) -> None:
        super().__init__(examples)
        self.skipped: dict[str, str] = dict(skipped or {})
        self.absent: list[str] = []


def read_examples(
    entries: Sequence[DataConfig], *, outputs: Mapping[str, Path] | None = None, progress: Progress = quiet
) -> Examples:
    """The utterances of all entries, in the order of the sources; no sound is decoded.

    Of each source, in this order: `split`, then `part` (shares of the utterances ordered by a hash of their text, so that
    equal texts are never in two parts, whatever else is filtered), `where`, `with_words` and `without_words` (as whole words,
    whatever their case), `max_seconds`, and `limit` by a hash of the id.
    Lengths come from the corpus's table, from a column `seconds` or `duration`, else from the recording's header; a
    recording that cannot be read is left out and stands in `skipped`. Ids that two entries share get the second entry's
    name before them. An entry that is `optional` is left out where its source is not on this machine: a corpus that would
    have to be fetched, a file that is not there, a data set that cannot be loaded. `outputs` maps the decode stages of an experiment to their folders.

    **Raises** `DataError` when a source, split or column does not exist, and when nothing is left of an entry.
    """
    found = Examples()
    taken: set[str] = set()
    for entry in entries:
        label = _label(entry)
        if entry.optional and not _at_hand(entry, outputs or {}):
            found.absent.append(label)
            progress(f"{label} is not at hand and is left out")
            continue
        candidates = _candidates(entry, outputs or {}, progress)
        chosen = _filtered(entry, label, candidates)
        examples, skipped = _measured(entry, chosen, progress, label)
        if not examples:
            first = f"; all {len(skipped)} were unreadable: {next(iter(skipped.values()))}" if skipped else ""
            raise DataError(
                f"{label}: no utterance is left after split, part, where, words, max_seconds and limit{first}"
            )
        found.extend(_with_own_ids(examples, label, taken))
        found.skipped.update({_own_id(name, label, taken): reason for name, reason in skipped.items()})
    return found


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 over ids, texts, lengths to the millisecond, speakers, and what the sources say of their versions; the
    order of the examples does not count."""
    lines = sorted(
        json.dumps(
            [e.item.id, e.item.text, round(e.seconds, 3), e.item.speaker, e.weight, e.origin], ensure_ascii=False
        )
        for e in examples
    )
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


class _Candidate(NamedTuple):
    """An utterance before its length is known: `seconds` None asks for the header."""

    item: Item
    seconds: float | None
    split: str | None
    origin: str


def _label(entry: DataConfig) -> str:
    """The source's name for messages."""
    named = {"corpus": entry.corpus, "manifest": entry.manifest, "dataset": entry.dataset, "stage": entry.stage}
    return next(f"{kind} {name}" for kind, name in named.items() if name is not None)


def _at_hand(entry: DataConfig, outputs: Mapping[str, Path]) -> bool:
    if entry.corpus is not None:
        return located(corpus(entry.corpus)) is not None
    if entry.manifest is not None:
        return Path(entry.manifest).is_file()
    return (
        entry.stage in outputs
        if entry.stage is not None
        else can_open(str(entry.dataset), entry.config, entry.revision)
    )


def _candidates(entry: DataConfig, outputs: Mapping[str, Path], progress: Progress) -> list[_Candidate]:
    """Everything in a source, under our column names."""
    if entry.corpus is not None:
        return _of_corpus(entry, progress)
    if entry.manifest is not None:
        return _of_manifest(Path(entry.manifest), entry)
    if entry.dataset is not None:
        return _of_dataset(entry)
    folder = outputs.get(str(entry.stage))
    if folder is None:
        known = ", ".join(sorted(outputs)) or "none"
        raise DataError(
            f"data names stage '{entry.stage}', whose outputs are not here; stages with outputs: {known}."
            f"{did_you_mean(str(entry.stage), outputs)}"
        )
    return _of_manifest(Path(folder) / OUTPUTS_FILE, entry)


def _of_corpus(entry: DataConfig, progress: Progress) -> list[_Candidate]:
    from sltcore.data.tables import TABLE_VERSION, load

    name = corpus(str(entry.corpus)).name
    table = load(name, entry.split, progress=progress)
    versions = " ".join(f"{package} {version}" for package, version in sorted(fetch(name).versions.items()))
    origin = f"{name}, table {TABLE_VERSION} {versions}".strip()
    found = []
    for row in table_rows(table, "audio"):
        source = row.pop("audio")
        extra = {key: value for key, value in row.items() if key not in ("id", "text", "speaker", "seconds")}
        item = Item(row["id"], _path_or_sound(source), row["text"], row["speaker"], extra=extra)
        found.append(_Candidate(_renamed(item, entry.columns, name), float(row["seconds"]), row["split"], origin))
    return found


def _path_or_sound(sound: Sound) -> Any:
    """A file's path as text; what lies in the table itself stays there until it is read."""
    return sound.path if not sound.embedded else sound


def _of_manifest(path: Path, entry: DataConfig) -> list[_Candidate]:
    items = read_manifest(path, audio_column=entry.columns.get("audio"))
    origin = f"{path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    columns = {ours: theirs for ours, theirs in entry.columns.items() if ours != "audio"}
    found = []
    for item in items:
        item = _renamed(item, columns, str(path))
        found.append(_Candidate(item, _seconds(item), _text_of(item.extra.get("split")), origin))
    return _of_split(found, entry.split, str(path))


def _of_dataset(entry: DataConfig) -> list[_Candidate]:
    source = open_table(
        str(entry.dataset), config=entry.config, revision=entry.revision, split=entry.split, columns=entry.columns
    )
    origin = f"{entry.dataset} {source.version}"
    found = []
    for index, row in enumerate(table_rows(source.table, source.audio)):
        sound = row.pop(source.audio) if source.audio is not None else None
        text, speaker = _text_of(row.pop("text", None)), _text_of(row.pop("speaker", None))
        name = _text_of(row.pop("id", None)) or (Path(sound.path).stem if sound and sound.path else str(index))
        item = Item(name, text if sound is None else _path_or_sound(sound), text, speaker, extra=row)
        seconds = 0.0 if sound is None else _seconds(item)
        found.append(_Candidate(item, seconds, _text_of(row.get("split")), origin))
    if source.split_taken:
        return found
    return _of_split(found, entry.split, f"dataset {entry.dataset}")


def _of_split(found: list[_Candidate], split: str | None, label: str) -> list[_Candidate]:
    if split is None:
        return found
    known = sorted({candidate.split for candidate in found if candidate.split is not None})
    if split not in known:
        what = ", ".join(known) if known else "none, for it has no column split"
        raise DataError(f"{label} has no split '{split}'; splits: {what}.{did_you_mean(split, known)}")
    return [candidate for candidate in found if candidate.split == split]


def _text_of(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _seconds(item: Item) -> float | None:
    for name in _SECONDS_COLUMNS:
        value = item.extra.get(name)
        if value in (None, ""):
            continue
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = -1.0
        if not 0 < seconds < 1e7:
            raise DataError(f"'{item.id}': column {name} is {value!r}, expected a length in seconds above 0")
        return seconds
    return None


def _renamed(item: Item, columns: Mapping[str, str], label: str) -> Item:
    """The item with the columns that the entry names under our names; the originals stay in `extra` too."""
    if not columns:
        return item
    row = {**item.extra, "id": item.id, "text": item.text, "speaker": item.speaker}
    chosen: dict[str, Any] = {}
    for ours, theirs in columns.items():
        if theirs not in row:
            raise DataError(
                f"{label} has no column '{theirs}' (columns: {ours}); there are: {', '.join(sorted(row))}."
                f"{did_you_mean(theirs, row)}"
            )
        chosen[ours] = row[theirs]
    fields: dict[str, Any] = {name: _text_of(chosen.pop(name)) for name in ("id", "text", "speaker") if name in chosen}
    if "id" in fields and fields["id"] is None:
        raise DataError(f"{label}: '{item.id}' has no id in column '{columns['id']}'; give each row one")
    return item._replace(**fields, extra={**item.extra, **chosen})


def _filtered(entry: DataConfig, label: str, candidates: list[_Candidate]) -> list[_Candidate]:
    """`part`, `where` and the words of an entry."""
    if entry.part is not None:
        candidates = in_part(
            candidates, entry.part, key=lambda c: c.item.text if c.item.text is not None else c.item.id
        )
    for column, values in entry.where.items():
        wanted = {str(value) for value in values}
        column_of = _column(column)
        if candidates and not any(column_of(c) is not None for c in candidates):
            names = sorted({"id", "text", "speaker", "seconds", *(key for c in candidates[:1] for key in c.item.extra)})
            raise DataError(
                f"{label} has no column '{column}' (where); there are: {', '.join(names)}.{did_you_mean(column, names)}"
            )
        candidates = [c for c in candidates if str(column_of(c)) in wanted]
    if entry.with_words:
        candidates = [c for c in candidates if _has_word(c.item.text, entry.with_words)]
    if entry.without_words:
        candidates = [c for c in candidates if not _has_word(c.item.text, entry.without_words)]
    return candidates


def _has_word(text: str | None, words: Sequence[str]) -> bool:
    return not {word.casefold() for word in words}.isdisjoint((text or "").casefold().split())


def in_part(candidates: Sequence[Any], part: tuple[float, float], *, key: Callable[[Any], str]) -> list[Any]:
    """Those whose place, as a share of all ordered by a hash of `key`, lies in [from, to); equal keys stand together at
    the first one's place, so parts that do not overlap share none of them, and parts that meet leave none out."""
    low, high = part
    counts = Counter(key(candidate) for candidate in candidates)
    place, share = 0, {}
    for text in sorted(counts, key=lambda text: (fraction(text), text)):
        share[text] = place / len(candidates)
        place += counts[text]
    return [candidate for candidate in candidates if low <= share[key(candidate)] < high]


def _column(name: str) -> Callable[[_Candidate], Any]:
    direct: dict[str, Callable[[_Candidate], Any]] = {
        "id": lambda c: c.item.id,
        "text": lambda c: c.item.text,
        "speaker": lambda c: c.item.speaker,
        "seconds": lambda c: c.seconds,
        "split": lambda c: c.split,
    }
    return direct.get(name, lambda c: c.item.extra.get(name))


def _measured(
    entry: DataConfig, candidates: list[_Candidate], progress: Progress, label: str
) -> tuple[list[Example], dict[str, str]]:
    """Those within `max_seconds` and `limit`, with their lengths, and why others were left out."""
    limit = entry.limit if entry.limit is not None else len(candidates)
    if entry.limit is not None:
        candidates = sorted(candidates, key=lambda c: (fraction(c.item.id), c.item.id))
    unknown = sum(candidate.seconds is None for candidate in candidates[:limit])
    if unknown:
        progress(f"{label}: reading the headers of {unknown} recordings")
    examples: list[Example] = []
    skipped: dict[str, str] = {}
    for candidate in candidates:
        if len(examples) == limit:
            break
        try:
            seconds = _length(candidate)
        except AudioError as error:
            skipped[candidate.item.id] = str(error)
            continue
        if entry.max_seconds is None or seconds <= entry.max_seconds:
            examples.append(Example(candidate.item, seconds, entry.weight, candidate.origin))
    if skipped:
        progress(f"{label}: {len(skipped)} recordings cannot be read and are left out")
    return examples, skipped


def _length(candidate: _Candidate) -> float:
    if candidate.seconds is not None:
        return candidate.seconds
    from sltcore.audio import probe

    return probe(candidate.item.source).duration_s


def _with_own_ids(examples: list[Example], label: str, taken: set[str]) -> list[Example]:
    """The examples with ids that no earlier one has."""
    named = []
    for example in examples:
        name = _own_id(example.item.id, label, taken)
        taken.add(name)
        named.append(example if name == example.item.id else example._replace(item=example.item._replace(id=name)))
    return named


def _own_id(name: str, label: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    source = label.partition(" ")[2] or label
    name, count = f"{source}:{name}", 2
    own = name
    while own in taken:
        own, count = f"{name}#{count}", count + 1
    return own
