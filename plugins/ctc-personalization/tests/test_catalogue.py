"""Lists of phrases as vectors: how they are written, read, kept and refused."""

from __future__ import annotations

import time
from random import Random

import pytest
import torch
from adapter_toys import adapter, said, shaken, vocabulary

from slt_ctc_personalization.adapter import build_adapter
from slt_ctc_personalization.adapter.catalogue import ByteScript, Catalogue, LabelScript, PhoneScript
from slt_ctc_personalization.adapter.config_adapter import ContextualAdapterConfig
from slt_ctc_personalization.adapter.phrase_attention import PhraseAttention
from slt_ctc_personalization.phones.articulation import IPA
from slt_ctc_personalization.phones.g2p import Phonemes
from slt_ctc_personalization.phrases.prepared_phrases import PreparedPhrases
from sltcore.errors import ContextError, DataError, VocabularyError
from sltcore.vocabulary import characters


@torch.no_grad()
def test_phrases_are_read_as_if_alone_and_spellings_are_averaged() -> None:
    torch.manual_seed(0)
    script = LabelScript(vocabulary())
    catalogue = Catalogue(script.size, 8, hidden=6)
    texts = ["a", "fedcba", "bad", "abcdefxy", "bad cab"]
    whole = catalogue(script.written(texts))
    assert torch.equal(whole[0], catalogue.no_phrase)
    for place, text in enumerate(texts):
        assert torch.allclose(whole[place + 1], catalogue(script.written([text]))[1], atol=1e-6)
    states, _ = catalogue.lstm(catalogue.embedding(torch.tensor(script.written(["bad"])[0][0]))[:, None])
    joined = catalogue.norm(torch.cat([states[-1, 0, :6], states[0, 0, 6:]]))
    assert torch.allclose(whole[3], joined, atol=1e-6)
    both = catalogue(script.written([{"text": "bad", "spellings": ["a"]}, "fedcba"]))
    assert torch.allclose(both[1], (whole[1] + whole[3]) / 2, atol=1e-6)
    assert torch.allclose(both[2], whole[2], atol=1e-6)


def test_scripts_write_texts() -> None:
    assert LabelScript(vocabulary()).spell("Bad") == [tuple(vocabulary().encode("bad"))]
    assert ByteScript().spell(" Éa  b") == [tuple("éa b".encode())]
    phones = PhoneScript(["a", "b"], lambda word: {"ab": [["a", "b"], ["b"]], "ba": [["b", "a"]]}.get(word, [["?"]]))
    assert phones.spell("ab ba") == [(0, 1, 2, 1, 0), (1, 2, 1, 0)]
    assert phones.size == 3
    with pytest.raises(VocabularyError, match="'zz' has no pronunciation"):
        phones.spell("zz")


@pytest.mark.slow
def test_phones_are_english_where_nothing_else_is_said() -> None:
    english = PhoneScript()
    assert english.size == 40
    assert len(english.spell("hello world")[0]) == 9  # h ʌ l oʊ, a boundary, w ɝ l d


def test_phones_of_another_language_come_from_its_voice() -> None:
    pytest.importorskip("espeakng_loader")
    labels = characters(["abc"])
    found = build_adapter._script(ContextualAdapterConfig(spelling="phones", language="cs"), labels)
    assert [IPA[symbol] for symbol in found.spell("řeka")[0]] == Phonemes("cs", IPA).pronounce("řeka")[0]
    assert found.size == len(IPA) + 1
    with pytest.raises(DataError, match="qq"):
        build_adapter._script(ContextualAdapterConfig(spelling="phones", language="qq"), labels)


def test_every_phrase_that_cannot_be_spelled_is_named() -> None:
    made = adapter().eval()
    with pytest.raises(ContextError, match="3 phrases cannot be spelled: .*zoo.*; .*'  ' is empty.*; .*7up"):
        made.prepare({"phrases": ["abc", "zoo", "  ", "7up"]})
    with pytest.raises(ContextError, match="1 phrases cannot be spelled: .*zoo"):
        made(said(["abc"]), {"phrases": [["zoo"]]})


def test_a_list_is_read_once_and_again_when_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    made = shaken(adapter()).eval()
    reads: list[int] = []
    table = made.adapter.table
    monkeypatch.setattr(made.adapter, "table", lambda phrases: reads.append(len(phrases)) or table(phrases))
    x, phrases = said(["abcx"]), ["abcx", {"text": "fed", "spellings": ["bed"]}]
    with torch.no_grad():
        made.prepare({"phrases": phrases})
        assert reads == [2]
        before = made(x, {"phrases": phrases})
        made(x, {"phrases": [list(phrases)]})
        made(x, {"phrases": ["fed"]})
        assert reads == [2, 1]
        made.adapter.value.weight.mul_(2.0)
        after = made(x, {"phrases": phrases})
        assert reads == [2, 1, 2]
        assert not torch.equal(before.values, after.values)
        made.load_state_dict(made.state_dict())
        made(x, {"phrases": phrases})
        assert reads == [2, 1, 2, 2]
        for count in range(20):
            made(x, {"phrases": ["abc"[: count % 3 + 1], "f" * (count + 1)]})
        assert len(made._tables) == 8
    made(x, {"phrases": phrases})  # with gradients nothing is kept
    made(x, {"phrases": phrases})
    assert reads[-2:] == [2, 2]


def test_prepared_lists_stay_lists_for_other_stages() -> None:
    made, x = shaken(adapter()).eval(), said(["abcx"])
    plain = ["abcx", "fed"]
    with torch.no_grad():
        expected = made(x, {"phrases": plain}).values
        theirs = PreparedPhrases(made.prepare({"phrases": plain})["phrases"])
        assert list(theirs) == plain
        assert made.prepare({"phrases": theirs})["phrases"] is theirs
        assert torch.equal(made(x, {"phrases": theirs}).values, expected)
        assert torch.equal(made(x, {"phrases": [theirs]}).values, expected)


@pytest.mark.slow
@torch.no_grad()
def test_ten_thousand_phrases_are_read_in_seconds_on_one_core() -> None:
    chance = Random(0)
    phrases = list(
        {"".join(chance.choices("abcdefghijklmnop ", k=chance.randint(4, 16))).strip() or "a" for _ in range(10_000)}
    )
    script = ByteScript()
    attention = PhraseAttention(Catalogue(script.size, 64, hidden=64), 144).eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        began = time.process_time()
        table = attention.table(script.written(phrases))
        read = time.process_time() - began
        began = time.process_time()
        attention(attention.queries([torch.randn(500, 144)]), table)
        looked = time.process_time() - began
    finally:
        torch.set_num_threads(threads)
    assert (read < 4.0, looked < 1.0) == (True, True), (
        f"read in {read:.2f} s, looked at for 10 s of sound in {looked:.2f} s"
    )
