"""Decoder `classifier`, against closed forms of its poolings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slt_speech.build_decoders import classifier
from slt_speech.classifier import Classifier, Pooling
from slt_speech.config_decoders import ClassifierConfig
from sltcore.errors import PortError, ShapeError, StreamError, VocabularyError
from sltcore.plugin import Ports
from sltcore.types import Encoded, Hypothesis, NBest, Port, Targets

POOLINGS: tuple[Pooling, ...] = ("mean", "attention", "max", "last")
LABELS = ("go", "stop", "wait")


def make(pooling: Pooling, *, d: int = 6) -> Classifier:
    torch.manual_seed(0)
    return Classifier(d, LABELS, pooling=pooling).eval()


def encoded(*lengths: int, d: int = 6, seed: int = 1, junk: float = 0.0) -> Encoded:
    values = 2 * torch.randn(len(lengths), max(*lengths, 0, 0), d, generator=torch.Generator().manual_seed(seed))
    for row, length in enumerate(lengths):
        values[row, length:] = junk
    return Encoded(values, torch.tensor(lengths), 0.04)


def pooled(part: Classifier, frames: torch.Tensor) -> torch.Tensor:
    """The definition, for one utterance [t d]."""
    if not len(frames):
        return torch.zeros(part.d)
    if part.pooling == "mean":
        return frames.mean(0)
    if part.pooling == "max":
        return frames.max(0).values
    if part.pooling == "last":
        return frames[-1]
    assert part.query is not None
    return part.query(frames).softmax(0).mul(frames).sum(0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_log_probs_are_those_of_the_pooled_frames(pooling: Pooling) -> None:
    part, x = make(pooling), encoded(7, 1, 0, 4)
    expected = [part.head(pooled(part, x.values[row, :n])).log_softmax(-1) for row, n in enumerate((7, 1, 0, 4))]
    torch.testing.assert_close(part.log_probs(x), torch.stack(expected))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_never_leaks_not_even_nan(pooling: Pooling) -> None:
    part, dirty = make(pooling), encoded(7, 1, 0, junk=math.nan)
    torch.testing.assert_close(part.log_probs(encoded(7, 1, 0)), part.log_probs(dirty))
    part.loss(dirty, Targets(torch.tensor([[0], [1], [2]]), torch.tensor([1, 1, 1])), {}).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in part.parameters())


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 5), max_size=8), seed=st.integers(0, 99))
def test_a_session_ends_with_the_offline_result(pooling: Pooling, sizes: list[int], seed: int) -> None:
    part, x = make(pooling), encoded(sum(sizes), seed=seed)
    session, start = part.open({}), 0
    for size in sizes:
        said = session.push(x._replace(values=x.values[:, start : start + size], lengths=torch.tensor([size])))
        start += size
        assert (said is None) == (size == 0)
    final, offline = session.finish(), part.decode(x, {})[0]
    assert [h.text for h in final] == [h.text for h in offline]
    assert [h.score for h in final] == pytest.approx([h.score for h in offline], abs=1e-4)
    with pytest.raises(StreamError, match="finished"):
        session.push(x)


def test_attention_survives_large_logits() -> None:
    part = make("attention")
    x = encoded(5)
    x = x._replace(values=x.values * 1e4)
    torch.testing.assert_close(part.log_probs(x)[0], part.head(pooled(part, x.values[0])).log_softmax(-1))


def test_nbest_is_sorted_and_sums_to_one() -> None:
    part = make("mean")
    for nbest in part.decode(encoded(5, 3, 0), {}):
        assert [h.score for h in nbest] == sorted((h.score for h in nbest), reverse=True)
        assert {h.text for h in nbest} == set(LABELS)
        assert sum(math.exp(h.score) for h in nbest) == pytest.approx(1)
        assert all(part.vocabulary.labels[h.tokens[0]] == h.text for h in nbest)
    assert len(Classifier(6, LABELS, n_best=2).decode(encoded(5), {})[0]) == 2


def test_loss_and_score_are_the_log_probability_of_the_class() -> None:
    part, x = make("mean"), encoded(5, 3)
    expected = part.log_probs(x).detach()
    loss = part.loss(x, Targets(torch.tensor([[2], [0]]), torch.tensor([1, 1])), {})
    assert loss.tolist() == pytest.approx([-float(expected[0, 2]), -float(expected[1, 0])])
    scores = part.score(x, [NBest([Hypothesis("stop"), Hypothesis("go")]), NBest([Hypothesis("wait")])])
    assert scores[0].tolist() == pytest.approx([float(expected[0, 1]), float(expected[0, 0])])
    assert scores[1].tolist() == [pytest.approx(float(expected[1, 2])), -math.inf]


def test_classes_spell_themselves() -> None:
    vocabulary = make("mean").vocabulary
    assert [vocabulary.encode(label) for label in LABELS] == [[0], [1], [2]]
    assert [vocabulary.decode([i]) for i in range(3)] == list(LABELS)
    with pytest.raises(VocabularyError, match="no label 'run'"):
        vocabulary.encode("run")


def test_bad_input_is_refused_in_one_line() -> None:
    part, x = make("mean"), encoded(5)
    with pytest.raises(ShapeError, match="target 0 has 2 labels, a classifier needs exactly one"):
        part.loss(x, Targets(torch.tensor([[1, 1]]), torch.tensor([2])), {})
    with pytest.raises(VocabularyError, match="id 3, expected 0 to 2: go, stop, wait"):
        part.loss(x, Targets(torch.tensor([[3]]), torch.tensor([1])), {})
    with pytest.raises(ShapeError, match="d = 6"):
        part.decode(encoded(5, d=4), {})
    with pytest.raises(VocabularyError, match="'turn on' must be one word"):
        Classifier(4, ("turn on", "off"))
    with pytest.raises(VocabularyError, match="at least two labels"):
        Classifier(4, ("on",))
    with pytest.raises(VocabularyError, match="labels repeat: 'on'"):
        Classifier(4, ("on", "on"))
    with pytest.raises(PortError, match="width d of the encoder before it, but before it stands nothing"):
        classifier(ClassifierConfig(), Ports())
    session = part.open({})
    session.finish()
    with pytest.raises(StreamError, match="finished already"):
        session.finish()
    with pytest.raises(ShapeError, match="one utterance, got 2"):
        part.open({}).push(encoded(2, 2))


def test_the_builder_takes_the_width_of_the_encoder() -> None:
    part = classifier(ClassifierConfig(labels=LABELS, pooling="attention"), Ports(upstream=Port("Encoded", {"d": 9})))
    assert part.consumes == Port("Encoded", {"d": 9})
    assert part.decode(encoded(4, d=9), {})[0].text in LABELS
