"""Texts aligned with recordings, on recordings that say what is in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from alignment_toys import LETTERS, OFFSET_S, UNMARKED, VOCABULARY, letters_registry, said
from fake_plugins import Site

import sltcore
from sltcore.alignment import AlignedText, align
from sltcore.alignment.words import Spellings
from sltcore.errors import ContextError, DataError, PortError, VocabularyError
from sltcore.pipeline import Pipeline
from sltcore.registry import Registry
from sltcore.types import Item
from sltcore.vocabulary import Vocabulary, word_spans

TOY = {"slt": 1, "kind": "pipeline", "encoder": "letters", "decoder": "writes"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    site = Site(tmp_path_factory.mktemp("letters") / "site")
    sys.path.insert(0, str(site.folder))
    yield letters_registry(site)
    sys.path.remove(str(site.folder))


@pytest.fixture(scope="module")
def pipeline(registry: Registry) -> Pipeline:
    return sltcore.load(TOY, registry=registry)


def one(pipeline: Pipeline, path: str, text: str, **options: Any) -> AlignedText:
    (found,) = align(pipeline, [Item("call", said(path), text)], **options)
    return found


def frames_of(times: tuple[float, float]) -> tuple[int, int]:
    """The frames that a time covers: frame i is centred at offset + i * 10 ms and 10 ms long."""
    return tuple(round((time - OFFSET_S) / 0.01 + 0.5) for time in times)  # type: ignore[return-value]


def test_labels_and_words_are_where_they_were_said(pipeline: Pipeline) -> None:
    found = one(pipeline, "__aa_bb__b  cc__", "abb c")
    assert [unit.text for unit in found.labels] == ["a", "b", "b", " ", "c"]
    spans = [frames_of(unit[1:3]) for unit in found.labels]
    assert spans == [(2, 4), (5, 7), (9, 10), (10, 12), (12, 14)]
    assert found.words is not None
    assert [(unit.text, frames_of(unit[1:3])) for unit in found.words] == [("abb", (2, 10)), ("c", (12, 14))]
    sure = float(torch.tensor([12.0] + [0.0] * (len(LETTERS) - 1)).log_softmax(-1)[0])
    assert found.score == pytest.approx(16 * sure, abs=1e-5)
    assert found.words[0].score == pytest.approx(sure, abs=1e-4)
    assert (found.frames, found.duration_s) == (16, 0.16)


def test_units_never_begin_before_zero_or_inside_another(pipeline: Pipeline) -> None:
    found = one(pipeline, "aabbcc", "abc")
    times = [time for unit in found.labels for time in unit[1:3]]
    assert times[0] == 0.0
    assert times == sorted(times)


def test_results_come_in_order_and_do_not_depend_on_the_batch(pipeline: Pipeline) -> None:
    source = np.random.default_rng(0)
    texts = ["a", "ab", "c b a", "abc abc", "b"]
    items = []
    for index, text in enumerate(texts * 3):
        path = "".join(c + "_" * int(source.integers(0, 3)) for c in "_" + "_".join(text))
        items.append(Item(str(index), said(path), text))
    together = list(align(pipeline, items, batch_size=4, count=len(items)))
    assert [found.item.id for found in together] == [item.id for item in items]
    for found, item in zip(together, items, strict=True):
        assert found._replace(item=item) == next(align(pipeline, [item]))


LONG = "".join(f"{'_' * 150}{c}{c}{'_' * 50}  " for c in "abcabcab")


@pytest.mark.parametrize("streams", [True, False], ids=["windows", "segments"])
def test_long_recordings_are_aligned_as_a_whole(registry: Registry, streams: bool) -> None:
    """17 s at a limit of 5 s, against the same recording in one piece."""
    spec = {**TOY, "encoder": {"use": "letters", "streams": streams}}
    text = " ".join("abcabcab")
    long = sltcore.load({**spec, "segment": {"above_s": 5, "longest_s": 4}}, registry=registry)
    whole = one(sltcore.load(spec, registry=registry), LONG[:-2], text)
    cut = one(long, LONG[:-2], text)
    assert whole.words is not None
    assert cut.words is not None
    assert len(whole.words) == 8
    assert cut.duration_s == whole.duration_s
    for a, b in zip(whole.words, cut.words, strict=True):
        assert (a.text, frames_of(a[1:3])) == (b.text, frames_of(b[1:3]))
        assert a.score == pytest.approx(b.score, abs=1e-4)


def test_words_keep_their_capitals_and_signs(pipeline: Pipeline) -> None:
    found = one(pipeline, "_a_ b  _c'b_", "A — B, C’b!")
    assert found.words is not None
    assert [(unit.text, frames_of(unit[1:3])) for unit in found.words] == [
        ("A", (1, 2)),
        ("B,", (4, 5)),
        ("C’b!", (8, 11)),
    ]


def test_without_a_boundary_the_spelling_of_each_word_tells(registry: Registry) -> None:
    unmarked = sltcore.load({**TOY, "decoder": {"use": "writes", "boundary": False}}, registry=registry)
    found = one(unmarked, "_ab__c_", "ab c")
    assert [unit.text for unit in found.labels] == ["a", "b", "c"]
    assert found.words is not None
    assert [(unit.text, frames_of(unit[1:3])) for unit in found.words] == [("ab", (1, 3)), ("c", (5, 6))]


def test_bad_items_are_named_and_the_rest_is_done(pipeline: Pipeline) -> None:
    items = [
        Item("good", said("_a_b_"), "ab"),
        Item("no text", said("_a_")),
        Item("foreign", said("_a_"), "axe"),
        Item("empty", said("_a_"), " — "),
        Item("short", said("ab"), "abc"),
        Item("gone", "no/such.wav", "a"),
        Item("last", said("_c_"), "c"),
    ]
    found = list(align(pipeline, items, keep_going=True))
    assert [text.error is None for text in found] == [True, False, False, False, False, False, True]
    messages = [str(text.error) for text in found]
    assert messages[1].startswith("input 'no text' has no text to align; give --text, a manifest with a column 'text'")
    assert "input 'foreign': word 'axe' cannot be spelled" in messages[2]
    assert "input 'empty': there is nothing to align in an empty text" in messages[3]
    assert "utterance 'short': its 3 labels need 3 frames, but it has 2" in messages[4]
    assert "no/such.wav" in messages[5]
    for index, error in ((1, DataError), (2, VocabularyError), (4, DataError)):
        with pytest.raises(error, match=messages[index].split(";")[0][:40]):
            list(align(pipeline, [items[index]]))


def test_pipelines_that_cannot_align_are_refused(registry: Registry, pipeline: Pipeline) -> None:
    alone = sltcore.load({"slt": 1, "kind": "pipeline", "encoder": "letters"}, registry=registry)
    with pytest.raises(
        PortError, match="alignment needs an encoder and a CTC decoder .* has encoder 'Letters'; use one"
    ):
        next(align(alone, []))
    with pytest.raises(ContextError, match="context 'phrases' is read by no component"):
        next(align(pipeline, [], context={"phrases": ["a"]}))


SUBWORDS = Vocabulary(["<blank>", "▁a", "b", "▁", "c"], kind="subwords", blank=0)
PHONES = Vocabulary(["<blank>", "|", "AH", "B", "<s>"], kind="phones", blank=0, boundary=1, special=[4])


@pytest.mark.parametrize(
    ("vocabulary", "tokens", "spans"),
    [
        (VOCABULARY, [2, 3, 1, 4], [(0, 2), (3, 4)]),
        (VOCABULARY, [1, 1, 2, 1], [(2, 3)]),
        (UNMARKED, [2, 3], None),
        (SUBWORDS, [1, 2, 3, 4, 1], [(0, 2), (2, 4), (4, 5)]),
        (PHONES, [2, 3, 1, 4, 2], [(0, 2), (4, 5)]),
        (Vocabulary(["<blank>", "yes", "no"], kind="words", blank=0), [1, 2, 1], [(0, 1), (1, 2), (2, 3)]),
        (VOCABULARY, [], []),
    ],
)
def test_labels_make_words(vocabulary: Vocabulary, tokens: list[int], spans: list[tuple[int, int]] | None) -> None:
    assert word_spans(tokens, vocabulary) == spans


class _Spells:
    """What `Spellings` needs of a decoder: a dictionary of phones."""

    def __init__(self, vocabulary: Vocabulary, sounds: Mapping[str, str] | None = None) -> None:
        self.vocabulary = vocabulary
        self.sounds = sounds

    def targets(self, texts: list[str], context: Mapping[str, Any]) -> Any:
        from sltcore.ctc import pad_labels

        if self.sounds is None:
            return pad_labels([self.vocabulary.encode(text) for text in texts])
        missing = [word for text in texts for word in text.split() if word not in self.sounds]
        if missing:
            raise VocabularyError(f"no word {missing[0]!r}")
        between = f" {self.vocabulary.labels[1]} "
        return pad_labels(
            [self.vocabulary.encode(between.join(self.sounds[word] for word in text.split())) for text in texts]
        )


def test_a_dictionary_of_phones_keeps_the_words_of_the_text() -> None:
    spelled = Spellings(_Spells(PHONES, {"uh": "AH", "buh": "B AH"}), {})("Buh uh buh.")
    assert spelled.ids == [3, 2, 1, 2, 1, 3, 2]
    assert spelled.words == (("Buh", 0, 2), ("uh", 3, 4), ("buh.", 5, 7))


def test_a_text_of_phones_has_words_only_between_boundaries() -> None:
    spell = Spellings(_Spells(PHONES), {})
    assert spell("B AH | B").words == (("B AH", 0, 2), ("B", 3, 4))
    assert spell("B AH B").words is None


def test_sub_words_make_words_without_a_boundary() -> None:
    spelled = Spellings(_Spells(SUBWORDS), {})("ab c")
    assert spelled.ids == [1, 2, 3, 4]
    assert spelled.words == (("ab", 0, 2), ("c", 2, 4))
