"""Queries on sequences: what teachers say of single tokens is exact, votes hold the right classes, and nothing private
chooses what is asked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pate_models import CtcTable, Model, Sayer, StepTable, item, pipeline, tone

from slt_pate.next_token import CtcPrefixes, encode, prefixes
from slt_pate.queries import (
    CandidateList,
    PublicModel,
    Question,
    RoverVote,
    SlotVote,
    TokenVote,
    TranscriptVote,
    mark_private,
    utterances_of,
)
from slt_pate.queries.design import NOTHING
from slt_pate.queries.rover_vote import fill
from slt_pate.queries.slot_vote import one_label_scores
from slt_pate.shards import make_shards
from sltcore.bundle import save_bundle
from sltcore.data.examples import Example, fingerprint
from sltcore.errors import DataError, PrivacyError, VocabularyError
from sltcore.types import Hypothesis, Item, NBest


class Plain:
    """Asks without noise, and remembers what it was asked."""

    def __init__(self, refuse: Sequence[str] = ()) -> None:
        self.questions: list[Question] = []
        self.refuse = refuse

    def __call__(self, questions: Sequence[Question]) -> Any:
        self.questions += questions
        return np.array([NOTHING if one.key in self.refuse else int(one.votes().argmax()) for one in questions])

    @property
    def keys(self) -> list[str]:
        return [one.key for one in self.questions]


def collapsed(path: Sequence[int], blank: int) -> tuple[int, ...]:
    return tuple(
        label for place, label in enumerate(path) if label != blank and (not place or label != path[place - 1])
    )


def test_ctc_prefixes_agree_with_all_paths() -> None:
    """Brute force over 3^4 and 3^3 paths."""
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(2, 4, 3, generator=generator).double().log_softmax(-1)
    lengths = torch.tensor([4, 3])
    for labels in ((1,), (2, 2), (1, 2, 1), (1, 1)):
        running = CtcPrefixes(log_probs, lengths, 0)
        for place in range(len(labels) + 1):
            found = running.log_probs().exp()
            assert torch.allclose(found.sum(-1), torch.ones(2).double())
            for row, length in enumerate(lengths.tolist()):
                expected = np.zeros(3)
                for path in itertools.product(range(3), repeat=length):
                    text = collapsed(path, 0)
                    if text[:place] == labels[:place]:
                        mass = float(log_probs[row, range(length), list(path)].sum().exp())
                        expected[text[place] if len(text) > place else 0] += mass
                if expected.sum() > 0:
                    assert found[row].numpy() == pytest.approx(expected / expected.sum(), abs=1e-10)
            if place < len(labels):
                running.advance(torch.tensor([labels[place]] * 2))


@pytest.mark.parametrize(
    "decoder", [{"use": "rnnt"}, {"use": "rnnt", "prediction": "stateless"}, {"use": "ctc-greedy"}]
)
def test_label_by_label_probabilities_multiply_to_the_decoders_own_score(decoder: dict[str, Any]) -> None:
    model = pipeline(decoder, seed=3)
    sounds = [tone("ab", 1), tone("dcba", 2)]
    part = model.parts["decoder"]
    text = part.vocabulary.encode("abba")
    with torch.inference_mode():
        encoded = encode(model, [model.read(Item(str(k), (sound, 8000))) for k, sound in enumerate(sounds)])
        score = part.score(encoded, [NBest([Hypothesis("abba", 0.0, tuple(text))])] * 2)[:, 0].double()
        running, total = prefixes(model, encoded), torch.zeros(2).double()
        for token in [*text, None]:
            table = running.log_probs()
            assert torch.allclose(table.exp().sum(-1), torch.ones(2).double())
            total += table[:, running.end if token is None else token]
            if token is not None:
                running.advance(torch.tensor([token, token]))
    assert total.numpy() == pytest.approx(score.numpy(), abs=2e-3)


def test_the_step_interface_gives_its_own_distribution() -> None:
    table = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    model = Model(StepTable(table))
    running = prefixes(model, encode(model, [None, None]))
    assert running.end == 2
    assert torch.allclose(running.log_probs(), table[1].double().log_softmax(-1).expand(2, 5))
    running.advance(torch.tensor([3, 4]))
    assert torch.allclose(running.log_probs()[1], table[4].double().log_softmax(-1))


def test_a_step_decoder_without_an_end_is_refused() -> None:
    decoder = StepTable(torch.zeros(5, 5))
    decoder.labels = type(decoder.labels)(["<pad>", "<s>", "x", "y", "z"], kind="characters", blank=0)
    model = Model(decoder)
    with pytest.raises(VocabularyError, match=r"has no label that ends a text; .* needs one of </s>, <eos>"):
        prefixes(model, encode(model, [None]))


def certain(successors: dict[int, int]) -> StepTable:
    """A step decoder that is sure of what follows each label."""
    table = torch.full((5, 5), -20.0)
    for before, after in successors.items():
        table[before, after] = 20.0
    return StepTable(table)


def test_token_votes_fix_the_prefix_by_released_tokens() -> None:
    """Two teachers say x y, one says y x; behind the released x the third is asked about x, not about its own y."""
    two = certain({1: 3, 3: 4, 4: 2})
    third = certain({1: 4, 4: 3, 3: 2})
    ask = Plain()
    texts = TokenVote(max_tokens=5).label([Model(two), Model(two), Model(third), None], utterances_of([item("u")]), ask)
    assert texts == ["xy"]
    assert ask.keys == ["u/0", "u/1", "u/2"]
    assert [one.votes().tolist() for one in ask.questions] == [[0, 0, 0, 2, 1], [0, 0, 1, 0, 2], [0, 0, 2, 1, 0]]
    assert np.isnan(ask.questions[0].scores[3]).all()


def test_a_text_that_does_not_end_is_given_up_after_max_tokens() -> None:
    ask = Plain()
    endless = certain({1: 3, 3: 3})
    assert TokenVote(max_tokens=4).label([Model(endless)], utterances_of([item("u")]), ask) == [None]
    assert len(ask.keys) == 5 == TokenVote(max_tokens=4).most_queries(1)


def test_where_no_answer_comes_the_public_model_continues_or_the_utterance_is_dropped() -> None:
    teacher = Model(certain({1: 3, 3: 4, 4: 2}))
    public = PublicModel(Model(certain({1: 4, 3: 3, 4: 2})), "a test")
    refused = Plain(refuse=["u/1"])
    continued = TokenVote(max_tokens=5, unsure="public", public=public).label(
        [teacher], utterances_of([item("u")]), refused
    )
    assert continued == ["xxy"]
    dropped = Plain(refuse=["u/1"])
    assert TokenVote(max_tokens=5).label([teacher], utterances_of([item("u")]), dropped) == [None]
    assert dropped.keys == ["u/0", "u/1"]


def test_token_votes_of_models_with_other_labels_are_refused() -> None:
    with pytest.raises(PrivacyError, match=r"different labels, 5 and 4 of them; expected the same vocabulary"):
        TokenVote().label(
            [Model(certain({})), Model(CtcTable(), lambda _: torch.zeros(2, 4))], utterances_of([item("u")]), Plain()
        )


@pytest.mark.parametrize("decoder", [{"use": "rnnt"}, {"use": "ctc-greedy"}])
def test_token_votes_work_on_real_pipelines_and_batches_change_nothing(decoder: dict[str, Any]) -> None:
    teachers = [pipeline(decoder, seed=seed) for seed in range(3)]
    rows = [Item(f"u{k}", (tone("abcd"[: k + 1], k), 8000)) for k in range(3)]
    alone, together = Plain(), Plain()
    one = TokenVote(max_tokens=3, batch=1).label(teachers, utterances_of(rows), alone)
    assert TokenVote(max_tokens=3, batch=8).label(teachers, utterances_of(rows), together) == one
    by_key = {one.key: one.scores for one in alone.questions}
    assert {one.key for one in together.questions} == set(by_key)
    for question in together.questions:
        assert question.scores == pytest.approx(by_key[question.key], abs=1e-3)


def test_the_scores_of_a_slot_agree_with_all_paths() -> None:
    frames = torch.randn(4, 3, generator=torch.Generator().manual_seed(5)).double().log_softmax(-1)
    expected = np.zeros(3)
    for path in itertools.product(range(3), repeat=4):
        text = collapsed(path, 0)
        if len(text) < 2:
            expected[text[0] if text else 0] += float(frames[range(4), list(path)].sum().exp())
    assert np.exp(one_label_scores(frames, 0)) == pytest.approx(expected, abs=1e-12)


def logits(text: str) -> torch.Tensor:
    """Frames that say the characters of a text, '-' for the blank; labels: blank, space, a, b."""
    frames = torch.zeros(len(text), 4)
    for row, letter in zip(frames, text, strict=True):
        row["- ab".index(letter)] = 8.0
    return frames


def test_slots_come_from_the_public_alignment_and_teachers_fill_them() -> None:
    public = PublicModel(Model(CtcTable(), lambda _: logits("-a--bb--")), "a test")
    teachers = [Model(CtcTable(), lambda _, text=text: logits(text)) for text in ("-a---b--", "-a--a---", "-a--a---")]
    design, ask, rows = SlotVote(public), Plain(), utterances_of([item("u")])
    assert design.count(rows) == 2
    (first, second) = design.slots_of(rows)[0]
    assert (first.start_s, first.stop_s, second.stop_s) == pytest.approx((-0.02, 0.1, 0.3))
    assert design.label([*teachers, None], rows, ask) == ["aa"]
    assert [one.votes().tolist() for one in ask.questions] == [[0, 0, 3, 0], [0, 0, 2, 1]]


def test_frames_as_slots_are_collapsed_after_the_vote() -> None:
    public = PublicModel(Model(CtcTable(), lambda _: logits("aa-b")), "a test")
    teacher = Model(CtcTable(), lambda _: logits("ab-b"))
    ask = Plain()
    assert SlotVote(public, slots="frames").label([teacher], utterances_of([item("u")]), ask) == ["abb"]
    assert len(ask.questions) == 4
    unsure = SlotVote(public, slots="frames", unsure="public")
    assert unsure.label([teacher], utterances_of([item("u")]), Plain(refuse=["u/1"])) == ["ab"]


def test_transcripts_are_voted_on_by_score_and_by_n_best_list() -> None:
    rows = utterances_of([item("u"), item("v")])
    source = PublicModel(Sayer({"u": ["go on", "go off", " "], "v": ["stop"]}), "a test")
    design, ask = TranscriptVote(source), Plain()
    assert design.count(rows) == 1
    says = [Sayer({"u": texts, "v": ["stop"]}) for texts in (["go", "go off"], ["go off"], ["go on"], ["what"])]
    assert design.label([*says, None], rows, ask) == ["go off", "stop"]
    assert ask.questions[0].votes().tolist() == [1, 2]
    assert ask.keys == ["u"]


def test_candidates_are_scored_by_decoders_that_have_a_score() -> None:
    model = pipeline({"use": "ctc-greedy"}, seed=1)
    row = Item("u", (tone("ab", 1), 8000))
    ask = Plain()
    TranscriptVote(CandidateList(("ab", "cd", "a"))).label([model], utterances_of([row]), ask)
    with torch.inference_mode():
        encoded = encode(model, [model.read(row)])
        expected = model.parts["decoder"].score(encoded, [NBest(Hypothesis(text) for text in ("ab", "cd", "a"))])
    assert ask.questions[0].scores[0] == pytest.approx(expected[0].numpy(), abs=1e-5)


def test_candidates_are_scored_label_by_label_without_a_score() -> None:
    decoder = StepTable(torch.randn(5, 5, generator=torch.Generator().manual_seed(2)))
    ask = Plain()
    TranscriptVote(CandidateList(("xy", "y"))).label([Model(decoder)], utterances_of([item("u")]), ask)
    table = decoder.table
    expected = [float(table[1, 3] + table[3, 4] + table[4, 2]), float(table[1, 4] + table[4, 2])]
    assert ask.questions[0].scores[0] == pytest.approx(expected)


def test_the_slots_of_an_alignment() -> None:
    assert fill(["the", "cat"], ["the", "black", "cat"]) == ["", "the", "black", "cat", ""]
    assert fill(["the", "cat"], ["cat"]) == ["", "", "", "cat", ""]
    assert fill([], ["a", "b"]) == ["a b"]


def test_rover_slots_come_from_the_public_list_and_strange_words_abstain() -> None:
    source = PublicModel(Sayer({"u": ["a cat sat", "a hat sat", "a cat sat down"]}), "a test")
    rows, ask = utterances_of([item("u")]), Plain()
    says = [Sayer({"u": [text]}) for text in ("a hat sat down", "hat sat down", "a rat sat")]
    design = RoverVote(source)
    assert design.count(rows) == 2
    assert design.label(says, rows, ask) == ["a hat sat down"]
    assert [one.votes().tolist() for one in ask.questions] == [[0, 2], [1, 2]]
    assert design.label(says, rows, Plain(refuse=["u/3"])) == [None]
    kept = RoverVote(source, unsure="public").label(says, rows, Plain(refuse=["u/3"]))
    assert kept == ["a cat sat down"]


@pytest.mark.parametrize(
    "make", [SlotVote, TranscriptVote, RoverVote, lambda source: TokenVote(unsure="public", public=source)]
)
def test_a_private_source_is_refused(make: Any) -> None:
    with pytest.raises(PrivacyError, match=r"from a Sayer, of which nothing shows that it saw no private data"):
        make(Sayer({}))


def test_a_teacher_is_no_public_model() -> None:
    teacher = Sayer({})
    mark_private(teacher)
    with pytest.raises(PrivacyError, match=r"the Sayer that is to be a public source was trained on private data"):
        PublicModel(teacher, "a claim")


def test_a_public_model_that_learned_from_a_private_unit_is_refused() -> None:
    private = [Item("p0", "p0.wav", "a", "ann"), Item("p1", "p1.wav", "b", "bob")]
    shards = make_shards(private, 2, unit="speaker")
    model = PublicModel.trained(lambda rows: Sayer({}), [Item("q0", "q0.wav", "a", "bob")])
    with pytest.raises(
        PrivacyError, match=r"public utterance 'q0' has the speaker 'bob', which is in the private data too"
    ):
        model.verify(shards, private)
    with pytest.raises(PrivacyError, match=r"no public utterance has a text, so there is no public model"):
        PublicModel.trained(lambda rows: Sayer({}), [])


def test_a_bundle_of_public_data_is_a_public_model(tmp_path: Path) -> None:
    private = [Example(Item("p0", "p0.wav", "a", "ann"), 1.0)]
    shards = make_shards(private, 2, unit="speaker")
    model = pipeline({"use": "ctc-greedy"})
    plain = PublicModel.from_bundle(save_bundle(model, tmp_path / "plain"))
    plain.verify(shards, private)
    assert plain.origin == "bundle plain, of whose training nothing is recorded"
    facts = {"data": "corpus calls", "steps": 3, "fingerprint": fingerprint(private)}
    known = PublicModel.from_bundle(save_bundle(model, tmp_path / "known", training=facts))
    with pytest.raises(
        PrivacyError, match=r"\(bundle known, trained on corpus calls\) was trained on the private data"
    ):
        known.verify(shards, private)


def test_every_design_states_unit_sensitivity_and_number() -> None:
    public = PublicModel(Sayer({}), "bundle base")
    for design in (TokenVote(max_tokens=9), SlotVote(public), TranscriptVote(public), RoverVote(public)):
        statement = design.statement()
        assert "one teacher's shard" in statement.sensitivity
        assert "sqrt(2) in L2" in statement.sensitivity
        assert statement.query.startswith("one query for each")
        assert design.most_queries(3) == 3 * design.most_queries(1) > 0
    assert "bundle base" in SlotVote(public).statement().source


def test_one_teacher_moves_one_vote_and_one_distribution() -> None:
    """The sensitivity that the accountant is told: L1 2 and L2 sqrt(2), whatever a teacher says instead."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        scores = generator.normal(size=(6, 4)) * 3
        other = scores.copy()
        other[2] = np.nan if generator.random() < 0.3 else generator.normal(size=4) * 3
        first, second = Question("q", scores), Question("q", other)
        votes = first.votes() - second.votes()
        assert np.abs(votes).sum() <= 2
        assert np.sqrt((votes**2).sum()) <= np.sqrt(2)
        moved = first.posteriors().sum(0) - second.posteriors().sum(0)
        assert np.abs(moved).sum() <= 2 + 1e-12


def test_shards_do_not_depend_on_who_else_is_there() -> None:
    rows = [Item(f"u{k}", f"{k}.wav", "a", f"s{k % 20}") for k in range(60)]
    whole = make_shards(rows, 5, unit="speaker").teacher_of
    less = make_shards([row for row in rows if row.speaker != "s7"], 5, unit="speaker").teacher_of
    assert {name: shard for name, shard in whole.items() if name != "s7"} == less
    assert set(whole.values()) == set(range(5))


def test_no_unit_and_no_file_is_in_two_shards() -> None:
    rows = [Item(f"u{k}", f"{k % 15}.wav", "a", f"s{k}") for k in range(30)]
    with pytest.raises(PrivacyError, match=r"file '\d+\.wav' is in the shards of teachers \d and \d; expected one"):
        make_shards(rows, 5, unit="speaker")
    sites = [Item("a", "a.wav", "a", "ann", extra={"site": "0"}), Item("b", "b.wav", "b", "ann", extra={"site": "1"})]
    with pytest.raises(PrivacyError, match=r"speaker 'ann' has the site '0' and '1'; expected one"):
        make_shards(sites, 2, unit="speaker", column="site")
    with pytest.raises(DataError, match=r"private utterance 'c' has no speaker, which is the unit that is protected"):
        make_shards([Item("c", "c.wav", "c")], 2, unit="speaker")


def test_a_column_may_name_the_shards() -> None:
    rows = [Item(f"u{k}", f"{k}.wav", "a", f"s{k}", extra={"site": str(k % 3)}) for k in range(9)]
    shards = make_shards(rows, 3, unit="speaker", column="site")
    assert [len(shard) for shard in shards.rows] == [3, 3, 3]


def test_two_public_utterances_of_one_name_are_refused() -> None:
    with pytest.raises(PrivacyError, match=r"two public utterances have the id 'u'"):
        utterances_of([item("u"), item("u")])


def test_a_list_of_one_candidate_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"expected at least two different texts"):
        CandidateList(("yes", "yes"))
