"""The side information of a call: unknown keys, wrong types and wrong lengths are told, both forms mean the same."""

from __future__ import annotations

from typing import Any

import pytest

from sltcore.context import check_context, is_per_utterance, merge_keys, per_utterance, select
from sltcore.errors import ContextError, PortError
from sltcore.types import CONTEXT_TYPES, ContextKey


def key(name: str, type: str, per_utterance: bool = True) -> ContextKey:
    return ContextKey(name=name, type=type, meaning="for a test", per_utterance=per_utterance)


PHRASES, LANGUAGE, WEIGHT = key("phrases", "texts"), key("language", "text"), key("weight", "number")
SHARED = key("database", "mapping", per_utterance=False)
KEYS = {
    k.name: k for k in (PHRASES, LANGUAGE, WEIGHT, SHARED, key("durations", "numbers"), key("reference", "waveform"))
}


def test_equal_keys_merge_and_unequal_ones_do_not() -> None:
    assert merge_keys([("a", [PHRASES]), ("b", [PHRASES, LANGUAGE])]) == {"phrases": PHRASES, "language": LANGUAGE}
    with pytest.raises(PortError) as caught:
        merge_keys([("encoder 'a'", [LANGUAGE]), ("decoder 'b'", [key("language", "number")])])
    assert str(caught.value) == (
        "encoder 'a' reads context 'language' as text, but decoder 'b' reads it as number; they do not fit into one pipeline"
    )
    with pytest.raises(PortError) as caught:
        merge_keys([("a", [key("x", "colour")])])
    assert str(caught.value) == f"a reads context 'x' of unknown type 'colour'; types: {', '.join(CONTEXT_TYPES)}"


def test_keys_that_differ_in_sharing_say_so() -> None:
    with pytest.raises(PortError) as caught:
        merge_keys([("a", [key("x", "text")]), ("b", [key("x", "text", per_utterance=False)])])
    assert str(caught.value) == (
        "a reads context 'x' as text for each utterance, but b reads it as text for the whole call; they do not fit into one "
        "pipeline"
    )


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"phrase": ["a"]}, "context 'phrase' is read by no component of this pipeline, so it would have no effect; keys that are read: "
         "database, durations, language, phrases, reference, weight. Did you mean 'phrases'?"),
        ({"phrases": "Amazon"}, f"context 'phrases' expects {CONTEXT_TYPES['texts']}, got str 'Amazon'"),
        ({"phrases": [1]}, f"context 'phrases' expects {CONTEXT_TYPES['texts']}, got list [1]"),
        ({"phrases": [["a"], ["b"], ["c"]]}, "context 'phrases' holds 3 values for 2 inputs; give one for each input, or one for all"),
        ({"language": ["en", "no", "fi"]}, "context 'language' holds 3 values for 2 inputs; give one for each input, or one for all"),
        ({"language": 3}, f"context 'language' expects {CONTEXT_TYPES['text']}, got int 3"),
        ({"language": ["en", 3]}, f"context 'language' expects {CONTEXT_TYPES['text']}, got int 3"),
        ({"weight": True}, f"context 'weight' expects {CONTEXT_TYPES['number']}, got bool True"),
        ({"weight": "1"}, f"context 'weight' expects {CONTEXT_TYPES['number']}, got str '1'"),
        ({"database": [1]}, f"context 'database' expects {CONTEXT_TYPES['mapping']}, got list [1]"),
        ({"durations": ["x"]}, f"context 'durations' expects {CONTEXT_TYPES['numbers']}, got list ['x']"),
        ({"durations": [True]}, f"context 'durations' expects {CONTEXT_TYPES['numbers']}, got list [True]"),
        ({"reference": 3}, f"context 'reference' expects {CONTEXT_TYPES['waveform']}, got int 3"),
        ({"language": 10**80}, f"context 'language' expects {CONTEXT_TYPES['text']}, got int {'1' + '0' * 56}…"),
    ],
)  # fmt: skip
def test_a_wrong_context_is_one_line(context: dict[str, Any], message: str) -> None:
    with pytest.raises(ContextError) as caught:
        check_context(context, KEYS, 2)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "context",
    [
        {}, {"phrases": ["a", "b"]}, {"phrases": []}, {"phrases": ["a"]}, {"phrases": [["a"], []]}, {"phrases": [None, ["b"]]}, {"phrases": ("a", "b")},
        {"phrases": [{"text": "a", "weight": 2}]}, {"language": "en"}, {"language": ["en", "no"]}, {"language": None}, {"language": [None, "en"]},
        {"weight": 1}, {"weight": [0.5, 1]}, {"database": {"a": 1}}, {"durations": [1, 2, 3]}, {"durations": [[1], [2, 3]]},
        {"reference": "echo.wav"}, {"reference": ["a.wav", "b.wav"]}, {"generator": object()},
    ],
)  # fmt: skip
def test_right_contexts_pass(context: dict[str, Any]) -> None:
    check_context(context, KEYS, 2)


def test_lengths_are_left_unchecked_before_the_batch_is_known() -> None:
    check_context({"language": ["en", "no", "fi"]}, KEYS, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", "b"], [["a", "b"]] * 3),
        ([["a"], None, []], [["a"], None, []]),
        (None, [None] * 3),
        (("a",), [("a",)] * 3),
    ],
)
def test_phrases_for_all_and_for_each(value: Any, expected: list[Any]) -> None:
    assert per_utterance({"phrases": value}, PHRASES, 3) == expected
    assert per_utterance({}, PHRASES, 3) == [None] * 3


def test_a_list_of_the_wrong_length_is_refused_where_it_is_read() -> None:
    with pytest.raises(
        ContextError, match="^context 'language' holds 2 values for 3 inputs; give one for each input, or one for all$"
    ):
        per_utterance({"language": ["a", "b"]}, LANGUAGE, 3)


def test_a_shared_key_is_never_split() -> None:
    rows = key("rows", "texts", per_utterance=False)
    assert not is_per_utterance([["a"], ["b"]], rows)
    assert per_utterance({"rows": [["a"], ["b"]]}, rows, 3) == [[["a"], ["b"]]] * 3


def test_selecting_keeps_what_is_shared() -> None:
    context = {"language": ["en", "no", "fi"], "phrases": ["a", "b"], "database": {"x": 1}, "unknown": [1, 2, 3]}
    assert select(context, KEYS, [2, 0]) == {
        "language": ["fi", "en"],
        "phrases": ["a", "b"],
        "database": {"x": 1},
        "unknown": [1, 2, 3],
    }


def test_selecting_then_reading_is_reading_then_selecting() -> None:
    for value in (["en", "no", "fi"], "en", None):
        whole = per_utterance({"language": value}, LANGUAGE, 3)
        part = per_utterance(select({"language": value}, KEYS, [1, 2]), LANGUAGE, 2)
        assert part == [whole[1], whole[2]]
