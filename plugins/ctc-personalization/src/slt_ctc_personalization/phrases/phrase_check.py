"""Checks a list of phrases against the pipeline that will read it: no phrase is without effect unnoticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from slt_ctc_personalization.phrases.everyday import EverydayIndex, EverydayWords, Key, of_english, of_model
from slt_ctc_personalization.phrases.list_cost import cost
from slt_ctc_personalization.phrases.phrase_findings import (
    GOOD,
    NO_EFFECT,
    WARNING,
    Finding,
    LabelNames,
    PhraseJudge,
    paths_of,
    settings_of,
)
from slt_ctc_personalization.phrases.phrases import Phrase
from slt_ctc_personalization.phrases.spelling import Entry, Speller, entries
from sltcore.errors import ContextError, SltError

READERS = "decoders ctc-beam, ctc-greedy-boost, ctc-spotter, or encoder contextual-adapter"


class CheckedPhrase(NamedTuple):
    """A phrase with what the search will look for: `paths` are its label paths as text, the preferred first."""

    text: str
    bonus: float
    paths: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def status(self) -> str:
        """The gravest level among its findings, or "good"."""
        levels = {finding.level for finding in self.findings}
        return NO_EFFECT if NO_EFFECT in levels else WARNING if levels else GOOD


class ListCheck(NamedTuple):
    """What `check` found: every phrase, in the order of `entries`; remarks on the whole; what the list costs.

    `seconds` of computing and `bytes` of memory are those of making the phrases that have an effect ready for calls.
    """

    phrases: tuple[CheckedPhrase, ...]
    remarks: tuple[str, ...]
    seconds: float
    bytes: int

    def count(self, status: str) -> int:
        """How many phrases have this status."""
        return sum(phrase.status == status for phrase in self.phrases)


def check(reader: Any, phrases: Any, *, everyday: EverydayWords | None = None) -> ListCheck:
    """Check `phrases` against a pipeline, or against one decoder that reads phrases.

    A phrase has *no effect* when it cannot be spelled, when another component refuses it, when its bonus is 0 and nobody
    else reads the list, and when every path of it holds a label that the search never writes. It gets a *warning* when
    it stands in the list twice or another phrase has one of its paths; when it has at most `SHORT_LETTERS` letters or
    `SHORT_PHONES` phones; when it has more than `LONG_WORDS` words; and when it is likely to misfire: it is written or
    said like one of the `EVERYDAY_WORDS` most frequent words, is one label from one of the `NEAR_WORDS` most frequent ones
    (up to `LONGEST_NEAR` labels), or is a part of one of those where the labels know no words.

    `everyday`: frequent words; None: those of the decoder's language model, else English ones where the labels are
    English phones or plain letters, else none, which a remark says. **Raises** `ContextError` when nobody reads phrases,
    or where the list is no list.
    """
    parts = _readers(reader)
    if isinstance(phrases, Iterator):  # it is read twice
        phrases = list(phrases)
    given = entries(phrases)
    spellers = [(part, speller) for part in parts for speller in _spellers(part)[:1]]
    if not spellers:
        return _unspelled(parts, given)
    part, speller = spellers[-1]
    names = LabelNames(part, speller)
    spelled, problems = _spelled(speller, given)
    words, remarks = (everyday, []) if everyday is not None else _everyday(part, speller, names)
    judge = PhraseJudge(names, _index(words, speller, names), adapted=len(parts) > 1)
    copies = Counter(" ".join(_text(phrase).split()) for phrase in phrases)
    findings: dict[int, list[Finding]] = {i: [Finding(NO_EFFECT, "unspellable", text)] for i, text in problems.items()}
    for index, phrase in spelled.items():
        findings[index] = list(judge.findings(given[index], phrase, copies[" ".join(given[index].text.split())]))
    good = [i for i in spelled if all(finding.level != NO_EFFECT for finding in findings[i])]
    for place, refused in _refused(parts, [given[i] for i in good]).items():
        findings[good[place]][:0] = refused
    found = [_checked(entry, spelled.get(i), findings[i], names) for i, entry in enumerate(given)]
    without = {i for i, phrase in enumerate(found) if phrase.status == NO_EFFECT}
    return ListCheck(tuple(found), tuple(remarks), *cost(parts, _items(given, without)))


def _unspelled(parts: Sequence[Any], given: Sequence[Entry]) -> ListCheck:
    """What can be said where no search shows how it spells: which phrases are refused."""
    refused = _refused(parts, given)
    found = tuple(CheckedPhrase(entry.text, 0.0, (), tuple(refused.get(i, ()))) for i, entry in enumerate(given))
    remark = "how the phrases are spelled is not shown: no search reads them"
    return ListCheck(found, (remark,), *cost(parts, _items(given, refused)))


def _checked(entry: Entry, phrase: Phrase | None, findings: Sequence[Finding], names: LabelNames) -> CheckedPhrase:
    paths = () if phrase is None else tuple(names.shown(path) for path in paths_of(phrase))
    return CheckedPhrase(entry.text, 0.0 if phrase is None else phrase.bonus, paths, tuple(findings))


def _text(phrase: Any) -> str:
    return str(phrase if isinstance(phrase, str) else phrase["text"])


def _readers(reader: Any) -> list[Any]:
    """The components that read phrases, in the order in which they do."""
    stages: Mapping[str, Any] = getattr(reader, "parts", {"": reader})
    found = [part for part in stages.values() if any(key.name == "phrases" for key in part.context_keys())]
    if not found:
        spec = getattr(getattr(reader, "spec", None), "model", None)
        names = [
            f"{stage} '{getattr(getattr(spec, stage, None), 'use', type(part).__name__)}'".strip()
            for stage, part in stages.items()
        ]
        raise ContextError(
            f"phrases are read by no component of this pipeline ({', '.join(names)}), so the list would have no effect; use "
            f"{READERS}"
        )
    return found


def _spellers(part: Any) -> list[Speller]:
    """The spellers that a component holds, itself or in what makes its lists."""
    held = [part, *(value for name, value in vars(part).items() if not name.startswith("_"))]
    return [s for owner in held if isinstance(s := getattr(owner, "speller", None), Speller)]


def _spelled(speller: Speller, given: Sequence[Entry]) -> tuple[dict[int, Phrase], dict[int, str]]:
    """Each phrase with its paths, and why the others have none, by index."""
    spelled: dict[int, Phrase] = {}
    problems: dict[int, str] = {}
    for index, entry in enumerate(given):
        try:
            spelled[index] = speller.phrase(entry)
        except SltError as error:
            problems[index] = str(error)
    return spelled, problems


def _refused(parts: Sequence[Any], given: Sequence[Entry]) -> dict[int, list[Finding]]:
    """What other components refuse, by index: halves of the list are tried until each refused phrase stands alone."""
    found: dict[int, list[Finding]] = {}
    for part in parts:
        work = [range(len(given))] if given else []
        while work:
            tried = work.pop()
            try:
                part.prepare({"phrases": [_as_item(given[index]) for index in tried]})
            except SltError as error:
                if len(tried) == 1:
                    found.setdefault(tried[0], []).append(Finding(NO_EFFECT, "refused", str(error)))
                else:
                    work += [tried[: len(tried) // 2], tried[len(tried) // 2 :]]
    return found


def _as_item(entry: Entry) -> Mapping[str, Any]:
    return {
        "text": entry.text,
        **({"weight": entry.weight} if entry.bonus is None else {"bonus": entry.bonus}),
        **({"spellings": list(entry.spellings)} if entry.spellings else {}),
    }


def _items(given: Sequence[Entry], without: Container[int]) -> list[Any]:
    return [_as_item(entry) for index, entry in enumerate(given) if index not in without]


def _everyday(part: Any, speller: Speller, names: LabelNames) -> tuple[EverydayWords | None, list[str]]:
    """The frequent words of a decoder, and a remark where there are none."""
    lm = getattr(settings_of(part), "lm", None)
    language = str(getattr(getattr(speller, "pronounce", None), "language", "en"))
    if lm is not None and settings_of(part).lm_unit == "word":
        return of_model(lm), []
    if language.partition("-")[0] == "en" and names.are_english:
        return of_english(), []
    return None, [
        "not compared with everyday words, for no list of them is known for these labels; give --language or --words"
    ]


def _index(words: EverydayWords | None, speller: Speller, names: LabelNames) -> EverydayIndex | None:
    if words is None:
        return None

    def ways() -> Iterator[tuple[str, list[Key]]]:
        for word in words.words:
            try:
                yield word, list(dict.fromkeys(names.key(path) for path in paths_of(speller.phrase(Entry(word)))))
            except SltError:
                continue  # a word that these labels cannot write is never written by mistake

    return EverydayIndex(ways(), inside=not names.know_words)


def listed(checked: Iterable[CheckedPhrase]) -> list[CheckedPhrase]:
    """The phrases, those without effect first, then those with warnings, else in their order."""
    order = (NO_EFFECT, WARNING, GOOD)
    return sorted(checked, key=lambda phrase: order.index(phrase.status))
