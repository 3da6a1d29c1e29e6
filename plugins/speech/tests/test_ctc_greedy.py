"""Decoder `ctc-greedy`, against enumeration of all paths."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slt_speech.build_decoders import ctc_greedy
from slt_speech.config_decoders import CtcGreedyConfig
from slt_speech.ctc_greedy import CtcGreedy, greedy
from sltcore import ctc
from sltcore.ctc import ctc_loss, frames_needed, pad_labels
from sltcore.errors import PortError, ShapeError, StreamError, VocabularyError
from sltcore.plugin import Ports
from sltcore.types import Encoded, Hypothesis, NBest, Port, Targets
from sltcore.vocabulary import Vocabulary, characters, word_spans

ABC = Vocabulary(["<blank>", "a", "b", " "], kind="characters", blank=0, boundary=3)
UPSTREAM = Port("Encoded", {"d": 5})


def collapsed(path: tuple[int, ...], blank: int = 0) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def random_log_probs(*shape: int, seed: int = 0) -> torch.Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def text_probabilities(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """P of every label sequence, by enumerating all v ** t paths."""
    frames, labels = log_probs.shape
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(labels), repeat=frames):
        found[collapsed(path)] += math.exp(sum(float(log_probs[t, v]) for t, v in enumerate(path)))
    return found


def decoder(*, vocabulary: Vocabulary = ABC, d: int = 5, seed: int = 0) -> CtcGreedy:
    torch.manual_seed(seed)
    head = nn.Linear(d, len(vocabulary))
    with torch.no_grad():
        head.weight.mul_(4)
    return CtcGreedy(ctc.Head(head, vocabulary, d)).eval()


def flat(times: object) -> list[float]:
    return torch.tensor(times, dtype=torch.float64).flatten().tolist()


def encoded(*lengths: int, d: int = 5, seed: int = 1, junk: float = 0.0) -> Encoded:
    values = torch.randn(len(lengths), max(*lengths, 0, 0), d, generator=torch.Generator().manual_seed(seed))
    for row, length in enumerate(lengths):
        values[row, length:] = junk
    return Encoded(values, torch.tensor(lengths), 0.04, 0.02)


# --- decoding


@pytest.mark.parametrize("seed", range(20))
def test_decode_collapses_the_best_path(seed: int) -> None:
    log_probs = random_log_probs(3, 9, 4, seed=seed)
    lengths = torch.tensor([9, 4, 0])
    for row, nbest in enumerate(greedy(log_probs, lengths, ABC, frame_shift_s=0.04)):
        path = tuple(int(label) for label in log_probs[row, : lengths[row]].argmax(-1))
        assert nbest.best.tokens == collapsed(path)
        assert nbest.best.score == pytest.approx(float(log_probs[row, : lengths[row]].amax(-1).sum()), abs=1e-4)


def test_a_blank_keeps_equal_neighbours_apart() -> None:
    path = torch.tensor([[1, 1, 0, 1, 2, 2, 0, 0]])
    log_probs = nn.functional.one_hot(path, 4).float().mul(20).log_softmax(-1)
    best = greedy(log_probs, torch.tensor([8]), ABC, frame_shift_s=0.02)[0].best
    assert best.text == "aab"
    assert flat(best.extra["token_times"]) == pytest.approx([0.0, 0.03, 0.05, 0.07, 0.07, 0.11])  # i +- 1/2 frames


def test_times_cover_the_frames_a_token_won_and_scores_its_peak() -> None:
    log_probs = random_log_probs(1, 30, 4, seed=3)
    path = log_probs[0].argmax(-1).tolist()
    best = greedy(log_probs, torch.tensor([30]), ABC, frame_shift_s=0.04, offset_s=1.0)[0].best
    expected, frame = [], 0
    for label, group in itertools.groupby(path):
        count = len(list(group))
        if label:
            peak = float(log_probs[0, frame : frame + count, label].max())
            expected.append((1.0 + (frame - 0.5) * 0.04, 1.0 + (frame + count - 0.5) * 0.04, peak))
        frame += count
    assert flat(best.extra["token_times"]) == pytest.approx([time for row in expected for time in row[:2]])
    assert best.extra["token_scores"] == pytest.approx([row[2] for row in expected])


def test_score_is_the_sum_over_all_paths_of_a_text() -> None:
    part, x = decoder(), encoded(5, 4, 0)
    log_probs = part.log_probs(x).detach()
    lists = [
        NBest([Hypothesis("ab", tokens=(1, 2)), Hypothesis("a", tokens=(1,)), Hypothesis("")]),
        NBest([Hypothesis("b b")]),  # no tokens: spelled from the text
        NBest([Hypothesis(""), Hypothesis("a", tokens=(1,))]),
    ]
    scores = part.score(x, lists).detach()
    assert scores.shape == (3, 3)
    for row, (nbest, length) in enumerate(zip(lists, (5, 4, 0), strict=True)):
        exact = text_probabilities(log_probs[row, :length])
        for column, hypothesis in enumerate(nbest):
            p = exact.get(tuple(hypothesis.tokens or ABC.encode(hypothesis.text)), 0.0)
            assert float(scores[row, column]) == pytest.approx(math.log(p) if p else -math.inf, abs=1e-4)
    assert scores[1, 1:].tolist() == [-math.inf, -math.inf]


def test_best_path_never_beats_its_text() -> None:
    part, x = decoder(), encoded(12, 30, 1)
    found = part.decode(x, {})
    assert all(n.best.score <= s + 1e-4 for n, s in zip(found, part.score(x, found)[:, 0].tolist(), strict=True))


def test_no_frames_read_as_nothing() -> None:
    part = decoder()
    for x in (encoded(0, 3), encoded(0, 0), Encoded(torch.zeros(0, 4, 5), torch.zeros(0, dtype=torch.int64), 0.04)):
        found = part.decode(x, {})
        assert len(found) == len(x.lengths)
        assert all(
            n.best == Hypothesis("", 0.0, extra=n.best.extra) for n, t in zip(found, x.lengths, strict=True) if t == 0
        )


# --- words


@pytest.mark.parametrize(
    ("vocabulary", "tokens", "words"),
    [
        (ABC, (1, 2, 3, 3, 2), ("ab", "b")),
        (ABC, (3,), ()),
        (Vocabulary(["<b>", "▁he", "llo", "▁you"], kind="subwords"), (1, 2, 3), ("hello", "you")),
        (Vocabulary(["<b>", "k", "æ", "t", "<wb>"], kind="phones", boundary=4), (1, 2, 3, 4, 3), ("k æ t", "t")),
        (Vocabulary(["<b>", "k", "<unk>", "<wb>"], kind="phones", boundary=3, special=[2]), (2, 1, 3, 2), ("k",)),
        (Vocabulary(["<b>", "yes", "no"], kind="words"), (1, 2, 2), ("yes", "no", "no")),
        (Vocabulary(["<b>", "k", "æ"], kind="phones"), (1, 2), None),
    ],
)
def test_words_are_groups_of_labels(
    vocabulary: Vocabulary, tokens: tuple[int, ...], words: tuple[str, ...] | None
) -> None:
    spans = word_spans(tokens, vocabulary)
    if words is None:
        assert spans is None
    else:
        assert spans is not None
        assert tuple(vocabulary.decode(tokens[a:b]) for a, b in spans) == words


def test_word_times_run_from_first_to_last_token() -> None:
    path = torch.tensor([[0, 1, 2, 3, 0, 2, 2]])
    log_probs = nn.functional.one_hot(path, 4).float().mul(20).log_softmax(-1)
    best = greedy(log_probs, torch.tensor([7]), ABC, frame_shift_s=0.1)[0].best
    assert best.extra["words"] == ("ab", "b")
    assert flat(best.times) == pytest.approx([0.05, 0.25, 0.45, 0.65])


# --- loss


@pytest.mark.parametrize("target", [(), (1,), (1, 1), (2, 1, 2), (3, 3)])
def test_loss_is_minus_the_log_of_all_paths(target: tuple[int, ...]) -> None:
    part, x = decoder(), encoded(5, 4)
    ids = torch.full((2, 6), -7)  # padded with anything
    ids[:, : len(target)] = torch.tensor(target, dtype=torch.int64)
    loss = part.loss(x, Targets(ids, torch.tensor([len(target)] * 2)), {})
    log_probs = part.log_probs(x).detach()
    expected = [-math.log(text_probabilities(log_probs[row, :length])[target]) for row, length in enumerate((5, 4))]
    assert loss.tolist() == pytest.approx(expected, abs=1e-4)


def test_an_infeasible_target_has_loss_zero_and_no_gradient() -> None:
    part, x = decoder(), encoded(2, 6)
    targets = Targets(torch.tensor([[1, 1], [1, 1]]), torch.tensor([2, 2]))  # a a needs three frames
    assert frames_needed(*targets).tolist() == [3, 3]
    values = x.values.clone().requires_grad_()
    loss = part.loss(x._replace(values=values), targets, {})
    assert loss[0] == 0
    assert loss[1] > 0
    loss.sum().backward()
    assert values.grad is not None
    assert bool(values.grad.isfinite().all())
    assert not values.grad[0].any()
    assert ctc_loss(part.log_probs(x), x.lengths, targets, blank=0)[0] == math.inf


def test_loss_without_frames() -> None:
    part = decoder()
    loss = part.loss(encoded(0, 0), Targets(torch.tensor([[1], [0]]), torch.tensor([1, 0])), {})
    assert loss.tolist() == [0.0, 0.0]


def test_padding_never_leaks_not_even_nan() -> None:
    part, clean, dirty = decoder(), encoded(6, 3), encoded(6, 3, junk=math.nan)
    assert part.decode(clean, {}) == part.decode(dirty, {})
    targets = Targets(torch.tensor([[1, 2], [1, 2]]), torch.tensor([2, 2]))
    part.loss(dirty, targets, {}).sum().backward()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in part.parameters() if p.grad is not None)
    assert part.head.weight.grad is not None


def test_learns_a_text() -> None:
    part, x = decoder(), encoded(10)
    targets = pad_labels([ABC.encode("ab b")])
    parameters = list(part.parameters())
    for _ in range(60):
        gradients = torch.autograd.grad(part.loss(x, targets, {}).sum(), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.3 * gradient
    assert part.decode(x, {})[0].text == "ab b"


# --- streaming


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 1000))
def test_a_session_ends_with_the_offline_result(sizes: list[int], seed: int) -> None:
    part = decoder()
    x = encoded(sum(sizes), seed=seed)
    session, start = part.open({}), 0
    for size in sizes:
        said = session.push(x._replace(values=x.values[:, start : start + size], lengths=torch.tensor([size])))
        start += size
        if said is not None:
            so_far = x._replace(values=x.values[:, :start], lengths=torch.tensor([start]))
            assert said.best.tokens == part.decode(so_far, {})[0].best.tokens
    final, offline = session.finish().best, part.decode(x, {})[0].best
    assert (final.text, final.tokens) == (offline.text, offline.tokens)
    assert flat(final.times) == pytest.approx(flat(offline.times))
    assert final.score == pytest.approx(offline.score, abs=1e-3)
    assert final.extra["token_scores"] == pytest.approx(offline.extra["token_scores"], abs=1e-4)


def test_a_finished_session_is_refused() -> None:
    session = decoder().open({})
    session.push(encoded(3))
    session.finish()
    with pytest.raises(StreamError, match="finished already"):
        session.finish()
    with pytest.raises(StreamError, match="open another"):
        session.push(encoded(3))
    with pytest.raises(ShapeError, match="one utterance, got 2"):
        decoder().open({}).push(encoded(3, 3))


# --- building


def test_an_offered_head_comes_with_its_vocabulary() -> None:
    head = nn.Linear(5, 4)
    offers = {"encoder.head": head, "encoder.vocabulary": ABC, "encoder.base.vocabulary": characters(["xyz"])}
    part = ctc_greedy(CtcGreedyConfig(), Ports(upstream=UPSTREAM, offers=offers))
    assert part.head is head
    assert part.vocabulary == ABC
    assert part.offers()["head"] is head


def test_a_referenced_head_comes_with_the_vocabulary_beside_it() -> None:
    head = nn.Linear(5, 5)
    offers = {"encoder.head": nn.Linear(5, 4), "encoder.vocabulary": ABC}
    offers |= {"encoder.base.head": head, "encoder.base.vocabulary": characters(["xyz"])}
    part = ctc_greedy(CtcGreedyConfig(), Ports(upstream=UPSTREAM, slots={"head": head}, offers=offers))
    assert part.head is head
    assert part.vocabulary == characters(["xyz"])


def test_labels_of_its_own_get_a_head_of_its_own(tmp_path: Path) -> None:
    offers = {"encoder.head": nn.Linear(5, 4), "encoder.vocabulary": ABC}
    part = ctc_greedy(CtcGreedyConfig(characters="cab"), Ports(upstream=UPSTREAM, offers=offers))
    assert part.vocabulary.labels == ("<blank>", " ", "a", "b", "c")
    assert part.head.out_features == 5
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(ABC.to_dict()))
    assert ctc_greedy(CtcGreedyConfig(vocabulary=file), Ports(upstream=UPSTREAM)).vocabulary == ABC


def test_a_bundle_needs_the_vocabulary_file_no_more(tmp_path: Path) -> None:
    file = tmp_path / "gone.json"
    file.write_text(json.dumps(ABC.to_dict()))
    config = CtcGreedyConfig(vocabulary=file)
    first = ctc_greedy(config, Ports(upstream=UPSTREAM))
    file.unlink()
    for name, data in first.save_files().items():
        (tmp_path / name).write_bytes(data)
    assert ctc_greedy(config, Ports(upstream=UPSTREAM, folder=tmp_path)).vocabulary == ABC


def test_a_frozen_head_learns_nothing() -> None:
    part = ctc_greedy(CtcGreedyConfig(characters="ab", freeze_head=True), Ports(upstream=UPSTREAM))
    assert not any(p.requires_grad for p in part.parameters())


@pytest.mark.parametrize(
    ("config", "ports", "error", "match"),
    [
        ({}, Ports(upstream=UPSTREAM), VocabularyError, "has no labels: .* give one of the two"),
        ({"characters": "ab"}, Ports(upstream=Port("Encoded")), PortError, "width d of the encoder"),
        (
            {"vocabulary": "/nowhere/x.json"},
            Ports(upstream=UPSTREAM),
            VocabularyError,
            "there is no file /nowhere/x.json",
        ),
        ({}, Ports(upstream=UPSTREAM, slots={"head": 3}), PortError, "refers to a int"),
        (
            {},
            Ports(upstream=UPSTREAM, offers={"encoder.head": nn.Linear(6, 4), "encoder.vocabulary": ABC}),
            PortError,
            "6 features in, but the encoder's d are 5",
        ),
        (
            {},
            Ports(upstream=UPSTREAM, offers={"encoder.head": nn.Linear(5, 9), "encoder.vocabulary": ABC}),
            PortError,
            "9 features out, but the vocabulary's labels are 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused(config: dict[str, str], ports: Ports, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        ctc_greedy(CtcGreedyConfig(**config), ports)


def test_a_broken_vocabulary_file_is_named(tmp_path: Path) -> None:
    for text, match in (
        ("{", "is not a JSON file"),
        ("[]", "holds a list"),
        ('{"labels": []}', "lacks the field 'kind'"),
    ):
        file = tmp_path / "v.json"
        file.write_text(text)
        with pytest.raises(VocabularyError, match=match):
            ctc_greedy(CtcGreedyConfig(vocabulary=file), Ports(upstream=UPSTREAM))


def test_two_sources_of_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        CtcGreedyConfig(vocabulary="x.json", characters="ab")


def test_wrong_targets_and_shapes_are_refused() -> None:
    part = decoder()
    for wrong in (0, 4, -1):
        with pytest.raises(VocabularyError, match=f"target 0 has id {wrong} at position 1"):
            part.loss(encoded(6), Targets(torch.tensor([[1, wrong]]), torch.tensor([2])), {})
    with pytest.raises(ShapeError, match=r"expected \(b, t, d\) with d = 5"):
        part.decode(encoded(6, d=3), {})
    with pytest.raises(ShapeError, match="v = 4 labels"):
        greedy(torch.zeros(1, 2, 7), torch.tensor([2]), ABC, frame_shift_s=0.1)
