"""The labels a decoder writes with: text to ids, ids to text, and every way to spell a phrase."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sltcore.errors import VocabularyError

KINDS = ("characters", "subwords", "phones", "words")
WORD_MARK = "▁"  # sub-word vocabularies mark the first piece of a word with it, as SentencePiece does


class Vocabulary:
    """An ordered set of labels with one blank and, where words exist, a rule for their borders.

    - `characters`: one letter a label; `boundary` (often a space) separates words.
    - `subwords`: pieces; a piece that begins with `▁` begins a word, so no boundary label is needed.
    - `phones`: sounds; a text has no spelling without a lexicon, so `encode` takes labels separated by spaces.
    - `words`: whole words or classes.

    >>> letters = Vocabulary(["<blank>", " ", "a", "b"], kind="characters", blank=0, boundary=1)
    >>> letters.encode("ab a")
    [2, 3, 1, 2]
    >>> letters.decode([2, 3, 1, 2])
    'ab a'

    Raises `VocabularyError` when labels repeat, ids lie outside the labels, or the kind is unknown.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        kind: str = "characters",
        blank: int = 0,
        boundary: int | None = None,
        special: Iterable[int] = (),
    ) -> None:
        self.labels = tuple(labels)
        self.kind = kind
        self.blank = blank
        self.boundary = boundary
        self.special = frozenset(special)
        self._check()
        self._ids = {label: index for index, label in enumerate(self.labels)}
        self._longest = max((len(label) for label in self.labels), default=0)

    def _check(self) -> None:
        if self.kind not in KINDS:
            raise VocabularyError(f"vocabulary kind {self.kind!r} is unknown; kinds: {', '.join(KINDS)}")
        odd = [label for label in self.labels if not isinstance(label, str)]
        if odd:
            raise VocabularyError(f"vocabulary: label {odd[0]!r} is a {type(odd[0]).__name__}, expected a text")
        if len(set(self.labels)) != len(self.labels):
            repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
            raise VocabularyError(
                f"vocabulary: labels repeat: {', '.join(map(repr, repeated[:5]))}; each may stand once"
            )
        if not self.labels:
            raise VocabularyError("vocabulary: there are no labels; give at least the blank")
        places = [("blank", self.blank), ("boundary", self.boundary), *(("special", i) for i in sorted(self.special))]
        for what, value in places:
            if value is not None and not 0 <= value < len(self.labels):
                raise VocabularyError(
                    f"vocabulary: {what} is id {value}, but the ids run from 0 to {len(self.labels) - 1}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.labels, self.kind, self.blank, self.boundary))

    def id(self, label: str) -> int:
        """The id of one label; `VocabularyError` when there is none."""
        try:
            return self._ids[label]
        except KeyError:
            raise VocabularyError(
                f"the vocabulary has no label {label!r}; its {len(self)} labels begin {' '.join(self.labels[:12])}"
            ) from None

    def encode(self, text: str) -> list[int]:
        """The ids of a text's preferred spelling; `VocabularyError` names each character that has no label."""
        if self.kind in ("phones", "words"):
            return [self.id(label) for label in text.split()]
        words = text.split()
        if self.kind == "subwords":
            return [piece for word in words for piece in self._pieces(WORD_MARK + word, word)]
        ids: list[int] = []
        for position, word in enumerate(words):
            if position and self.boundary is not None:
                ids.append(self.boundary)
            ids.extend(self._pieces(word, word))
        return ids

    def spell(self, phrase: str) -> list[list[int]]:
        """Every known spelling of a phrase, preferred first; `VocabularyError` when it has none."""
        if not phrase.split():
            raise VocabularyError(f"phrase {phrase!r} is empty; give at least one word")
        for candidate in (phrase, phrase.lower(), phrase.upper()):
            try:
                return [self.encode(candidate)]
            except VocabularyError as error:
                problem = error
        raise VocabularyError(f"phrase {phrase!r} cannot be spelled: {problem}")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without blanks or repeats to collapse; special labels and the blank are left out."""
        for i in ids:
            if not 0 <= i < len(self.labels):
                raise VocabularyError(
                    f"label id {i} is outside the vocabulary, whose ids run from 0 to {len(self.labels) - 1}"
                )
        kept = [i for i in ids if i != self.blank and i not in self.special]
        if self.kind == "characters":
            text = "".join(" " if i == self.boundary else self.labels[i] for i in kept)
        elif self.kind == "subwords":
            text = "".join(self.labels[i] for i in kept).replace(WORD_MARK, " ")
        else:
            text = " ".join(self.labels[i] for i in kept if i != self.boundary)
        return " ".join(text.split())

    def _pieces(self, text: str, word: str) -> list[int]:
        """The fewest labels that cover a text, the longest first among equals; `word` is what an error names."""
        best: list[list[int] | None] = [None] * (len(text) + 1)
        best[len(text)] = []
        for start in range(len(text) - 1, -1, -1):
            for end in range(min(len(text), start + self._longest), start, -1):
                tail = best[end]
                piece = self._ids.get(text[start:end])
                if tail is not None and piece is not None and piece != self.blank:
                    found = best[start]
                    if found is None or len(tail) + 1 < len(found):
                        best[start] = [piece, *tail]
        result = best[0]
        if result is None:
            missing = sorted({c for c in word if c not in self._ids})
            names = ", ".join(map(repr, missing)) or repr(word)
            raise VocabularyError(f"the vocabulary has no label for {names} in {word!r}")
        return result

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` turns back into an equal vocabulary."""
        return {
            "kind": self.kind,
            "blank": self.blank,
            "boundary": self.boundary,
            "special": sorted(self.special),
            "labels": list(self.labels),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that `to_dict` wrote; `VocabularyError` when a field is missing."""
        try:
            labels, kind, blank = data["labels"], data["kind"], data["blank"]
        except KeyError as error:
            raise VocabularyError(f"a saved vocabulary lacks the field {error.args[0]!r}") from None
        special = data.get("special", ())
        for name, value in (("labels", labels), ("special", special)):
            if not isinstance(value, list | tuple):
                raise VocabularyError(f"a saved vocabulary's {name!r} is a {type(value).__name__}, expected a list")
        return cls(labels, kind=kind, blank=blank, boundary=data.get("boundary"), special=special)


def characters(texts: Iterable[str], *, blank: str = "<blank>") -> Vocabulary:
    """The vocabulary of every character that occurs in `texts`, blank first, space as word boundary."""
    found = sorted({character for text in texts for character in " ".join(text.split())} - {" "})
    if not found:
        raise VocabularyError("the texts hold no characters to make a vocabulary of")
    return Vocabulary([blank, " ", *found], kind="characters", blank=0, boundary=1)


def subwords(texts: Iterable[str], size: int, *, report: Callable[[str], None] | None = None) -> Vocabulary:
    """A byte-pair vocabulary of at most `size` pieces, trained by the `tokenizers` library on `texts`.

    Raises `VocabularyError` when `size` cannot even hold the characters that occur.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lines = [" ".join(text.split()) for text in texts]
    letters = {character for line in lines for character in line} - {" "}
    if size < len(letters) + 2:
        raise VocabularyError(
            f"{size} sub-words cannot cover {len(letters)} characters; use at least {len(letters) + 2}, or characters"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_MARK, prepend_scheme="always")
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size - 1, show_progress=False))
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if report is not None:
        report(f"{len(pieces) + 1} labels from {len(lines)} lines")
    return Vocabulary(["<blank>", *(piece for piece, _ in pieces)], kind="subwords", blank=0)


def word_spans(tokens: Sequence[int], vocabulary: Vocabulary) -> list[tuple[int, int]] | None:
    """The words as (first, past-the-last) positions in `tokens`, or None where the labels do not form words.

    Characters and phones form words where the vocabulary has a boundary label, sub-words by their `▁`, and each label
    of a word vocabulary is one. Boundaries and special labels belong to no word.
    """
    kind, boundary = vocabulary.kind, vocabulary.boundary
    if kind in ("characters", "phones") and boundary is None:
        return None
    spans: list[tuple[int, int]] = []
    first: int | None = None
    for position, token in enumerate(tokens):
        outside = token == boundary or token in vocabulary.special
        begins = kind == "words" or (kind == "subwords" and vocabulary.labels[token].startswith(WORD_MARK))
        if first is not None and (outside or begins):
            spans.append((first, position))
            first = None
        if first is None and not outside:
            first = position
    if first is not None:
        spans.append((first, len(tokens)))
    return [span for span in spans if vocabulary.decode(tokens[slice(*span)])]
