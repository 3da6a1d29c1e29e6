"""Searches, score and loss of decoder `rnnt`, against loops and against enumeration of label sequences and alignments."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from slt_speech.rnnt import greedy as greedy_module
from slt_speech.rnnt.beam import Beam
from slt_speech.rnnt.decoder import Rnnt
from slt_speech.rnnt.greedy import Greedy
from slt_speech.rnnt.joint import Joint
from slt_speech.rnnt.prediction import PredictionNetwork
from sltcore.errors import ShapeError, VocabularyError
from sltcore.types import Encoded, Hypothesis, NBest, Targets
from sltcore.vocabulary import Vocabulary

D = 5
KINDS = ("lstm", "stateless")


def vocabulary(v: int, blank: int = 0) -> Vocabulary:
    return Vocabulary([f"l{i}" for i in range(v)], kind="words", blank=blank)


def toy(v: int = 6, *, kind: Any = "lstm", scale: float = 4.0, bias: float = 0.0, seed: int = 0, **rest: Any) -> Rnnt:
    """A small transducer whose weights are large enough to have opinions."""
    torch.manual_seed(seed)
    blank = rest.pop("blank", 0)
    layers = rest.pop("layers", 1)
    prediction = PredictionNetwork(v, 7, kind=kind, layers=layers, blank=blank)
    joint = Joint(D, 7, 8, v)
    with torch.no_grad():
        joint.output.weight.mul_(scale)
        joint.output.bias[blank] += bias
    return Rnnt(prediction, joint, vocabulary(v, blank), **rest).eval()


def encoded(*lengths: int, seed: int = 1, junk: float = 0.0) -> Encoded:
    values = 2 * torch.randn(len(lengths), max(*lengths, 0, 0), D, generator=torch.Generator().manual_seed(seed))
    for row, length in enumerate(lengths):
        values[row, length:] = junk
    return Encoded(values, torch.tensor(lengths), 0.04, 0.02)


def copying(**settings: Any) -> Rnnt:
    """Weights by hand: it writes the label that a frame shows, unless that is the last one it has written."""
    model = toy(D, kind="stateless", seed=0, **settings)
    prediction, joint = PredictionNetwork(D, D, kind="stateless", context=1).eval(), Joint(D, D, D, D)
    eye = torch.eye(D)
    with torch.no_grad():
        for parameter in (*prediction.parameters(), *joint.parameters()):
            parameter.zero_()
        prediction.embedding.weight[1:] = eye[1:]
        assert prediction.mixing is not None
        prediction.mixing.weight[:, :, 0] = eye
        joint.encoder_projection.weight.copy_(2 * eye)
        joint.prediction_projection.weight.copy_(-2 * eye)
        joint.output.weight[1:] = 12 * eye[1:]
        joint.output.bias[0] = 5.0
    model.prediction, model.joint = prediction, joint
    return model


def cell(model: Rnnt, frame: Tensor, labels: tuple[int, ...]) -> Tensor:
    """ln P of the next label [v] float64, from the network as it is trained: the whole prefix at once."""
    with torch.no_grad():
        predicted = model.prediction(torch.tensor([labels], dtype=torch.int64).reshape(1, -1))[:, -1:]
        return model.joint(frame[None, None], predicted)[0, 0, 0].double().log_softmax(-1)


def plain_greedy(model: Rnnt, frames: Tensor, most: int) -> tuple[tuple[int, ...], float, list[int], float]:
    """Labels, score, frames of labels, and the least probability of a winner; frame by frame."""
    blank, labels, score, places, least = model.vocabulary.blank, (), 0.0, [], 1.0
    for t, frame in enumerate(frames):
        for count in itertools.count():
            log_probs = cell(model, frame, labels)
            best = blank if count == most else int(log_probs.argmax())
            score += float(log_probs[best])
            least = min(least, float(log_probs[best].exp()))
            if best == blank:
                break
            labels, places = (*labels, best), [*places, t]
    return labels, score, places, least


def cells(model: Rnnt, frames: Tensor, labels: tuple[int, ...]) -> list[list[list[float]]]:
    """ln P of every next label after every prefix in every frame: [t u+1 v]."""
    with torch.no_grad():
        predicted = model.prediction(torch.tensor([labels], dtype=torch.int64).reshape(1, -1))
        found: list[list[list[float]]] = model.joint(frames[None], predicted)[0].double().log_softmax(-1).tolist()
    return found


def sequence_log_prob(model: Rnnt, frames: Tensor, labels: tuple[int, ...], most: int | None = None) -> float:
    """ln of the sum over all alignments, with `most` labels in a frame, by listing how many labels each frame holds."""
    table = cells(model, frames, labels)
    total = 0.0
    limit = len(labels) if most is None else most
    for counts in itertools.product(range(limit + 1), repeat=len(frames)):
        if sum(counts) != len(labels):
            continue
        u, path = 0, 0.0
        for t, count in enumerate(counts):
            for _ in range(count):
                path += table[t][u][labels[u]]
                u += 1
            path += table[t][u][model.vocabulary.blank]
        total += math.exp(path)
    return math.log(total) if total else -math.inf


# --- greedy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ahead", [1, 3, 12])
def test_greedy_is_a_loop_over_frames(kind: Any, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy_module, "AHEAD", ahead)
    written = 0
    for seed in range(4):
        model = toy(kind=kind, seed=seed, bias=2.0, max_symbols=3)
        x = encoded(9, 0, 4, 13, seed=seed)
        for row, nbest in enumerate(model.decode(x, {})):
            frames = x.values[row, : x.lengths[row]]
            labels, score, places, _ = plain_greedy(model, frames, most=3)
            assert nbest.best.tokens == labels
            assert nbest.best.score == pytest.approx(score, abs=1e-4)
            starts = [start for start, _ in nbest.best.extra["token_times"]]
            assert starts == pytest.approx([max(0.0, 0.02 + (t - 0.5) * 0.04) for t in places])
            written += len(labels)
    assert written > 20  # else it says nothing


def test_a_frame_holds_no_more_labels_than_allowed() -> None:
    model = toy(bias=-100.0, max_symbols=4)
    found = model.decode(encoded(3), {})[0].best
    assert len(found.tokens) == 12
    assert len(set(found.extra["token_times"])) == 3


# --- beam


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blank", [0, 2])
def test_a_huge_beam_finds_every_sequence_with_its_probability(kind: Any, blank: int) -> None:
    for seed in range(2):
        model = toy(3, kind=kind, seed=seed, blank=blank, scale=2.0, search="beam", beam=200, n_best=200, max_symbols=2)
        x = encoded(3, 2, seed=seed)
        for row, nbest in enumerate(model.decode(x, {})):
            frames = x.values[row, : x.lengths[row]]
            labels = [label for label in range(3) if label != blank]
            every = {
                y: sequence_log_prob(model, frames, y, most=2)
                for u in range(2 * len(frames) + 1)
                for y in itertools.product(labels, repeat=u)
            }
            assert {one.tokens for one in nbest} == set(every)
            for one in nbest:
                assert one.score == pytest.approx(every[one.tokens], abs=1e-4)
            assert nbest.best.tokens == max(every, key=lambda y: every[y])
            assert math.log(sum(math.exp(one.score) for one in nbest)) < 1e-6


def test_a_beam_of_one_is_greedy_where_winners_are_sure() -> None:
    """Where every winner has probability c and at most n labels stand in a frame with c^(n+1) > 1 - c, no other path
    that leaves a frame is better, and no label beside the winner is as good as a blank."""
    model = copying(search="beam", beam=1)
    source = torch.Generator().manual_seed(0)
    compared = 0
    for _ in range(20):
        shown = torch.randint(0, D, (10,), generator=source)
        frames = torch.eye(D)[shown] * (shown > 0)[:, None] + 0.03 * torch.randn(10, D, generator=source)
        labels, score, places, least = plain_greedy(model, frames, most=10)
        most = max(places.count(t) for t in places)
        if least ** (most + 1) > 1 - least:
            found = model.decode(Encoded(frames[None], torch.tensor([10]), 0.04), {})[0].best
            assert found.tokens == labels
            assert found.score >= score - 1e-4
            compared += 1
    assert compared >= 15


def test_a_wider_beam_finds_no_worse() -> None:
    for seed in range(5):
        x = encoded(10, 7, seed=seed)
        scores = []
        for beam in (1, 4, 32, 128):
            model = toy(seed=seed, scale=2.0, search="beam", beam=beam, max_symbols=3)
            scores.append([nbest.best.score for nbest in model.decode(x, {})])
        assert all(a[row] <= b[row] + 1e-6 for a, b in zip(scores, scores[2:], strict=False) for row in range(2))


@pytest.mark.parametrize("search", ["greedy", "beam"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_utterances_and_padding_never_matters(search: Any, kind: Any) -> None:
    model = toy(kind=kind, bias=2.0, search=search, n_best=4 if search == "beam" else 1)
    lengths = (11, 0, 5, 1, 8)
    x, dirty = encoded(*lengths), encoded(*lengths, junk=math.nan)
    together, noisy = model.decode(x, {}), model.decode(dirty, {})
    for row, length in enumerate(lengths):
        alone = model.decode(Encoded(x.values[row : row + 1, :length], x.lengths[row : row + 1], 0.04, 0.02), {})[0]
        for nbest in (together[row], noisy[row]):
            assert [one.tokens for one in nbest] == [one.tokens for one in alone]
            assert [one.score for one in nbest] == pytest.approx([one.score for one in alone], abs=1e-4)
            assert [one.times for one in nbest] == [one.times for one in alone]


def test_dropping_what_is_not_needed_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for hardly more than the hypotheses, nodes and paths are renumbered all the time."""
    from slt_speech.rnnt import beam as beam_module

    model = toy(scale=2.0, search="beam", beam=5, n_best=5, max_symbols=3)
    x = encoded(40, 23, 31)
    roomy = model.decode(x, {})
    monkeypatch.setattr(beam_module, "SPARE_NODES", 8)
    monkeypatch.setattr(beam_module, "NODES_PER_HYPOTHESIS", 1)
    calls = 0
    original = Beam._make_room

    def counted(self: Beam) -> None:
        nonlocal calls
        calls += 1
        original(self)

    monkeypatch.setattr(Beam, "_make_room", counted)
    tight = model.decode(x, {})
    assert calls > 5
    for a, b in zip(roomy, tight, strict=True):
        assert [one.tokens for one in a] == [one.tokens for one in b]
        assert [one.score for one in a] == pytest.approx([one.score for one in b], abs=1e-4)
        assert [one.extra["token_times"] for one in a] == [one.extra["token_times"] for one in b]


def test_a_long_utterance_needs_room_for_its_text_only() -> None:
    model = toy(scale=3.0, bias=4.0, search="beam", beam=4)
    with torch.no_grad():
        search = Beam(model.prediction, model.joint, 1, blank=0, beam=4, max_symbols=10)
        for seed in range(20):
            x = encoded(100, seed=seed)
            search.push(x.values, x.lengths)
    text = len(search.found()[0][0].runs)
    assert search._pools[0].shape[1] <= 1024
    assert search._s.before.shape[1] <= max(1024, 4 * text)


# --- score and loss


@pytest.mark.parametrize("kind", KINDS)
def test_score_sums_over_all_alignments(kind: Any) -> None:
    model = toy(4, kind=kind, scale=2.0)
    x = encoded(3, 2)
    lists = [
        NBest(Hypothesis("", tokens=y) for y in ((1, 2, 1), (3,))),
        NBest([Hypothesis("l1 l2")]),  # spelled from its text
    ]
    scores = model.score(x, lists)
    assert scores.shape == (2, 2)
    assert float(scores[0, 0]) == pytest.approx(sequence_log_prob(model, x.values[0], (1, 2, 1)), abs=1e-4)
    assert float(scores[0, 1]) == pytest.approx(sequence_log_prob(model, x.values[0], (3,)), abs=1e-4)
    assert float(scores[1, 0]) == pytest.approx(sequence_log_prob(model, x.values[1, :2], (1, 2)), abs=1e-4)
    assert float(scores[1, 1]) == -math.inf


def test_no_search_scores_higher_than_all_alignments() -> None:
    for search in ("greedy", "beam"):
        model = toy(bias=2.0, search=search)
        x = encoded(12, 9)
        found = model.decode(x, {})
        assert all(
            nbest.best.score <= float(s) + 1e-4 for nbest, s in zip(found, model.score(x, found)[:, 0], strict=True)
        )


def test_loss_is_the_negative_score_and_reads_no_padding() -> None:
    model = toy(4, scale=2.0)
    x, dirty = encoded(3, 2, 0, 0), encoded(3, 2, 0, 0, junk=math.inf)
    targets = Targets(torch.tensor([[1, 2, 1], [3, -7, 99], [1, 1, 1], [0, 0, 0]]), torch.tensor([3, 1, 2, 0]))
    losses = model.loss(dirty, targets, {})
    assert losses.dtype == torch.float32
    expected = [
        -sequence_log_prob(model, x.values[0], (1, 2, 1)),
        -sequence_log_prob(model, x.values[1, :2], (3,)),
        0,
        0,
    ]
    assert losses.tolist() == pytest.approx(expected, abs=1e-4)
    losses.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.frames_needed(targets).tolist() == [1, 1, 1, 0]


def test_windows_that_hold_everything_give_the_full_loss() -> None:
    x = encoded(6, 4)
    targets = Targets(torch.tensor([[1, 2, 1], [3, 2, 0]]), torch.tensor([3, 2]))
    full, pruned = toy(4), toy(4, loss="pruned", window=4)
    pruned.load_state_dict(full.state_dict(), strict=False)
    simple = toy(4, loss="pruned", window=4)
    simple.load_state_dict(pruned.state_dict())
    both, plain = pruned.loss(x, targets, {}), full.loss(x, targets, {})
    with torch.no_grad():
        from slt_speech.rnnt.pruned import simple_rnnt_loss

        sums = pruned.simple_encoder(x.values), pruned.simple_prediction(pruned.prediction(targets.ids))  # type: ignore[misc]
        other = simple_rnnt_loss(*sums, targets.ids, x.lengths, targets.lengths).losses
    torch.testing.assert_close(both, plain + 0.5 * other, rtol=1e-4, atol=1e-4)


def test_the_pruned_loss_trains_every_parameter() -> None:
    model = toy(4, loss="pruned", window=2)
    x = encoded(2, 5)
    targets = Targets(torch.tensor([[1, 2, 1, 3, 1], [3, 2, 0, 0, 0]]), torch.tensor([5, 2]))
    losses = model.loss(x, targets, {})
    assert bool((losses > 0).all())  # five labels in two frames: the windows are widened
    losses.sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in model.parameters())


@pytest.mark.slow
def test_training_learns_to_write() -> None:
    model = toy(4, kind="stateless", scale=1.0)
    frames = torch.zeros(4, 6, D)
    texts = torch.tensor([[1, 2], [2, 3], [3, 1], [1, 3]])
    for row, (a, b) in enumerate(texts.tolist()):
        frames[row, 1, a], frames[row, 4, b] = 3.0, 3.0
    x = Encoded(frames, torch.full((4,), 6), 0.04)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(x, Targets(texts, torch.full((4,), 2)), {}).sum().backward()
        optimizer.step()
    assert [list(nbest.best.tokens) for nbest in model.decode(x, {})] == texts.tolist()


# --- bad input


def test_bad_input_is_refused() -> None:
    model = toy(4)
    wrong = Encoded(torch.zeros(1, 3, D + 1), torch.tensor([3]), 0.04)
    with pytest.raises(ShapeError, match=r"shape \(1, 3, 6\), expected \(b, t, d\) with d = 5"):
        model.decode(wrong, {})
    with pytest.raises(
        VocabularyError, match="target 0 has id 0 at position 1, expected one of the ids 0 to 3 except the"
    ):
        model.loss(encoded(3), Targets(torch.tensor([[1, 0]]), torch.tensor([2])), {})
    with pytest.raises(VocabularyError, match="target 0 has id 9"):
        model.score(encoded(3), [NBest([Hypothesis("", tokens=(9,))])])


def test_an_empty_batch_gives_an_empty_list() -> None:
    for search in ("greedy", "beam"):
        assert (
            toy(search=search).decode(Encoded(torch.zeros(0, 4, D), torch.zeros(0, dtype=torch.int64), 0.04), {}) == []
        )


def test_searches_leave_the_networks_as_they_are() -> None:
    model = toy(bias=2.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for search in (
            Greedy(model.prediction, model.joint, 2, blank=0, max_symbols=10),
            Beam(model.prediction, model.joint, 2, blank=0, beam=4, max_symbols=10),
        ):
            search.push(encoded(5, 3).values, torch.tensor([5, 3]))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
