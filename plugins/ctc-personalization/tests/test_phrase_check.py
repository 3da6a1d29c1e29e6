"""A checked list has no phrase that is without effect unnoticed, and names those that hurt."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from slt_ctc_personalization.beam_search.search import BeamSearch
from slt_ctc_personalization.lexicon.lexicon import PHONES
from slt_ctc_personalization.lexicon.lexicon_trie import LexiconTrie
from slt_ctc_personalization.phrases.build_spellers import make_speller
from slt_ctc_personalization.phrases.everyday import EverydayIndex, EverydayWords, of_file, of_language
from slt_ctc_personalization.phrases.phrase_check import check
from slt_ctc_personalization.phrases.prepared_phrases import PHRASES, PhraseLists
from slt_ctc_personalization.phrases.spelling import LabelSpeller, LexiconSpeller
from sltcore.errors import ContextError, DataError
from sltcore.vocabulary import Vocabulary, subwords

LETTERS = Vocabulary(["<blank>", " ", *"abcdefghijklmnopqrstuvwxyz'"], boundary=1)
SPOKEN = Vocabulary(["<blank>", *PHONES], kind="phones")
WORDS = EverydayWords(["the", "and", "seven", "rose", "million", "through"], "a test")


class Reader:
    """What a decoder shows of itself: its labels, its search, and its lists."""

    def __init__(self, vocabulary: Vocabulary, *, bonus: float = 1.0, speller: Any = None, **settings: Any) -> None:
        self.vocabulary = vocabulary
        special = {
            "blank": vocabulary.blank,
            "word_boundary": vocabulary.boundary,
            "excluded": tuple(vocabulary.special),
        }
        self.search = BeamSearch(vocabulary.labels, **special, **settings)
        names, boundary = vocabulary.labels, vocabulary.boundary
        self.speller = speller or make_speller(vocabulary, bonus, names=names, boundary=boundary)
        self.lists = PhraseLists(lambda phrases: self.search.prepare(self.speller.phrases(phrases)), self.search)

    def context_keys(self):
        return (PHRASES,)

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**context, "phrases": self.lists.attached(context["phrases"])}


class Adapter:
    """Another component that reads the list: it refuses one phrase, and does not say how it spells."""

    def __init__(self, refuses: str) -> None:
        self.refuses = refuses
        self.asked = 0

    def context_keys(self):
        return (PHRASES,)

    def prepare(self, context):
        self.asked += 1
        bad = [item["text"] for item in context["phrases"] if item["text"] == self.refuses]
        if bad:
            raise ContextError(f"the adapter cannot write {bad[0]!r}")
        return context


class Names(Sequence):
    """A list of a caller's own kind, which says nothing of itself but where it lies."""

    def __init__(self, names: list[str]) -> None:
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return self.names[index]


class Parts:
    def __init__(self, **parts: Any) -> None:
        self.parts = parts


def kinds(found):
    return {phrase.text: [finding.kind for finding in phrase.findings] for phrase in found.phrases}


def test_each_phrase_comes_with_its_paths_and_what_is_wrong_with_it():
    found = check(
        Reader(LETTERS),
        [
            "Kvitova", "René", {"text": "Aspirin", "weight": 0}, "Bo", "Kvitova", "kvitova", "Rose", "Sever",
            "one two three four five six seven eight nine",
        ],
        everyday=WORDS,
    )  # fmt: skip
    assert kinds(found) == {
        "Kvitova": ["duplicate"],
        "René": ["unspellable"],
        "Aspirin": ["no-bonus"],
        "Bo": ["short"],
        "kvitova": ["duplicate"],
        "Rose": ["misfire"],
        "Sever": ["misfire"],
        "one two three four five six seven eight nine": ["long"],
    }
    assert [phrase.status for phrase in found.phrases[:4]] == ["warning", "no effect", "no effect", "warning"]
    assert (found.count("no effect"), found.count("warning"), found.count("good")) == (2, 6, 0)
    assert found.phrases[0].paths == ("k v i t o v a",)
    assert found.phrases[0].bonus == 7.0
    assert found.phrases[-1].paths[0].startswith("o n e | t w o |")
    remarks = {phrase.text: phrase.findings[0].remark for phrase in found.phrases}
    assert remarks["René"] == (
        "phrase 'René' cannot be spelled: the vocabulary has no label for 'é'; write 'rene', or give that under spellings"
    )
    assert remarks["Kvitova"] == "stands 2 times in the list; one is enough"
    assert remarks["kvitova"] == "is 'Kvitova' of the list in another case or encoding; keep one"
    assert remarks["Rose"] == "is an everyday word: it will be written where another is said; lower its weight"
    assert "is one label from the everyday word 'seven'" in remarks["Sever"]
    assert "raise its weight or bonus, or the decoder's phrase_bonus" in remarks["Aspirin"]


def test_a_name_in_another_case_or_encoding_is_named_as_that():
    listed = ["Chloé", "Chloe\u0301", "chloé", "Meier", "Maier"]
    found = check(Reader(Vocabulary([*LETTERS.labels, "é"], boundary=1)), listed, everyday=WORDS)
    again = "is 'Chloé' of the list in another case or encoding; keep one"
    assert [[f.remark for f in phrase.findings] for phrase in found.phrases] == [[], [again], [again], [], []]


def test_a_list_that_can_be_read_once_is_checked_as_one_that_stays():
    names = ["Kvitova", "Bo", "Kvitova", "René"]
    once = check(Reader(LETTERS), iter(names), everyday=WORDS)
    assert once.phrases == check(Reader(LETTERS), names, everyday=WORDS).phrases
    assert kinds(once)["Kvitova"] == ["duplicate"]


@pytest.mark.parametrize("form", [np.array, lambda names: Names(names)], ids=["array", "own sequence"])
def test_a_changed_list_is_never_answered_with_what_was_made_of_another(form):
    lists = PhraseLists(list, None)
    names = [f"name {i:04}" for i in range(1500)]
    changed = [*names[:700], "Nguyen 7", *names[701:]]
    assert lists.of(form(names)) == names
    assert lists.of(form(changed)) == changed
    if form is not np.array:
        own = form(names)
        assert lists.of(own) == names
        own.names[3] = "Nguyen"
        assert lists.of(own)[3] == "Nguyen"


def test_homophones_of_the_list_and_of_everyday_words_are_found_by_sound():
    found = check(Reader(SPOKEN), ["Meier", "Mayer", "Kayle", "Threw", "Nguyen", "Ann"], everyday=WORDS)
    said = {phrase.text: [finding.remark for finding in phrase.findings] for phrase in found.phrases}
    assert said["Threw"][0] == "is said like the everyday word 'through'; lower its weight"
    shared = {phrase.text: set(phrase.paths) for phrase in found.phrases}
    assert bool(shared["Meier"] & shared["Mayer"]) == any("is said like 'Meier'" in remark for remark in said["Mayer"])
    assert any("phones: so short a phrase fires everywhere" in remark for remark in said["Ann"])
    assert "has 1 phone: so short" in check(Reader(SPOKEN), ["Oh"], everyday=WORDS).phrases[0].findings[-1].remark


def test_without_word_borders_a_phrase_inside_an_everyday_word_is_named():
    closed = Vocabulary(["<blank>", *"abcdefghijklmnopqrstuvwxyz"])
    found = check(Reader(closed), ["illi", "kvitova"], everyday=WORDS)
    assert found.phrases[0].findings[0].remark == (
        "is a part of the everyday word 'million', and the labels know no words"
    )
    assert found.phrases[1].findings == ()
    assert check(Reader(LETTERS), ["illi"], everyday=WORDS).phrases[0].findings == ()


def test_a_path_that_the_search_never_writes_has_no_effect():
    vocabulary = Vocabulary(["<blank>", " ", *"abc"], boundary=1)
    reader = Reader(vocabulary)
    reader.search = BeamSearch(vocabulary.labels, blank=0, word_boundary=1, excluded=(4,))
    found = check(reader, ["abab", "abcab", {"text": "acab", "spellings": ["abba"]}], everyday=WORDS)
    assert [[finding.kind for finding in phrase.findings] for phrase in found.phrases] == [[], ["never-written"], ["refused"]]  # fmt: skip
    assert found.phrases[1].findings[0].remark == "the search never writes its label 'c'; give another spelling"
    assert found.count("no effect") == 2


def test_what_another_component_refuses_is_found_phrase_by_phrase():
    adapter = Adapter("name 37")
    names = [f"name {i}" for i in range(100)] + ["Zoë"]
    letters = Vocabulary(["<blank>", " ", *"name0123456789"], boundary=1)
    found = check(Parts(encoder=adapter, decoder=Reader(letters)), names, everyday=WORDS)
    bad = {phrase.text: phrase.findings[0] for phrase in found.phrases if phrase.status == "no effect"}
    assert set(bad) == {"name 37", "Zoë"}
    assert bad["name 37"].remark == "the adapter cannot write 'name 37'"
    assert adapter.asked < 40
    alone = check(adapter, names)
    assert [phrase.text for phrase in alone.phrases if phrase.status == "no effect"] == ["name 37"]
    assert alone.remarks == ("how the phrases are spelled is not shown: no search reads them",)


def test_without_a_bonus_an_adapter_still_reads_the_list():
    parts = Parts(encoder=Adapter("nothing"), decoder=Reader(LETTERS, bonus=0.0))
    assert [phrase.status for phrase in check(parts, ["kvitova"], everyday=WORDS).phrases] == ["warning"]
    assert [phrase.status for phrase in check(Reader(LETTERS, bonus=0.0), ["kvitova"], everyday=WORDS).phrases] == ["no effect"]  # fmt: skip


def test_a_list_that_nobody_reads_is_refused():
    class Deaf:
        def context_keys(self):
            return ()

    with pytest.raises(ContextError, match=r"phrases are read by no component of this pipeline \(decoder 'Deaf'\), so the list would have no effect; use decoders ctc-beam"):  # fmt: skip
        check(Parts(decoder=Deaf()), ["a"])


def test_everything_good_is_what_a_call_takes():
    reader = Reader(LETTERS)
    names = ["Kvitova", "René", "Bo", "Nguyen van Troi", "C3"]
    good = [phrase.text for phrase in check(reader, names, everyday=WORDS).phrases if phrase.status != "no effect"]
    assert good == ["Kvitova", "Bo", "Nguyen van Troi"]
    reader.prepare({"phrases": good})
    with pytest.raises(ContextError, match="2 cannot be spelled, so they would have no effect"):
        reader.prepare({"phrases": names})


def test_a_lexicon_shows_the_pronunciations_and_an_empty_list_nothing():
    letters = Vocabulary(["<blank>", *"abcdefghijklmnopqrstuvwxyz"])
    lexicon = LexiconTrie({word: [list(word)] for word in ("the", "rose")}, letters.labels)
    speller = LexiconSpeller(letters.spell, 1.0)
    reader = Reader(letters, speller=speller, lexicon=lexicon)
    found = check(reader, ["Rose Bo", {"text": "Xu", "spellings": ["shu"]}], everyday=WORDS)
    assert [phrase.paths for phrase in found.phrases] == [("r o s e b o",), ("x u", "s h u")]
    empty = check(reader, [], everyday=WORDS)
    assert (empty.phrases, empty.seconds, empty.bytes) == ((), 0.0, 0)


def test_subwords_are_compared_with_everyday_words_by_their_letters():
    vocabulary = subwords(["seven roses through the million and more xyz"] * 3, 40)
    speller = LabelSpeller(vocabulary, 1.0, segmentations=4)
    found = check(Reader(vocabulary, speller=speller), ["Seven", "xeven", "zzzzzz"], everyday=WORDS)
    assert [[f.kind for f in phrase.findings] for phrase in found.phrases] == [["misfire"], ["misfire"], []]


def test_where_no_everyday_words_are_known_that_is_said():
    norse = Vocabulary(["<blank>", " ", *"abcdefghijklmnopqrstuvwxyzæøå"], boundary=1)
    assert "give --language or --words" in check(Reader(norse), ["Åse"]).remarks[0]


@pytest.mark.parametrize("seed", range(5))
def test_near_words_are_those_at_edit_distance_one(seed):
    rng = np.random.default_rng(seed)

    def word():
        return "".join(rng.choice(list("abc"), rng.integers(1, 6)))

    def distance(a, b):
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            row, above = [i], row
            for j, y in enumerate(b, 1):
                row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        return row[-1]

    words = list(dict.fromkeys(word() for _ in range(15)))
    index = EverydayIndex([(w, [tuple(w)]) for w in words], inside=True)
    for _ in range(100):
        phrase = word()
        if len(phrase) < 2:
            continue
        near = next((w for w in words if distance(phrase, w) == 1), None)
        assert index.near([tuple(phrase)]) == near
        assert index.equal([tuple(phrase)]) == (phrase if phrase in words else None)
        assert index.holding([tuple(phrase)]) == next((w for w in words if phrase in w and phrase != w), None)


def test_frequent_words_come_from_files_and_languages_or_are_refused(tmp_path):
    (tmp_path / "words.txt").write_text("og\ni\n123\njeg\n")
    assert of_file(tmp_path / "words.txt").words == ["og", "i", "jeg"]
    (tmp_path / "empty.txt").write_text("1\n")
    with pytest.raises(DataError, match=r"empty\.txt holds no word; write one a line"):
        of_file(tmp_path / "empty.txt")
    with pytest.raises(DataError, match=r"none\.txt cannot be read: No such file"):
        of_file(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"language 'xx'"):
        of_language("xx")


def test_the_cost_of_a_list_grows_with_it_and_leaves_out_what_lists_share():
    reader = Reader(LETTERS)
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("abcdefgh"), 8)) for _ in range(2000)]
    small, large = (check(reader, names[:size], everyday=WORDS) for size in (200, 2000))
    assert 5 * small.bytes < large.bytes < 20 * small.bytes
    assert 100 < large.bytes / 2000 < 5000
    assert large.seconds < 2.0


@pytest.mark.slow
def test_twenty_thousand_phrases_are_checked_in_seconds():
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("abcdefghijklmnop"), rng.integers(4, 12))) for _ in range(20_000)]
    reader = Reader(LETTERS)
    check(reader, names[:10])
    begin = time.process_time()
    found = check(reader, names)
    assert time.process_time() - begin < 10.0
    assert len(found.phrases) == len(set(names))
