"""Promises of objective `phone-ctc`: CTC against pronunciations, for utterances that can be said."""

from __future__ import annotations

import itertools
import logging
import math
from typing import Any

import pytest
import torch

from slt_ctc_personalization.phones.build_phones import phone_ctc, phone_set, phonemes
from slt_ctc_personalization.phones.config_phones import PhoneCtcConfig, PronunciationConfig
from slt_ctc_personalization.phones.g2p import Phonemes
from slt_ctc_personalization.phones.phone_ctc import PhoneCtc
from slt_ctc_personalization.phones.phone_head import PhoneHead, PhoneReader
from sltcore.errors import ContextError, DataError, PortError
from sltcore.interfaces import Encoder
from sltcore.plugin import Ports
from sltcore.testing.toys import ToyEncoder
from sltcore.types import Features, Port
from sltcore.vocabulary import Vocabulary

FEATURES = Port("Features", {"f": 4})
LEXICON = {"at": [["a", "t"]], "tat": [["t", "a", "t"]], "a": [["a"]]}
TINY = Vocabulary(["<b>", "a", "t"], kind="phones", blank=0)


def said(vocabulary: Vocabulary, language: str) -> Phonemes:
    return Phonemes.of("en", vocabulary, dictionary=LEXICON, voices=(), guess="hama")


def encoder(vocabulary: Vocabulary = TINY, *, frozen: bool = False) -> PhoneHead:
    torch.manual_seed(0)
    base = ToyEncoder(FEATURES)
    return PhoneHead(base, vocabulary, reader=PhoneReader(16, len(vocabulary)), frozen=frozen)


def batch(*lengths: int) -> Features:
    generator = torch.Generator().manual_seed(3)
    return Features(torch.randn(len(lengths), max(lengths), 4, generator=generator), torch.tensor(lengths), 0.01)


def test_the_loss_is_the_probability_of_the_pronunciation_over_all_alignments() -> None:
    base, x = encoder(), batch(4)
    found = PhoneCtc(said).loss(base, x, {"transcript": ["at"]}).detach()
    log_probs = base(x, {}).extra["phone_log_probs"][0].tolist()
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        collapsed = [label for place, label in enumerate(path) if label and (not place or path[place - 1] != label)]
        if collapsed == [1, 2]:
            total += math.exp(sum(log_probs[frame][label] for frame, label in enumerate(path)))
    assert float(found[0]) == pytest.approx(-math.log(total), abs=1e-5)


def test_what_cannot_be_learned_from_is_zero_with_zero_gradient() -> None:
    base, x = encoder(), batch(2, 6, 6, 6)
    found = PhoneCtc(said).loss(base, x, {"transcript": ["tat", "東京", None, "at"]})
    assert found[:3].tolist() == [0, 0, 0]  # too long, unspeakable, no transcript
    assert float(found[3].detach()) > 0
    found[:3].sum().backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in base.parameters() if p.grad is not None)


def test_a_head_alone_learns_the_phones_of_a_frozen_encoder() -> None:
    base, x = encoder(frozen=True), batch(8, 7, 6)
    objective = PhoneCtc(said)
    objective.check(base)
    context = {"transcript": ["at", "tat", "a"]}
    before = objective.loss(base, x, context).detach()
    trained = [parameter for parameter in base.parameters() if parameter.requires_grad]
    assert trained == list(base.phone_head.parameters())  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(trained, lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        objective.loss(base, x, context).sum().backward()
        optimizer.step()
    after = objective.loss(base, x, context).detach()
    assert bool((after < before).all())
    assert float(after.sum()) < 0.6 * float(before.sum())


def test_an_encoder_without_phones_is_refused_by_name() -> None:
    with pytest.raises(PortError, match="cannot train ToyEncoder, which offers no phone_vocabulary.*use: phone-head"):
        PhoneCtc(said).check(ToyEncoder(FEATURES))
    own = built(phones="cmu", d=9)
    with pytest.raises(PortError, match="cannot train ToyEncoder, whose output is 16 wide; its own head reads 9"):
        own.check(ToyEncoder(FEATURES))
    with pytest.raises(PortError, match="phones: cmu needs the width d of the encoder"):
        phone_ctc(PhoneCtcConfig(phones="cmu"), Ports())


def test_a_missing_transcript_says_how_to_feed_it() -> None:
    with pytest.raises(ContextError, match=r"got none; in a train spec write context: \{transcript: text\}"):
        PhoneCtc(said).loss(encoder(), batch(4), {})


def test_transcripts_that_cannot_be_said_are_named_before_training(caplog: pytest.LogCaptureFixture) -> None:
    objective = PhoneCtc(said)
    objective.learn_texts(["at a", "at 東京", "tat"])
    with caplog.at_level(logging.WARNING):
        objective.check(encoder())
    assert "1 of 3 transcripts are no part of the loss: '東京' is written in Cjk letters" in caplog.text
    with pytest.raises(DataError, match="none of 1 transcripts can be pronounced"):
        objective.learn_texts(["東京"])


def built(*, phones: str, d: int = 16) -> PhoneCtc:
    return phone_ctc(PhoneCtcConfig(phones=phones), Ports(upstream=Port("Encoded", {"d": d})))


def test_as_an_auxiliary_loss_it_has_a_head_of_its_own() -> None:
    objective, base = built(phones="cmu"), ToyEncoder(FEATURES)
    objective.check(base)
    losses = objective.loss(base, batch(30, 20), {"transcript": ["window", "the cat"]})
    losses.sum().backward()
    grads: list[Any] = [p.grad for part in (base, objective) for p in part.parameters()]
    assert all(grad is not None and float(grad.abs().sum()) > 0 for grad in grads)
    with pytest.raises(PortError, match="a head of its own needs its phones"):
        PhoneCtc(said, reader=PhoneReader(4, 3))


def test_a_lexicon_that_is_nowhere_is_named(tmp_path: Any) -> None:
    config = PronunciationConfig(lexicon_file=tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"lexicon_file: there is no file .*none.txt"):
        phonemes(config, phone_set("cmu"), language="en")


def test_the_language_is_that_of_the_phone_head() -> None:
    asked: list[str] = []

    def make(vocabulary: Vocabulary, language: str) -> Phonemes:
        asked.append(language)
        return said(vocabulary, language)

    torch.manual_seed(0)
    base: Encoder = PhoneHead(ToyEncoder(FEATURES), TINY, reader=PhoneReader(16, 3), language="cs")
    PhoneCtc(make).check(base)
    assert asked == ["cs"]
