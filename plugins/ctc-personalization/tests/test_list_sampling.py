"""Lists drawn from transcripts: rare words of the utterance and distractors, from the seed alone."""

from __future__ import annotations

from typing import Any

import pytest

from slt_ctc_personalization.adapter.list_sampling import ListSampler, words_of

NAMES = [f"name{i:03d}" for i in range(300)]
TEXTS = [f"please call {NAMES[i]} at {NAMES[(7 * i + 1) % 300]}, or {NAMES[i]} again" for i in range(300)]


def sampler(**changes: Any) -> ListSampler:
    made = ListSampler(**{"rare_texts": 5, **changes})
    made.learn(TEXTS)
    return made


def lists(one: ListSampler, count: int = 600) -> list[tuple[str, list[str]]]:
    return [(text, one.draw(text, seed)) for seed in range(count) for text in (TEXTS[seed % 300],)]


def test_a_list_depends_on_text_and_seed_only() -> None:
    drawn = dict(enumerate(lists(sampler(), 50)))
    again = sampler()
    for seed in sorted(drawn, key=lambda seed: -seed):
        assert again.draw(TEXTS[seed], seed) == drawn[seed][1]
    assert len({tuple(sampler().draw(TEXTS[0], seed)) for seed in range(20)}) > 10


def test_frequent_and_short_words_are_no_phrases() -> None:
    for _, drawn in lists(sampler(most_words=1, rare_texts=5)):
        assert not {"please", "call", "again", "at", "or"} & set(drawn)
    assert not sampler(rare_texts=1, most_words=1).pool  # each name stands in two texts
    assert not sampler(least_letters=8).pool


def test_own_phrases_stand_in_the_reference_and_distractors_do_not() -> None:
    made = sampler(distractors=30, no_own=0.0, empty=0.0, keep=1.0)
    for text, drawn in lists(made):
        said = " ".join(word.key for word in words_of(text))
        own = [phrase for phrase in drawn if f" {phrase} " in f" {said} "]
        names = {name for name in NAMES if name in text}
        assert {name for phrase in own for name in phrase.split() if name in NAMES} == names
        assert set(drawn) - set(own) <= set(made.pool)
        assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("no_own", "empty"), [(0.4, 0.1), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
def test_shares_are_those_that_were_asked_for(no_own: float, empty: float) -> None:
    drawn = lists(sampler(no_own=no_own, empty=empty, distractors=20, keep=1.0, most_words=1), 3000)
    with_own = sum(any(phrase in text for phrase in found) for text, found in drawn) / 3000
    nothing = sum(not found for _, found in drawn) / 3000
    assert with_own == pytest.approx(1 - no_own - empty, abs=0.04)
    assert nothing == pytest.approx(empty + no_own / 21, abs=0.04)


def test_words_are_kept_with_their_probability_and_distractors_are_uniform() -> None:
    drawn = lists(sampler(no_own=0.0, empty=0.0, distractors=20, keep=0.7, most_words=1), 3000)
    kept = [sum(name in found for name in {word.text for word in words_of(text)} & set(NAMES)) for text, found in drawn]
    assert sum(kept) / (2 * 3000) == pytest.approx(0.7, abs=0.03)
    others = [sum(phrase not in text for phrase in found) for text, found in drawn]
    assert (min(others), max(others)) == (0, 20)
    assert sum(others) / 3000 == pytest.approx(10, abs=0.5)


def test_a_phrase_may_hold_neighbours_but_no_punctuation() -> None:
    made = sampler(no_own=0.0, empty=0.0, distractors=0, keep=1.0, most_words=3)
    longer = {phrase for _, drawn in lists(made) for phrase in drawn if " " in phrase}
    assert any(len(phrase.split()) == 3 for phrase in longer)
    assert all(1 < len(phrase.split()) <= 3 for phrase in longer)
    assert not any(" or" in phrase for phrase in longer)  # a comma parts them
    assert all(set(phrase.split()) & set(NAMES) for phrase in longer)


def test_what_cannot_be_written_is_left_out() -> None:
    made = ListSampler(rare_texts=5, no_own=0.0, empty=0.0, keep=1.0, most_words=1)
    made.learn(TEXTS, writable=lambda phrase: "1" not in phrase)
    assert made.pool
    assert not any("1" in phrase for phrase in made.pool)
    assert made.draw("name111 name222", 3, writable=lambda phrase: phrase == "name222").count("name222") == 1
    assert "name111" not in made.draw("name111 name222", 3, writable=lambda phrase: phrase == "name222")


def test_few_texts_give_short_lists() -> None:
    made = ListSampler(distractors=1000, no_own=1.0, empty=0.0)
    assert made.draw("a name nobody learnt", 0) == []
    made.learn(["zanzibar", ""])
    assert {tuple(made.draw("something else", seed)) for seed in range(60)} == {(), ("zanzibar",)}
    assert made.draw("", 1) in ([], ["zanzibar"])


def test_words_are_read_without_punctuation() -> None:
    words = words_of('Dr. Who, said "Peter" - and O\'Neil (left)')
    assert [word.text for word in words] == ["Dr", "Who", "said", "Peter", "-", "and", "O'Neil", "left"]
    assert [word.is_last for word in words] == [True, True, True, True, False, False, True, True]
    assert words_of(" ... ") == []
