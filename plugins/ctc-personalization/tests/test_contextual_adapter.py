"""The contextual adapter: the base's own frames without phrases, attention by its formula with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from adapter_toys import BASES, D, Ears, adapter, over, said, shaken, sound, word
from torch import nn

from slt_ctc_personalization.adapter import build_adapter
from slt_ctc_personalization.adapter.attention_supervision import PHRASE_ATTENTION
from slt_ctc_personalization.adapter.catalogue import ByteScript, Catalogue, LabelScript, PhoneScript
from slt_ctc_personalization.adapter.config_adapter import ContextualAdapterConfig
from slt_ctc_personalization.adapter.contextual_adapter import ContextualAdapter
from slt_ctc_personalization.adapter.phrase_attention import PhraseAttention
from sltcore.errors import ContextError, PortError, SpecError, StreamError, VocabularyError
from sltcore.interfaces import Encoder
from sltcore.pipeline import build_component
from sltcore.plugin import Ports
from sltcore.types import Encoded, Waveform

TOLERANCE = 1e-4
LISTS: list[Any] = [["abc", "bad"], [], ["cab", "ace", "fed"]]


@pytest.fixture(scope="module", params=BASES)
def real(request: pytest.FixtureRequest) -> ContextualAdapter:
    return over(request.param)


@torch.no_grad()
def test_without_phrases_the_output_is_the_bases_bit_for_bit(real: ContextualAdapter) -> None:
    x = sound([9000, 5111, 0])
    base = real.encoder(x, {})
    for context in ({}, {"phrases": []}, {"phrases": None}, {"phrases": [[], [], []]}, {"phrases": [None, [], None]}):
        found = real(x, context)
        assert torch.equal(found.values, base.values)
        assert found.extra == base.extra
    assert not torch.equal(real(x, {"phrases": ["abc"]}).values, base.values)


@torch.no_grad()
def test_an_empty_list_in_a_batch_leaves_its_utterance_as_it_is(real: ContextualAdapter) -> None:
    x = sound([9000, 5111, 7000])
    base, found = real.encoder(x, {}), real(x, {"phrases": LISTS})
    assert torch.equal(found.values[1], base.values[1])
    attention = found.extra[PHRASE_ATTENTION]
    assert attention.shape == (3, base.values.shape[1], 4)
    for row, (length, phrases) in enumerate(zip(base.lengths.tolist(), LISTS, strict=True)):
        assert torch.allclose(attention[row, :length].sum(-1), torch.ones(length), atol=1e-5)
        assert not attention[row, length:].any()
        assert not attention[row, :, len(phrases) + 1 :].any()
        assert torch.equal(found.values[row, length:], base.values[row, length:])
        alone = Waveform(x.samples[row : row + 1, : x.lengths[row]], x.lengths[row : row + 1], 16000)
        single = real(alone, {"phrases": phrases})
        assert torch.allclose(single.values[0], found.values[row, :length], atol=real.padding_tolerance)


@torch.no_grad()
def test_padding_never_leaks(real: ContextualAdapter) -> None:
    lengths = [9000, 5111]
    clean, dirty = (real(sound(lengths, junk=junk), {"phrases": ["abc", "fed"]}) for junk in (0.0, 0.9))
    for row, length in enumerate(clean.lengths.tolist()):
        for pair in ([e.values for e in (clean, dirty)], [e.extra[PHRASE_ATTENTION] for e in (clean, dirty)]):
            assert torch.allclose(*(values[row, :length] for values in pair), atol=real.padding_tolerance)


@torch.no_grad()
@pytest.mark.parametrize("name", ["conformer", "hama"])
@pytest.mark.parametrize("phrases", [["abc", "fed", "bead"], []])
def test_a_session_gives_the_offline_frames(name: str, phrases: list[str]) -> None:
    model, x = over(name), sound([176000 if name == "hama" else 40000])  # hama hears 10 s at a time
    offline = model(x, {"phrases": phrases})
    session = model.open({"phrases": phrases})
    pieces = [Waveform(p, torch.tensor([p.shape[1]]), 16000) for p in x.samples.split(3331, 1)]
    parts = [part for part in (*map(session.push, pieces), session.finish()) if part is not None]
    assert len(parts) > 1
    assert torch.allclose(torch.cat([part.values for part in parts], 1), offline.values, atol=TOLERANCE)
    given = 0
    for part in parts:
        assert part.offset_s == pytest.approx(offline.offset_s + given * offline.frame_shift_s)
        given += int(part.lengths[0])
    if phrases:
        attention = torch.cat([part.extra[PHRASE_ATTENTION] for part in parts], 1)
        assert torch.allclose(attention, offline.extra[PHRASE_ATTENTION], atol=TOLERANCE)
    with pytest.raises(StreamError, match="finished"):
        session.finish()


@torch.no_grad()
def test_a_session_looks_at_the_list_once_for_each_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = over("conformer"), sound([40000])
    looked: list[int] = []
    look = model.adapter._look
    monkeypatch.setattr(
        model.adapter, "_look", lambda queries, table: looked.append(len(queries)) or look(queries, table)
    )
    session = model.open({"phrases": ["abc", "fed"]})
    for part in x.samples.split(1000, 1):
        session.push(Waveform(part, torch.tensor([part.shape[1]]), 16000))
    session.finish()
    assert sum(looked) == int(model(x, {}).lengths[0])


@torch.no_grad()
def test_any_sequence_of_texts_is_a_list_and_nothing_else_is_taken_for_none() -> None:
    made, x = shaken(adapter()).eval(), said(["abcx"])
    expected = made(x, {"phrases": ["abc", "fed"]}).values
    for phrases in (np.array(["abc", "fed"]), deque(["abc", "fed"])):
        assert torch.equal(made(x, {"phrases": phrases}).values, expected)
    for wrong in ("abc", {"text": "abc"}, {"abc", "fed"}, 3, iter(["abc"])):
        for call in (made.prepare, lambda context: made(x, context)):
            with pytest.raises(ContextError, match="phrases: expected a list of texts, got"):
                call({"phrases": wrong})


def test_a_base_that_cannot_stream_says_so() -> None:
    with pytest.raises(StreamError, match="hf-speech|HfSpeech"):
        over("wav2vec2").open({"phrases": ["abc"]})


@pytest.mark.parametrize(("combine", "heads"), [("concat", 1), ("concat", 2), ("sum", 4)])
def test_frames_take_what_the_formula_says(combine: str, heads: int) -> None:
    model = over("conformer", combine=combine, heads=heads, layers=(0, 2, -1))
    x = sound([9000])
    encoder: Any = model.encoder
    base: Encoded = encoder(x, {})
    part, phrases = model.adapter, ["abc", "fed", "a"]
    layers = [base.layers[0][0], base.layers[2][0], base.values[0]]
    normed = [norm(layer) for norm, layer in zip(part.norms, layers, strict=True)]
    if part.mixture is None:
        joined = torch.cat(normed, 1)
    else:
        joined = sum(w * layer for w, layer in zip(part.mixture.softmax(0), normed, strict=True))
    vectors = part.catalogue(model.script.written(phrases))
    plain = joined @ part.query.weight.T
    wide = torch.nn.functional.pad(plain, (0, 0, 20, 20))  # zeros beyond the ends
    kernel = part.context.weight
    assert kernel.shape[2] == 21  # every second of 20 frames to either side, and the frame itself
    seen = plain + part.context.bias + sum(wide[2 * i : 2 * i + len(plain)] @ kernel[:, :, i].T for i in range(21))
    e, looked, taken = 16 // heads, [], []
    for h in range(heads):
        own = slice(h * e, (h + 1) * e)
        query, key, value = (
            seen[:, own],
            vectors @ part.key.weight[own].T,
            vectors @ part.value.weight[own].T,
        )
        scores = torch.stack([query @ k / e**0.5 for k in key], 1)
        weights = torch.exp(scores - scores.max(1, keepdim=True).values)
        weights = weights / weights.sum(1, keepdim=True)
        looked.append(weights)
        taken.append(sum(weights[:, i : i + 1] * value[i] for i in range(1, 4)))  # nothing is taken from entry 0
    expected = base.values[0] + torch.cat(taken, 1) @ part.out.weight.T
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found = model(x, {"phrases": phrases})
        assert torch.allclose(found.values[0], expected, atol=1e-3)
        assert torch.allclose(found.extra[PHRASE_ATTENTION][0], sum(looked) / heads, atol=1e-4)


@torch.no_grad()
def test_looking_at_no_phrase_changes_nothing() -> None:
    made = shaken(adapter()).eval()
    made.adapter.key.weight.zero_()
    made.adapter.key.weight[0] = 1e4 * made.adapter.catalogue.no_phrase
    made.adapter.query.weight.zero_()
    made.adapter.norms[0].bias.fill_(1.0)
    made.adapter.query.weight[0] = 10.0 / D
    made.adapter.catalogue.norm.weight.zero_()  # every phrase has the score of a vector of zeros
    made.adapter.catalogue.norm.bias.zero_()
    x = said(["abc", "fx"])
    found = made(x, {"phrases": ["abc", "xfy"]})
    assert torch.equal(found.extra[PHRASE_ATTENTION][0, :, 0], torch.ones(9))
    assert torch.equal(found.values, made.encoder(x, {}).values)


@torch.no_grad()
def test_long_lists_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = shaken(adapter()).eval(), said([word(Random(i)) for i in range(3)])
    phrases = [word(Random(i)) for i in range(100)]
    whole = made(x, {"phrases": phrases})
    monkeypatch.setattr("slt_ctc_personalization.adapter.phrase_attention.NUMBERS_AT_ONCE", 300)
    monkeypatch.setattr("slt_ctc_personalization.adapter.catalogue.PHRASES_AT_ONCE", 7)
    made.train().eval()  # forgets the list
    pieces = made(x, {"phrases": phrases})
    assert torch.allclose(whole.values, pieces.values, atol=1e-5)
    assert torch.allclose(whole.extra[PHRASE_ATTENTION], pieces.extra[PHRASE_ATTENTION], atol=1e-6)


@torch.no_grad()
def test_a_frame_looks_at_the_best_phrases_only() -> None:
    x, phrases = said(["abcx", "fedy"]), [f"{a}{b}" for a in "abcdef" for b in "abcdefxy"]
    every, best = (shaken(adapter(attended=count)).eval()(x, {"phrases": phrases}) for count in (None, 5))
    full, kept = (one.extra[PHRASE_ATTENTION] for one in (every, best))
    for row, length in enumerate(x.lengths.tolist()):
        for t in range(length):
            chosen = [0, *(1 + full[row, t, 1:].topk(5).indices).tolist()]
            expected = torch.zeros(len(phrases) + 1)
            expected[chosen] = full[row, t, chosen] / full[row, t, chosen].sum()
            assert torch.allclose(kept[row, t], expected, atol=1e-5)


def test_labels_come_from_the_config_the_bundle_or_the_base(tmp_path: Any) -> None:
    base: Encoder = build_component("encoder", "hama-conformer", {"weights": "random"})
    ports = Ports(slots={"encoder": base})
    auto = build_adapter.contextual_adapter(ContextualAdapterConfig(), ports)
    assert isinstance(auto.script, PhoneScript)
    assert auto.depths_read == (2, None)
    assert auto.save_files() == {}
    own = build_adapter.contextual_adapter(ContextualAdapterConfig(characters="abc"), ports)
    for name, content in own.save_files().items():
        (tmp_path / name).write_bytes(content)
    again = build_adapter.contextual_adapter(
        ContextualAdapterConfig(vocabulary=tmp_path / "vocabulary.json"),
        Ports(slots={"encoder": base}, folder=tmp_path),
    )
    assert isinstance(again.script, LabelScript)
    assert again.script.spell("cab") == own.script.spell("cab")
    with pytest.raises(VocabularyError, match="offers phones, which spell no text; .* set spelling: phones"):
        build_adapter.contextual_adapter(ContextualAdapterConfig(spelling="labels"), ports)
    ears = build_adapter.contextual_adapter(ContextualAdapterConfig(), Ports(slots={"encoder": Ears()}))
    assert isinstance(ears.script, ByteScript)
    assert ears.depths_read == (None,)


def test_the_base_keeps_its_offers_and_inner_layers() -> None:
    wrapped = over("hama")
    base: Any = wrapped.encoder
    assert base.offers()["head"].in_features == wrapped.produces.attributes["d"]
    assert wrapped.depths == 4
    wrapped.keep_layers([1])
    assert sorted(wrapped(sound([9000]), {}).layers) == [1, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (5,)}, "layers names 5, but the depths of Conformer run from 0 to 3, or from -4 to -1"),
        ({"layers": (-5,)}, "layers names -5, but the depths"),
        ({"layers": (3, -1)}, r"layers \[3, -1\] name a depth twice"),
    ],
)
def test_layers_that_the_base_has_not_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PortError, match=message):
        over("conformer", **fields)
    with pytest.raises(PortError, match=r"layers are \[2, -1\], but Ears gives out no inner layers"):
        adapter(layers=(2, -1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"characters": "ab", "vocabulary": "v.json"}, "vocabulary and characters both name the labels"),
        ({"spelling": "phones", "characters": "ab"}, "spelling: phones reads no labels"),
        ({"width": 10, "heads": 4}, "width 10 does not divide by heads 4"),
        ({"language": "cs", "spelling": "labels"}, "language: cs has no effect with spelling: labels"),
        ({"context_frames": 5, "context_step": 2}, "context_frames 5 is no multiple of context_step 2; try .*: 4 or"),
        ({"lists": {"no_own": 0.7, "empty": 0.4}}, "no_own 0.7 and empty 0.4 are shares"),
        ({"lists": {"keep": 2.0}}, "keep"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    fields: dict[str, Any], message: str, known: Callable[..., Any]
) -> None:
    with pytest.raises((SpecError, ValueError), match=message):
        known(**fields)


@pytest.fixture
def known(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.json").write_text("{}")
    return lambda **fields: ContextualAdapterConfig(**fields)


@torch.no_grad()
def test_an_encoder_that_is_no_module_is_refused() -> None:
    class Plain(Ears):
        pass

    plain: Any = object.__new__(
        type(
            "Odd",
            (Encoder,),
            {name: getattr(Plain, name) for name in ("forward", "output_lengths", "consumes", "produces")},
        )
    )
    attention = PhraseAttention(Catalogue(4, 4, hidden=4), D, width=4)
    with pytest.raises(PortError, match="its encoder is a Odd, expected an nn.Module"):
        ContextualAdapter(plain, attention, script=ByteScript())
    assert isinstance(Plain(), nn.Module)
