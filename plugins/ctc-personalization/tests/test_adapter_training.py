"""Training the contextual adapter: a frozen base, kept outputs, drawn lists, and learning itself."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from adapter_toys import D, adapter, head, over, said, shaken, sound, vocabulary, word

from slt_ctc_personalization.adapter.attention_supervision import PHRASE_ATTENTION, AttentionSupervision
from slt_ctc_personalization.adapter.contextual_adapter import ContextualAdapter
from slt_ctc_personalization.adapter.list_sampling import ListSampler
from sltcore import ctc


def test_the_base_is_frozen_and_stays_in_evaluation() -> None:
    model = over("conformer").train()
    assert model.adapter.training
    assert not any(module.training for module in model.encoder.modules())
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    model(sound([9000]), {"phrases": ["abc"]}).values.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith("adapter."))


def test_a_batch_of_empty_lists_can_be_trained_on() -> None:
    made = shaken(adapter()).train()
    x = said(["abcx", "fedy"])
    found = made(x, {"phrases": [[], []]})
    assert torch.equal(found.values, made.encoder(x, {}).values)
    assert PHRASE_ATTENTION not in found.extra
    found.values.sum().backward()


def test_training_begins_at_the_bases_output() -> None:
    made, x = adapter(), said(["abcx"])
    assert torch.equal(made(x, {"phrases": ["abcx"]}).values, made.encoder(x, {}).values)


@pytest.mark.parametrize("name", ["toy", "conformer"])
def test_outputs_of_the_base_are_kept_in_training(name: str) -> None:
    toy = name == "toy"
    made: Any = shaken(adapter(keep_base_bytes=2**20)) if toy else over(name, keep_base_mb=1)
    batches = [said(["abcx", "f", "edd"]), said(["edd", "abcx"])] if toy else [sound([9000, 3000]), sound([9000, 700])]
    expected = [made.eval()(x, {"phrases": ["ab"]}) for x in batches]
    calls: list[int] = []
    forward = made.encoder.forward
    made.encoder.forward = lambda x, context: calls.append(len(x.lengths)) or forward(x, context)
    made.train()
    for epoch in range(2):
        for x, want in zip(batches, expected, strict=True):
            found = made(x, {"phrases": ["ab"]})
            assert found.lengths.tolist() == want.lengths.tolist()
            assert torch.allclose(found.values, want.values, atol=made.padding_tolerance)
        assert calls == ([3] if toy else [2, 1]) or epoch == 0
    made.eval()(batches[0], {"phrases": ["ab"]})
    assert calls[-1] == len(batches[0].lengths)


def test_kept_outputs_are_bounded_and_forgotten_with_other_weights() -> None:
    made = adapter(keep_base_bytes=12 * D * 4).train()
    ears, memory = made.encoder, made._memory
    for _ in range(3):
        made(said(["abcx", "fedy"]), {})  # room for one of them
    assert (ears.rows, memory.held_bytes) == (2 + 1 + 1, 12 * D * 4)
    with torch.no_grad():
        ears.identity.weight.mul_(3.0)
    assert torch.equal(made(said(["abcx"]), {}).values, ears(said(["abcx"]), {}).values)
    assert made(said(["", ""]), {}).values.shape == (2, 0, D)


def test_nothing_is_kept_where_something_is_hooked_in_or_off() -> None:
    hooked, off = adapter(keep_base_bytes=2**20).train(), adapter(keep_base_bytes=0).train()
    hooked.encoder.identity.register_forward_hook(lambda module, given, out: out * torch.rand(()))
    for made in (hooked, off):
        for _ in range(2):
            made(said(["abcx"]), {})
        assert made.encoder.rows == 2


def test_lists_are_drawn_for_training_where_the_data_give_none() -> None:
    made = adapter(sampler=ListSampler(rare_texts=5, distractors=5, empty=0.0, no_own=0.0, most_words=1, keep=1.0))
    texts = ["bad cabbx", "feed abxy", "zoo"]
    made.learn_texts(texts)
    drawn = made.training_context(texts, {}, [1, 2, 3])["phrases"]
    assert len(drawn) == 3
    assert {"bad", "cabbx"} <= set(drawn[0])
    assert not any("zoo" in phrases for phrases in drawn)  # it cannot be spelled
    assert made.training_context(texts[1:], {"phrases": None}, [2, 3])["phrases"] == drawn[1:]
    assert made.training_context(texts, {"phrases": ["abc"]}, [1, 2, 3]) == {}
    assert adapter().training_context(texts, {}, [1, 2, 3]) == {}


@pytest.mark.parametrize("supervised", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_the_adapter_learns_to_tell_words_that_sound_alike(supervised: float) -> None:
    made, labels, chance = adapter(), vocabulary(), Random(1)
    top = ctc.Head(head(), labels, D)
    supervision = AttentionSupervision(labels)
    optimizer = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], 1e-2)
    made.train()
    losses = []
    for _ in range(100 if supervised else 40):
        words = [word(chance) for _ in range(16)]
        lists = [[text, word(chance)] if row % 4 else [] for row, text in enumerate(words)]
        encoded = made(said(words), {"phrases": lists})
        targets = ctc.pad_labels(labels.encode(text) for text in words)
        loss = ctc.training_loss(top, encoded, targets)
        losses.append(float(loss.detach().mean()))
        if supervised:
            looked, log_probs = encoded.extra[PHRASE_ATTENTION], ctc.log_probs(top, encoded)
            loss = loss + supervised * supervision.loss(looked, log_probs, encoded.lengths, targets, lists)
        optimizer.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    made.eval()
    new = [word(Random(seed)) for seed in range(1000, 1100)]
    with torch.no_grad():
        assert share_read(made, top, new, [[text, word(Random(text))] for text in new]) > 0.8
        other = [text.replace("x", "?").replace("y", "x").replace("?", "y") for text in new]
        assert share_read(made, top, new, [[text] for text in other]) < 0.2  # it writes what the list says
        assert torch.equal(made(said(new), {}).values, made.encoder(said(new), {}).values)


def share_read(made: ContextualAdapter, top: ctc.Head, words: list[str], lists: list[list[str]]) -> float:
    encoded = made(said(words), {"phrases": lists})
    best = ctc.log_probs(top, encoded).argmax(-1)
    read = [
        top.vocabulary.decode(torch.unique_consecutive(row[:length]).tolist())
        for row, length in zip(best, encoded.lengths.tolist(), strict=True)
    ]
    return sum(one == text for one, text in zip(read, words, strict=True)) / len(words)
