"""Language models: exact back-off, whatever the file they come from, and an honest word about files that are broken."""

from __future__ import annotations

import gzip
import json
import math
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from slt_ctc_personalization.language_model import lm_cache, sphinx_lm
from slt_ctc_personalization.language_model.arpa import ArpaModel, parse_arpa, parse_number, read_arpa, write_arpa
from slt_ctc_personalization.language_model.build_lm import build_lm, estimate
from slt_ctc_personalization.language_model.kenlm_file import murmur_hash
from slt_ctc_personalization.language_model.ngram import KENLM_UNIGRAMS, load_lm, ngram_end, ngram_start, ngram_step
from slt_ctc_personalization.language_model.ngram_tables import build_model
from slt_ctc_personalization.language_model.unknown_words import with_unknown_words
from sltcore.errors import DataError

DATA = Path(__file__).parent / "data"
WORDS = [f"w{index}" for index in range(12)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "cache"))


def text(seed: int, lines: int = 80, words: list[str] = WORDS) -> list[str]:
    rng = random.Random(seed)
    weights = [1 / (index + 1) for index in range(len(words))]
    return [" ".join(rng.choices(words, weights=weights, k=rng.randint(1, 7))) for _ in range(lines)]


def brute_force(model: ArpaModel, sentence: list[str], *, bos: bool = True, eos: bool = True) -> float:
    """The back-off definition, by dictionaries and recursion."""
    probability: dict[tuple[str, ...], float] = {}
    weight: dict[tuple[str, ...], float] = {}
    for ids, log_p, log_b in zip(model.ngrams, model.log10_p, model.log10_b, strict=True):
        for row, p, b in zip(ids.tolist(), log_p.tolist(), log_b.tolist(), strict=True):
            ngram = tuple(model.words[word] for word in row)
            probability[ngram], weight[ngram] = p, b

    def log10_p(context: tuple[str, ...], word: str) -> float:
        if (*context, word) in probability:
            return probability[*context, word]
        if not context:
            return probability[("<unk>",)]
        return weight.get(context, 0.0) + log10_p(context[1:], word)

    history = ("<s>",) if bos else ()
    total = 0.0
    for word in [*sentence, *(["</s>"] if eos else [])]:
        known = word if (word,) in probability else "<unk>"
        total += log10_p(history[max(0, len(history) - len(model.ngrams) + 1) :], known)
        history = (*history, known)
    return total * math.log(10)


def sentences(seed: int, words: list[str]) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices([*words, "unheard"], k=rng.randint(0, 8)) for _ in range(60)]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("prune", [(0,), (0, 0, 1)])
def test_scores_equal_the_back_off_definition(order: int, prune: tuple[int, ...]) -> None:
    arpa = estimate(text(order), order=order, prune=prune)
    model = build_model(arpa)
    for sentence in sentences(1, WORDS):
        assert model.score(sentence) == pytest.approx(brute_force(arpa, sentence), abs=2e-5)
        assert model.score(sentence, bos=False, eos=False) == pytest.approx(
            brute_force(arpa, sentence, bos=False, eos=False), abs=2e-5
        )


def test_ngrams_whose_context_or_suffix_is_not_listed_are_still_exact() -> None:
    arpa = estimate(text(3), order=3)
    rng = np.random.default_rng(0)
    chosen = rng.random(len(arpa.ngrams[1])) < 0.5  # half of the bigrams go, all trigrams stay
    thinned = ArpaModel(
        arpa.words,
        [arpa.ngrams[0], arpa.ngrams[1][chosen], arpa.ngrams[2]],
        [arpa.log10_p[0], arpa.log10_p[1][chosen], arpa.log10_p[2]],
        [arpa.log10_b[0], arpa.log10_b[1][chosen], arpa.log10_b[2]],
    )
    model = build_model(thinned)
    for sentence in sentences(2, WORDS):
        assert model.score(sentence) == pytest.approx(brute_force(thinned, sentence), abs=2e-5)


def test_histories_that_can_never_differ_share_a_state() -> None:
    model = build_lm(["a b c", "d e", "c c"], order=3)
    state, states = ngram_start.py_func(model.tables), []
    for words in (["c"], ["zzz"], ["a", "zzz"], ["zzz", "zzz"]):
        after = state
        for word in words:
            after = ngram_step.py_func(model.tables, after, model.word_id(word))[1]
        states.append(after)
    assert states[1] == states[2] == states[3] != states[0]
    assert ngram_end.py_func(model.tables, states[1]) == pytest.approx(model.unigram_log_probs()[2], abs=1e-6)


@pytest.mark.parametrize("name", ["tiny.arpa", "tiny.probing.bin", "gzipped"])
def test_scores_equal_those_of_the_kenlm_package(name: str, tmp_path: Path) -> None:
    path = DATA / name
    if name == "gzipped":
        path = tmp_path / "tiny.arpa.gz"
        path.write_bytes(gzip.compress((DATA / "tiny.arpa").read_bytes()))
    model = load_lm(path)
    assert model.order == 4
    assert model.words[:3] == ["<unk>", "<s>", "</s>"]
    assert model.in_vocabulary("naïve")
    for sentence, whole, inner in json.loads((DATA / "tiny.kenlm-scores.json").read_text(encoding="utf-8"))["scores"]:
        assert model.score(sentence.split()) / math.log(10) == pytest.approx(whole, abs=2e-5)
        assert model.score(sentence.split(), bos=False, eos=False) / math.log(10) == pytest.approx(inner, abs=2e-5)


def test_the_installed_kenlm_agrees_on_a_fresh_model(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    path = tmp_path / "fresh.arpa"
    build_lm(text(9), order=4, out=path)
    model, reference = load_lm(path), kenlm.Model(str(path))
    for sentence in sentences(4, WORDS):
        assert model.score(sentence) / math.log(10) == pytest.approx(reference.score(" ".join(sentence)), abs=2e-5)


def test_word_ids_and_unigrams_agree_between_arpa_and_kenlm() -> None:
    arpa, binary = load_lm(DATA / "tiny.arpa"), load_lm(DATA / "tiny.probing.bin")
    assert sorted(arpa.words) == sorted(binary.words)
    assert arpa.word_id("unheard") == 0
    assert not arpa.in_vocabulary("unheard")
    assert not arpa.in_vocabulary("<unk>")
    first, second = arpa.unigram_log_probs(), binary.unigram_log_probs()
    for word in arpa.words:
        assert first[arpa.word_id(word)] == pytest.approx(second[binary.word_id(word)], rel=1e-6)


def test_murmur_hash_equals_kenlms() -> None:
    # MurmurHash64A, seed 0; the first value is what KenLM itself stores for <s> in a vocabulary table
    raw = np.frombuffer((DATA / "tiny.probing.bin").read_bytes(), np.uint8).tobytes()
    for word in ("<s>", "</s>", "the", "naïve"):
        assert murmur_hash(word.encode()).to_bytes(8, "little") in raw
    assert murmur_hash(b"") == 0


@pytest.mark.parametrize(
    ("kind", "name"), [(1, "rest-probing"), (2, "trie"), (3, "quantised trie"), (5, "quantised array")]
)
def test_other_kenlm_kinds_are_refused_with_the_remedy(kind: int, name: str, tmp_path: Path) -> None:
    data = bytearray((DATA / "tiny.probing.bin").read_bytes())
    data[96] = kind  # magic 56, constants 32, order and multiplier 8
    (tmp_path / "other.bin").write_bytes(data)
    with pytest.raises(DataError, match=f"of kind '{name}.*build_binary probing"):
        load_lm(tmp_path / "other.bin")


def test_a_kenlm_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    data = (DATA / "tiny.probing.bin").read_bytes()
    path = tmp_path / "cut.bin"
    for size in [40, 60, 100, 130, 200, len(data) // 2, len(data) - 20, len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"cut\.bin"):
            load_lm(path)


@pytest.mark.parametrize("number", ["0", "-1.5", "-0.30103", "-12.3456789", "-99", "1e-05", "-2.5E+01", "-.5", "+3."])
def test_numbers_are_parsed_as_python_does(number: str) -> None:
    data = np.frombuffer(number.encode(), np.uint8)
    value, valid = parse_number(data, 0, len(data))
    assert valid
    assert np.float32(value) == np.float32(float(number))


@pytest.mark.parametrize("number", ["", "-", "1.2.3", "abc", "1e", "0x1", "nan", "--1"])
def test_what_is_no_number_is_not_taken_for_one(number: str) -> None:
    data = np.frombuffer((number + " ").encode(), np.uint8)
    assert not parse_number(data, 0, len(number))[1]


def test_an_arpa_file_survives_writing_and_reading_bit_for_bit(tmp_path: Path) -> None:
    arpa = estimate(text(5, words=["naïve", "can't", "日本", "x"]), order=3)
    for name in ("a.arpa", "a.arpa.gz"):
        write_arpa(arpa, tmp_path / name)
        again = read_arpa(tmp_path / name)
        assert again.words == arpa.words
        for field in ("ngrams", "log10_p", "log10_b"):
            for ours, theirs in zip(getattr(arpa, field), getattr(again, field), strict=True):
                assert np.array_equal(ours, theirs), field
    write_arpa(arpa, tmp_path / "b.arpa.gz")
    assert (tmp_path / "a.arpa.gz").read_bytes() == (tmp_path / "b.arpa.gz").read_bytes()


GOOD = """intro text\n\\data\\\nngram 1=4\nngram 2=2\n
\\1-grams:\n-1\t<s>\t-0.3\n-1\t</s>\n-0.5\ta\t-0.2\n-0.6\tb\n
\\2-grams:\n-0.1\ta b\n-0.2\t<s> a\n\n\\end\\\n"""


def test_a_model_without_unk_gives_unknown_words_what_kenlm_gives_them() -> None:
    model = build_model(parse_arpa(GOOD.encode(), "good.arpa"))
    assert model.score(["a"], eos=False) / math.log(10) == pytest.approx(-0.2, abs=1e-6)
    assert model.score(["zzz"], bos=False, eos=False) / math.log(10) == pytest.approx(-100, abs=1e-4)
    assert model.score(["b", "a"], bos=False, eos=False) / math.log(10) == pytest.approx(-1.1, abs=1e-6)


def test_a_search_gives_unknown_words_the_chance_of_the_rarest_listed_one_where_the_file_gives_none() -> None:
    plain = build_model(parse_arpa(GOOD.encode(), "good.arpa"))
    found = with_unknown_words(plain)
    assert found.score(["zzz"], bos=False, eos=False) / math.log(10) == pytest.approx(-0.6, abs=1e-6)
    for known in (["a"], ["b", "a"], ["a", "b"]):
        assert found.score(known) == plain.score(known)
    assert plain.score(["zzz"], bos=False, eos=False) / math.log(10) == pytest.approx(-100, abs=1e-4)
    own = load_lm(DATA / "tiny.arpa")
    assert with_unknown_words(own) is own


def test_words_that_a_model_never_says_are_not_its_rarest_ones() -> None:
    silent = GOOD.replace("-0.6\tb", "-99\tb")
    found = with_unknown_words(build_model(parse_arpa(silent.encode(), "silent.arpa")))
    assert found.score(["zzz"], bos=False, eos=False) / math.log(10) == pytest.approx(-0.5, abs=1e-6)


def test_a_kenlm_file_without_unk_gives_unknown_words_the_same_and_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "closed.bin"
    content = bytearray((DATA / "tiny.probing.bin").read_bytes())
    tables = load_lm(DATA / "tiny.probing.bin").tables
    place = 4 * (int(tables.sizes[KENLM_UNIGRAMS]) + 2 * int(tables.kenlm_ids[0]))
    content[place : place + 4] = np.float32(-100).tobytes()
    path.write_bytes(content)
    assert load_lm(path).score(["unheard"], bos=False, eos=False) / math.log(10) == pytest.approx(-100, abs=1e-4)
    found = with_unknown_words(load_lm(path))
    rarest = float(found.unigram_log_probs()[3:].min())
    assert found.score(["unheard"], bos=False, eos=False) == pytest.approx(rarest, abs=1e-4)
    assert load_lm(path).score(["unheard"], bos=False, eos=False) / math.log(10) == pytest.approx(-100, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("-0.5\ta\t-0.2", "-0.5\ta\tx"), 9, "holds something else where a number"),
        (("-0.5\ta\t-0.2", "-0.5"), 9, "too few fields"),
        (("-0.5\ta\t-0.2", "-0.5\ta b c d"), 9, "too many fields"),
        (("-0.5\ta\t-0.2", "0.5\ta\t-0.2"), 9, "above one"),
        (("-0.6\tb", "-0.6\ta"), 10, "for the second time"),
        (("-0.1\ta b", "-0.1\ta c"), 13, "not among the 1-grams"),
        (("-0.2\t<s> a", "-0.2\ta b"), 14, "'a b' is listed twice"),
        (("ngram 1=4", "ngram 1=5"), 11, "ends the section before"),
        (("ngram 2=2", "ngram 2=1"), 14, r"\\end\\ is expected"),
        (("ngram 2=2", "ngram 3=2"), 4, "'ngram 2=COUNT' is expected"),
        (("ngram 2=2", "ngram 2=x"), 4, "'ngram 2=COUNT' is expected"),
        (("ngram 2=2", "ngram 2=2\nngram 3=1"), 17, "'.3-grams:' is expected"),
        (("ngram 1=4", "ngram 1=9999999999999"), 6, "more n-grams than the file can hold"),
        (("\\end\\", ""), 17, r"\\end\\ is expected"),
    ],
)
def test_a_malformed_arpa_file_is_refused_with_file_and_line(
    change: tuple[str, str], line: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.arpa"
    path.write_text(GOOD.replace(*change), encoding="utf-8")
    with pytest.raises(DataError, match=rf"bad\.arpa:{line}: .*{message}"):
        load_lm(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello\n", "no line reads"),
        (GOOD.replace("</s>", "end").encode(), "has no </s>"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-20], "damaged gzip"),
        (b"Trie Language Model\x03\x05\x00", "damaged Sphinx language model"),
    ],
)
def test_files_that_are_no_model_are_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "odd.lm").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_lm(tmp_path / "odd.lm")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read as a language model"):
        load_lm(tmp_path / "missing.arpa")


def test_random_damage_to_an_arpa_file_never_ends_in_a_traceback() -> None:
    rng = random.Random(0)
    good = (DATA / "tiny.arpa").read_bytes()
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 3)] = bytes(rng.choices(b"\n\t -0.9ae\\\xff\x00", k=rng.randint(0, 3)))
        try:
            build_model(parse_arpa(bytes(data), "damaged.arpa"))
        except DataError as error:
            refused += 1
            assert "damaged.arpa" in str(error) or "the model" in str(error)
    assert refused > 50


def test_the_cache_gives_the_same_model_and_survives_damage_and_read_only_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.arpa"
    shutil.copy(DATA / "tiny.arpa", path)
    first = load_lm(path)
    (kept,) = (tmp_path / "cache").rglob("lm-*.slt")
    monkeypatch.setattr(lm_cache, "build_model", lambda *_, **__: pytest.fail("parsed again"))
    again = load_lm(path)
    monkeypatch.undo()
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "cache"))
    assert again.words == first.words
    for ours, theirs in zip(first.tables, again.tables, strict=True):
        assert np.array_equal(ours, theirs)
        assert theirs.flags.writeable
    good = kept.read_bytes()
    for damage in (good[:-1], good[: len(good) // 2], b"", good[:100] + b"\x00" + good[101:], good[:-40] + b"x" * 40):
        kept.write_bytes(damage)
        assert load_lm(path).score(["the"]) == first.score(["the"])
        assert kept.read_bytes() == good  # mended
    monkeypatch.setenv("SLT_CACHE", "/proc/nothing-can-be-written-here")
    assert load_lm(path).score(["the"]) == first.score(["the"])
    assert "cannot be kept for next time" in caplog.text


def test_a_changed_file_is_not_served_from_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "m.arpa"
    path.write_text(GOOD, encoding="utf-8")
    before = load_lm(path).score(["a", "b"])
    path.write_text(GOOD.replace("-0.1\ta b", "-0.4\ta b"), encoding="utf-8")
    assert load_lm(path).score(["a", "b"]) == pytest.approx(before - 0.3 * math.log(10), abs=1e-5)


@pytest.mark.slow
def test_the_sphinx_model_of_pocketsphinx_sums_to_one_and_is_loaded_from_the_cache_in_no_time() -> None:
    from slt_ctc_personalization.lexicon.lexicon import pocketsphinx_file

    path = pocketsphinx_file("en-us.lm.bin")
    arpa = sphinx_lm.read_sphinx(path)
    assert len(arpa.words) == 72_548
    assert len(arpa.ngrams) == 3
    model = load_lm(path)
    assert np.exp(model.unigram_log_probs().astype(np.float64))[
        [0, *range(2, len(model.words))]
    ].sum() == pytest.approx(1.0, abs=1e-3)
    asked = ["please enter your password", "the cat sat on the mat", "zulu pound key unheardof"]
    ids = [0, 1, 2, *(model.word_id(word) for sentence in asked for word in sentence.split())]
    inside = [np.isin(rows, ids).all(axis=1) for rows in arpa.ngrams]
    part = ArpaModel(
        arpa.words,
        *(
            [values[kept] for values, kept in zip(lists, inside, strict=True)]
            for lists in (arpa.ngrams, arpa.log10_p, arpa.log10_b)
        ),
    )
    for sentence in asked:
        assert model.score(sentence.split()) == pytest.approx(brute_force(part, sentence.split()), abs=1e-4)
    start = time.process_time()
    load_lm(path)
    assert time.process_time() - start < 1.0
