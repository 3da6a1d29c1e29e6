"""Audits of `privacy: dp-sgd`: what canaries prove lies below the account, and shows a mechanism that is broken."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pate_models import pipeline, utterance
from torch import nn

from slt_pate.attacks.audit import LowerBound
from slt_pate.attacks.canaries import audit_one_run, audit_two_worlds, mislabelled, random_transcripts
from slt_pate.attacks.pipelines import pipeline_losses
from slt_pate.dp_sgd import clipped_sum
from slt_pate.dp_sgd_component import DpSgd, Sampling
from slt_pate.rows import text_of
from slt_pate.settings import Protection
from sltcore.errors import DataError, PrivacyError

CANARIES = 1500
DELTA = 1e-5


class Places(nn.Module):
    """A weight for each canary, which is also its loss: the gradient of a canary is its own direction, the worst case."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(CANARIES))


def fit(data: Any, *, sampler: Any, gradient: Any) -> Places:
    model = Places()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for batch in sampler:
        optimizer.zero_grad()
        gradient(model, 5.0 * model.weight[[data[place]["place"] for place in batch]])
        optimizer.step()
    return model


def losses(model: Places, rows: Any) -> Any:
    return model.weight.detach().numpy()[[row["place"] for row in rows]]


def canary(place: int, utterances: int = 1) -> list[dict[str, Any]]:
    return [{"id": f"c{place}-{k}", "speaker": f"s{place}", "place": place} for k in range(utterances)]


def mechanism(*, noise: float, unit: str = "speaker", steps: int = 1, rate: float = 1.0) -> DpSgd:
    return DpSgd(Protection(1e4, DELTA, unit), Sampling(steps, rate, 1000), noise=noise)


def bound_of(part: DpSgd, *, utterances: int = 1) -> LowerBound:
    """What one run proves; every canary brings so many utterances, all of them or none."""
    firsts = [canary(place)[0] for place in range(CANARIES)]

    def train(rows: Any) -> Any:
        return part.train(fit, [one for row in rows for one in canary(row["place"], utterances)], [])

    run = audit_one_run(train, losses, [], firsts, rng=np.random.default_rng(3))
    assert 0.4 < run.is_in.mean() < 0.6
    return run.lower_bound(delta=DELTA)


@pytest.mark.parametrize(("noise", "steps", "rate"), [(1.0, 1, 1.0), (2.5, 1, 1.0), (1.0, 4, 0.5)])
def test_one_run_proves_less_than_the_accountant_allows(noise: float, steps: int, rate: float) -> None:
    part = mechanism(noise=noise, steps=steps, rate=rate)
    bound = bound_of(part).epsilon
    allowed = part.spent(DELTA).epsilon
    assert 0.15 * allowed < bound < allowed


def test_an_audit_finds_noise_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    original = clipped_sum.whole_gaussian
    monkeypatch.setattr(clipped_sum, "whole_gaussian", lambda sigma, *rest: original(sigma / 8, *rest))
    part = mechanism(noise=4.0)
    assert bound_of(part).epsilon > part.spent(DELTA).epsilon


def test_speakers_with_many_utterances_are_protected_by_the_unit_speaker_alone() -> None:
    """Eight utterances of a speaker, clipped one by one, move the sum eight times as far as the account of one says."""
    by_speaker, by_utterance = mechanism(noise=4.0), mechanism(noise=4.0, unit="utterance")
    assert bound_of(by_speaker, utterances=8).epsilon < by_speaker.spent(DELTA).epsilon
    assert bound_of(by_utterance, utterances=8).epsilon > by_utterance.spent(DELTA).epsilon


@pytest.mark.slow
def test_two_worlds_bound_the_mechanism_from_below() -> None:
    part = mechanism(noise=1.0)
    part.train(fit, canary(1), [])
    allowed = part.spent(DELTA).epsilon

    def train(rows: Any) -> Any:
        return mechanism(noise=1.0).train(fit, rows, [])

    bound = audit_two_worlds(train, losses, canary(1), canary(0)[0], runs=300, delta=DELTA)
    assert 0.3 < bound.epsilon < allowed


def test_random_transcripts_are_different_and_of_the_letters_given() -> None:
    found = random_transcripts(200, characters="abca", length=6, rng=np.random.default_rng(0))
    assert len(set(found)) == 200
    assert {len(text) for text in found} == {6}
    assert set("".join(found)) == set("abc")
    with pytest.raises(PrivacyError, match="3 characters make no 28 different texts of length 3"):
        random_transcripts(28, characters="abc", length=3, rng=np.random.default_rng(0))


def test_mislabelled_recordings_keep_all_but_their_text(tmp_path: Path) -> None:
    row = utterance(tmp_path, "x", "ab", speaker="ann")
    (made,) = mislabelled([row], ["cd"])
    assert (text_of(made), made.item.source, made.item.speaker) == ("cd", row.item.source, "ann")
    with pytest.raises(ValueError, match="shorter"):
        mislabelled([row], [])


# Losses of pipelines


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_losses_of_a_pipeline_are_those_of_each_row_alone(tmp_path: Path, batch: int) -> None:
    model = pipeline({"use": "ctc-greedy"})
    texts = ["ab", "cdab", "d", "acbd", "bab"]
    rows = [utterance(tmp_path, f"r{k}", text) for k, text in enumerate(texts)]
    found = pipeline_losses(model, rows, batch=batch)
    decoder, encoder = model.parts["decoder"], model.parts["encoder"]
    for value, row, text in zip(found, rows, texts, strict=True):
        with torch.inference_mode(), model.using({}):
            encoded = encoder(model.batch([model.read(row.item)]), {})
            log_probs = decoder.head(encoded.values).log_softmax(-1).transpose(0, 1)
            ids = torch.tensor([[decoder.vocabulary.id(letter) for letter in text]])
            expected = nn.functional.ctc_loss(
                log_probs,
                ids,
                encoded.lengths,
                torch.tensor([len(text)]),
                blank=decoder.vocabulary.blank,
                reduction="none",
            )
        assert value == pytest.approx(float(expected[0]), rel=1e-4)
    by_label = pipeline_losses(model, rows, per_label=True)
    np.testing.assert_allclose(by_label * [len(text) for text in texts], found, rtol=1e-5)


def test_a_text_too_long_for_its_frames_costs_infinity_and_none_is_refused(tmp_path: Path) -> None:
    model = pipeline({"use": "ctc-greedy"})
    row = utterance(tmp_path, "x", "ab")
    assert pipeline_losses(model, mislabelled([row], ["abcd" * 40]))[0] == math.inf
    with pytest.raises(DataError, match=r"utterance 'y' has no text, so it has no loss"):
        pipeline_losses(model, [utterance(tmp_path, "y", "ab", shown=False)])
    with pytest.raises(PrivacyError, match="a Places has no decoder with a loss"):
        pipeline_losses(Places(), [row])
