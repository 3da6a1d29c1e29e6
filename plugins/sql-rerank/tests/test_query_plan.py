"""Plan models give the probabilities that they say, and the rules order lists as they say."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slt_sql_rerank.clauses import CLAUSES, KEYWORDS, PLACE, closed, is_valid, written
from slt_sql_rerank.query_plan import rules
from slt_sql_rerank.query_plan.distribution import Distribution, LabelDistribution
from slt_sql_rerank.query_plan.features import QuestionEncoder, features, places
from slt_sql_rerank.query_plan.heads import LabelHead, SequenceHead
from slt_sql_rerank.query_plan.mentions import mentions
from slt_sql_rerank.query_plan.model import QueryPlan
from slt_sql_rerank.query_plan.reranker import QueryPlanReranker
from slt_sql_rerank.schema import ForeignKey, Schema, table
from slt_sql_rerank.simple.gold_plan import GoldPlan
from slt_sql_rerank.simple.shuffled_plan import QUESTIONS, Donor, ShuffledPlan, read_donors
from sltcore.errors import ContextError, DataError, PluginError, SpecError, VocabularyError
from sltcore.pipeline import build_component
from sltcore.types import Hypothesis, NBest, Text

SCHEMA = Schema(
    "concerts",
    [
        table("singer", [("singer_id", "int"), ("Name", "text"), ("Age", "int")], primary=["singer_id"]),
        table("concert", [("concert_id", "int"), ("singer_id", "int"), ("Year", "text")], primary=["concert_id"]),
    ],
    [ForeignKey("concert", ("singer_id",), "singer", ("singer_id",))],
)
CANDIDATES = (
    "SELECT name FROM singer",
    "SELECT count(*) FROM singer WHERE age > 20",
    "SELECT name FROM singer ORDER BY age DESC LIMIT 1",
    "SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id",
    "SELECT name FROM singer WHERE",
    "SELECT max(age) FROM singer",
    "SELECT year, count(*) FROM concert GROUP BY year HAVING count(*) > 1",
)
SETS = st.sets(st.sampled_from(CLAUSES), max_size=8).map(closed)


def model(kind: str, seed: int = 0, width: int = 8) -> QueryPlan:
    torch.manual_seed(seed)
    head: Any = LabelHead(width) if kind == "labels" else SequenceHead(width, 8)
    found = QueryPlan(QuestionEncoder(256, width), head)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter))
    return found.eval()


def distribution(kind: str, seed: int = 0) -> Distribution:
    return model(kind, seed).plans(["How many singers are there?"], [SCHEMA])[0]


@cache
def valid_sets(names: tuple[str, ...]) -> list[frozenset[str]]:
    """Every subset of some clauses that a query can have, by trying all."""
    subsets = (frozenset(c) for size in range(len(names) + 1) for c in combinations(names, size))
    return [names for names in subsets if is_valid(names)]


@pytest.mark.parametrize("kind", ["labels", "sequence"])
def test_probabilities_of_all_sets_sum_to_one(kind: str) -> None:
    plan = distribution(kind)
    first = CLAUSES[:12]
    logs = [plan.log_prob(names, first) for names in valid_sets(first)]
    assert math.fsum(map(math.exp, logs)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["labels", "sequence"])
def test_what_is_outside_is_summed_over(kind: str) -> None:
    plan = distribution(kind, 3)
    few, more = CLAUSES[:9], CLAUSES[:13]
    for chosen in valid_sets(few)[:40]:
        agreeing = [names for names in valid_sets(more) if names & set(few) == chosen]
        total = math.fsum(math.exp(plan.log_prob(names, more)) for names in agreeing)
        assert math.exp(plan.log_prob(chosen, few)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("kind", ["labels", "sequence"])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_sets_are_those_that_trying_all_finds(kind: str, seed: int) -> None:
    plan = distribution(kind, seed)
    first = CLAUSES[:10]
    expected = sorted((plan.log_prob(names, first) for names in valid_sets(first)), reverse=True)[:12]
    found = plan.best(12, first)
    assert [score for _, score in found] == pytest.approx(expected, abs=1e-9)
    assert all(score == pytest.approx(plan.log_prob(names, first), abs=1e-9) for names, score in found)
    assert len({names for names, _ in found}) == 12


@pytest.mark.parametrize("kind", ["labels", "sequence"])
def test_a_set_that_no_query_has_is_impossible(kind: str) -> None:
    plan = distribution(kind)
    for names in ({"order"}, {"asc"}, {"max"}, {"order", "asc", "count"}):
        assert plan.log_prob(frozenset(names)) == -math.inf, names


def test_marginals_of_labels_are_sums_over_sets() -> None:
    plan = distribution("labels", 1)
    found = plan.marginals()
    for name in ("where", "order", "asc"):
        total = math.fsum(math.exp(plan.log_prob(s, CLAUSES[:10])) for s in valid_sets(CLAUSES[:10]) if name in s)
        assert found[name] == pytest.approx(total, rel=1e-6)


def test_marginals_of_a_sequence_are_near_those_of_drawing_it() -> None:
    plan: Any = distribution("sequence", 2)
    draw, count = np.random.default_rng(0), 2000
    seen = dict.fromkeys(CLAUSES, 0)
    for _ in range(count):
        ids: tuple[int, ...] = ()
        while (label := int(draw.choice(len(CLAUSES) + 2, p=np.exp(plan.following(ids))))) != len(CLAUSES):
            ids = (*ids, label)
            seen[CLAUSES[label]] += 1
    for name, value in plan.marginals().items():
        assert value == pytest.approx(seen[name] / count, abs=0.06), name


def test_label_terms_are_the_written_formula() -> None:
    logits = np.linspace(-3, 3, len(CLAUSES))
    plan = LabelDistribution(logits)
    p = dict(zip(CLAUSES, 1 / (1 + np.exp(-logits)), strict=True))
    chosen = frozenset({"where", "order", "desc", "limit"})
    expected = {name: math.log(p[name] if name in chosen else 1 - p[name]) for name in KEYWORDS}
    assert plan.terms(chosen, KEYWORDS) == pytest.approx(expected)
    other = frozenset({"group", "agg", "count"})
    difference = math.fsum(plan.terms(chosen).values()) - math.fsum(plan.terms(other).values())
    assert plan.log_prob(chosen) - plan.log_prob(other) == pytest.approx(difference), "they differ by a constant"


@settings(max_examples=15, deadline=None)
@given(st.lists(SETS, min_size=1, max_size=5), st.integers(0, 3))
def test_the_sequence_loss_is_minus_the_log_probability(sets: list[frozenset[str]], seed: int) -> None:
    plan = model("sequence", seed)
    head: Any = plan.head
    questions = [f"which {i} singers" for i in range(len(sets))]
    wanted = torch.tensor([[name in names for name in CLAUSES] for names in sets])
    with torch.no_grad():
        losses = head.loss(plan.encoder(questions, [SCHEMA] * len(sets)), wanted)
    found = plan.plans(questions, [SCHEMA] * len(sets))
    expected = [-p.log_prob(names) for p, names in zip(found, sets, strict=True)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-3)


def test_the_label_loss_is_a_sum_of_cross_entropies() -> None:
    plan = model("labels")
    targets = plan.targets(["SELECT name FROM singer WHERE age > 3", "select order limit"], {})
    context = {"database": SCHEMA}
    losses = plan.loss(Text(["who", "how many"]), targets, context)
    logits = plan.head.output(plan.encoder(["who", "how many"], [SCHEMA] * 2)).detach().double()  # type: ignore[attr-defined]
    for row, names in enumerate(({"where"}, {"order", "asc", "limit"})):
        expected = sum(
            -math.log(torch.sigmoid(z if n in names else -z)) for z, n in zip(logits[row], CLAUSES, strict=True)
        )
        assert float(losses[row].detach()) == pytest.approx(expected, rel=1e-4)


def test_gradients_stay_finite_with_sequences_of_different_lengths() -> None:
    plan = model("sequence").train()
    targets = plan.targets(["select", "select where order asc desc limit agg count max"], {})
    plan.loss(Text(["a", "b"]), targets, {"database": SCHEMA}).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in plan.parameters())


def test_targets_are_read_from_sql_in_the_context_first() -> None:
    plan = model("labels")
    found = plan.targets(
        ["How old?", "How many?"], {"sql": ["SELECT max(age) FROM singer", "SELECT count(*) FROM singer"]}
    )
    assert [plan.vocabulary.decode(row[:n].tolist()) for row, n in zip(found.ids, found.lengths, strict=True)] == [
        "agg max",
        "agg count",
    ]
    with pytest.raises(VocabularyError, match="'How old are you' is neither SQL nor a plan: HOW is no query"):
        plan.targets(["How old are you"], {})


def test_decode_gives_the_best_plans_and_hides_training_behaviour() -> None:
    plan = model("labels").train()
    lists = plan.decode(Text(["How many singers?", ""]), {"database": [SCHEMA, None]})
    again = plan.eval().decode(Text(["How many singers?", ""]), {"database": [SCHEMA, None]})
    assert lists == again
    assert [len(entry) for entry in lists] == [5, 5]
    best = plan.plans(["How many singers?"], [SCHEMA])[0].best(1)[0]
    assert (lists[0].text, lists[0].best.score) == (written(best[0]), pytest.approx(best[1]))


def test_a_sequence_model_refuses_clauses_that_are_not_the_first() -> None:
    with pytest.raises(SpecError, match="speaks of the first clauses in canonical order, not of where, limit"):
        distribution("sequence").log_prob(frozenset(), ("where", "limit"))


def test_mentions_put_names_numbers_and_values_into_classes() -> None:
    found = mentions("Show the names of singers older than 20 who sang in Paris", SCHEMA)
    assert found.classes == (
        *("show", "the", "<column:text>", "of", "<table>", "older", "than", "<number>", "who", "sang", "in", "<value>"),
    )
    assert found.tables == {"singer"}
    assert found.columns == (frozenset({("singer", "name")}),)
    assert found.fewest_tables == 1
    assert mentions("year and age", SCHEMA).fewest_tables == 2


def test_features_see_the_schema_and_no_candidate() -> None:
    with_schema, without = (
        set(features("How old is each singer?", SCHEMA)),
        set(features("How old is each singer?", None)),
    )
    assert "d:each <table>" in with_schema
    assert "d:each <table>" not in without
    assert not any(name.startswith("s:tables") for name in without)
    assert places("How old?", SCHEMA, 64) == places("How old?", SCHEMA, 64)
    assert all(0 <= place < 64 for place in places("How old is each singer?", SCHEMA, 64))


def test_features_of_shipped_weights_have_not_moved() -> None:
    """Weights are learned for these very features: whoever changes them trains anew (`experiments/query_plan`)."""
    total = sum(places("Show the names of singers older than twenty who sang in 'Paris', by age.", SCHEMA, 16384))
    assert total == FEATURES, "features changed; run experiments/query_plan/make_weights.py and set the new sum"


FEATURES = 1978563


def brute_hard(sets: list[frozenset[str] | None], wanted: frozenset[str]) -> list[int]:
    """Places in their new order, by the rule in words."""
    for place, names in enumerate(sets):
        if names == wanted:
            return [place, *(p for p in range(len(sets)) if p != place)]
    return list(range(len(sets)))


def order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda place: -scores[place])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | SETS, min_size=1, max_size=10), SETS, st.data())
def test_the_hard_rule_moves_the_first_that_agrees_and_nothing_else(
    sets: list[frozenset[str] | None], other: frozenset[str], data: st.DataObject
) -> None:
    wanted = data.draw(st.sampled_from([*(s for s in sets if s is not None), other]))
    assert order(rules.hard(sets, wanted)) == brute_hard(sets, wanted)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-50, 0), st.none() | SETS), min_size=1, max_size=8),
    st.lists(st.floats(-6, 6), min_size=len(CLAUSES), max_size=len(CLAUSES)),
    st.floats(0.1, 10),
)
def test_the_soft_rule_is_the_written_sum(
    entries: list[tuple[float, frozenset[str] | None]], logits: list[float], weight: float
) -> None:
    plan = LabelDistribution(np.array(logits))
    scores, sets = [score for score, _ in entries], [names for _, names in entries]
    found = rules.soft(scores, sets, plan, CLAUSES, weight)
    p = [1 / (1 + math.exp(-z)) for z in logits]
    expected = []
    for score, names in entries:
        if names is None:
            expected.append(-math.inf)
            continue
        terms = (math.log(q if n in names else 1 - q) for n, q in zip(CLAUSES, p, strict=True))
        expected.append(score + weight * math.fsum(terms))
    for (a, b), (x, y) in zip(combinations(found, 2), combinations(expected, 2), strict=True):
        if math.isfinite(x) and math.isfinite(y):
            assert a - b == pytest.approx(x - y, abs=1e-6), "differences decide the order"
        else:
            assert (a == -math.inf, b == -math.inf) == (x == -math.inf, y == -math.inf)


def nbest(*texts: str) -> NBest:
    return NBest(Hypothesis(text, -0.5 * place, tokens=(place,)) for place, text in enumerate(texts))


@pytest.mark.parametrize("kind", ["labels", "sequence"])
@pytest.mark.parametrize("rule", ["hard", "soft"])
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(CANDIDATES), min_size=1, max_size=8), st.integers(0, 5))
def test_reranking_is_a_permutation_and_the_same_twice(kind: str, rule: Any, texts: list[str], seed: int) -> None:
    reranker = QueryPlanReranker(model(kind, seed), rule=rule)
    given_, context = nbest(*texts), {"database": SCHEMA}
    found = reranker.rerank("How many singers are older than 20?", given_, context)
    assert sorted(h[:4] for h in found) == sorted(h[:4] for h in given_), "text, score and tokens as they were"
    assert reranker.rerank("How many singers are older than 20?", given_, context) == found
    if len(texts) == 1:
        assert found.best[:4] == given_.best[:4]


@pytest.mark.parametrize("rule", ["hard", "soft"])
def test_where_the_plan_agrees_with_the_first_it_stays(rule: Any) -> None:
    for seed in range(20):
        plan = model("labels", seed)
        best = plan.plans(["Which?"], [SCHEMA])[0].best(1, KEYWORDS)[0][0]
        scores = nbest(*CANDIDATES)
        sets = [frozenset({"where"}), best, frozenset(), best]
        reranker = QueryPlanReranker(plan, rule=rule)
        reranker._sets = lambda *_, found=(best, *sets): list(found)  # type: ignore[method-assign,misc]
        found = reranker.score("Which?", scores[:5], {"database": SCHEMA})
        assert order(list(found))[0] == 0


def test_what_is_no_query_goes_last_by_the_soft_rule() -> None:
    reranker = QueryPlanReranker(model("labels"))
    found = reranker.rerank("Which?", nbest("SELECT FROM", "no sql", "SELECT name FROM singer"), {"database": SCHEMA})
    assert [h.text for h in found] == ["SELECT name FROM singer", "SELECT FROM", "no sql"]
    assert found[1].extra["query-plan"]["has"] is None


def test_with_weight_zero_first_pass_decides() -> None:
    given_ = nbest(*CANDIDATES)
    found = QueryPlanReranker(model("labels"), weight=0.0, notes=False).rerank("Which?", given_, {"database": SCHEMA})
    assert found == given_


def test_reasons_say_what_is_missing_and_what_is_too_much() -> None:
    plan = model("labels")
    with torch.no_grad():
        plan.head.output.weight.zero_()  # type: ignore[attr-defined]
        plan.head.output.bias.fill_(-4.0)  # type: ignore[attr-defined]
        for name in ("where", "agg", "count"):
            plan.head.output.bias[PLACE[name]] = 4.0  # type: ignore[attr-defined]
    reranker = QueryPlanReranker(plan)
    found = reranker.rerank("How many are older than 20?", nbest(*CANDIDATES), {"database": SCHEMA})
    assert found.text == CANDIDATES[1]
    first, order_by = found.best.extra["query-plan"], next(h for h in found if "ORDER" in h.text).extra["query-plan"]
    assert first["wanted"] == first["has"] == "select where agg"
    assert first["missing"] == first["surplus"] == []
    assert (order_by["missing"], order_by["surplus"]) == (["where", "agg"], ["order", "desc", "limit"])
    assert set(order_by["against"]) <= {"where", "agg", "order", "desc", "limit"}
    assert order_by["log_prob"] < first["log_prob"] == pytest.approx(first["wanted_log_prob"])
    features = reranker.features("How many are older than 20?", nbest(*CANDIDATES), {"database": SCHEMA})
    assert [row[1] for row in features] == [0, 1, 0, 0, 0, 0, 0]
    assert features[4] == [-30.0, 0.0]


def test_without_a_database_questions_alone_decide() -> None:
    found = QueryPlanReranker(model("labels")).rerank("Which?", nbest(*CANDIDATES), {})
    assert len(found) == len(CANDIDATES)


def test_a_slot_with_another_decoder_is_refused() -> None:
    with pytest.raises(PluginError, match="slot plan holds a str; expected decoder 'plan-labels' or 'plan-sequence'"):
        QueryPlanReranker("plan")  # type: ignore[arg-type]


def test_a_gold_plan_puts_a_candidate_with_the_gold_clauses_first() -> None:
    context = {"database": SCHEMA, "sql": "SELECT name FROM singer ORDER BY name DESC LIMIT 3"}
    for rule in ("hard", "soft"):
        assert GoldPlan(rule=rule).rerank("?", nbest(*CANDIDATES), context).text == CANDIDATES[2]  # type: ignore[arg-type]
    with pytest.raises(ContextError, match="needs context 'sql', the gold query; it is for experiments only"):
        GoldPlan().score("?", nbest(*CANDIDATES), {"database": SCHEMA})


def test_a_shuffled_plan_is_that_of_another_question() -> None:
    inner = QueryPlanReranker(model("labels"), notes=False)
    shuffled = ShuffledPlan(inner)
    for question in (*QUESTIONS, "Which singers are old?", ""):
        donor = shuffled.donor(question)
        assert donor.question != question
        assert shuffled.donor(question) == donor
        expected = inner.score(donor.question, nbest(*CANDIDATES), {})
        assert shuffled.score(question, nbest(*CANDIDATES), {"database": SCHEMA}) == pytest.approx(expected)
    donors = {ShuffledPlan(inner).donor(f"question {i}").question for i in range(200)}
    assert len(donors) == len(QUESTIONS)
    with pytest.raises(DataError, match="at least two different questions"):
        ShuffledPlan(inner, [Donor("a"), Donor("a")])


def test_donors_come_from_a_file_and_go_with_a_bundle(tmp_path: Any) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "How many?"}\n\n{"question": "Which?", "database": "d.sqlite"}\n')
    assert read_donors(file) == [Donor("How many?"), Donor("Which?", "d.sqlite")]
    shuffled = ShuffledPlan(QueryPlanReranker(model("labels")), read_donors(file))
    for name, data in shuffled.save_files().items():
        (tmp_path / name).write_bytes(data)
    assert read_donors(tmp_path / "donors.jsonl") == read_donors(file)
    file.write_text('{"text": "How many?"}\n')
    with pytest.raises(DataError, match=r"q.jsonl: line 1 is no object with \"question\": 'question'"):
        read_donors(file)


def test_a_size_that_the_weights_do_not_have_is_refused() -> None:
    with pytest.raises(Exception, match="width of weights 'spider' is 64; set weights: random to train another size"):
        build_component("decoder", "plan-labels", {"width": 32})
