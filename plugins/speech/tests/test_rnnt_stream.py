"""Sessions of decoder `rnnt`, and the decoder as a part of a pipeline: builder, configuration, bundle."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slt_speech.build_rnnt import phrase_boost, rnnt
from slt_speech.config_rnnt import PhraseBoostConfig, RnntConfig
from slt_speech.ctc_greedy import CtcGreedy
from slt_speech.rnnt.decoder import Rnnt
from sltcore import ctc
from sltcore.errors import PortError, ShapeError, StreamError, VocabularyError
from sltcore.plugin import Ports
from sltcore.types import Encoded, Hypothesis, NBest, Port
from sltcore.vocabulary import Vocabulary

UPSTREAM = Port("Encoded", {"d": 5})
SMALL: dict[str, Any] = {"characters": "abc", "d_prediction": 6, "d_joint": 8}


def build(seed: int = 0, *, ports: Ports | None = None, **config: Any) -> Rnnt:
    torch.manual_seed(seed)
    given_ports = Ports(upstream=UPSTREAM) if ports is None else ports
    model = rnnt(RnntConfig(**{**SMALL, **config}), given_ports).eval()
    with torch.no_grad():
        model.joint.output.weight.mul_(6)
        model.joint.output.bias[0] += 2.0
    return model


def encoded(frames: int, seed: int = 0) -> Encoded:
    values = 2 * torch.randn(1, frames, 5, generator=torch.Generator().manual_seed(seed))
    return Encoded(values, torch.tensor([frames]), 0.04, 0.02)


def pushed(model: Rnnt, x: Encoded, cuts: list[int], context: dict[str, Any]) -> tuple[list[NBest | None], NBest]:
    session = model.open(context)
    said = []
    for begin, end in zip([0, *cuts], [*cuts, int(x.lengths[0])], strict=True):
        said.append(session.push(x._replace(values=x.values[:, begin:end], lengths=torch.tensor([end - begin]))))
    return said, session.finish()


# --- streaming


@pytest.mark.parametrize("search", ["greedy", "beam", "boosted"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_stream_ends_with_what_the_whole_gives(search: str, data: st.DataObject) -> None:
    frames, seed = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 5))
    cuts = sorted(data.draw(st.lists(st.integers(0, frames), max_size=6)))
    config: dict[str, Any] = {"search": "greedy" if search == "greedy" else "beam"}
    config["prediction"] = data.draw(st.sampled_from(["lstm", "stateless"]))
    boost = phrase_boost(PhraseBoostConfig(), Ports()) if search == "boosted" else None
    model = build(seed, ports=Ports(upstream=UPSTREAM, slots={"boost": boost}), **config)
    context = {"phrases": ["abba", "c a"]} if boost else {}
    x = encoded(frames, seed)
    offline = model.decode(x, context)[0]
    said, last = pushed(model, x, cuts, context)
    assert last.best.tokens == offline.best.tokens
    assert last.best.score == pytest.approx(offline.best.score, abs=1e-3)
    if frames:
        assert last.best.times == offline.best.times
    spoken = [nbest for nbest in said if nbest is not None]
    assert (spoken[-1].best.tokens if spoken else ()) == last.best.tokens
    assert all(a.best.tokens != b.best.tokens for a, b in itertools.pairwise(spoken))


def test_padding_of_a_chunk_is_not_heard() -> None:
    model, x = build(), encoded(12)
    session = model.open({})
    junk = torch.cat([x.values, torch.full((1, 4, 5), torch.nan)], dim=1)
    session.push(x._replace(values=junk))
    assert session.finish().best.tokens == model.decode(x, {})[0].best.tokens


def test_a_finished_session_refuses() -> None:
    session = build().open({})
    with pytest.raises(ShapeError, match="a streaming chunk holds one utterance, got 2"):
        session.push(Encoded(torch.zeros(2, 3, 5), torch.tensor([3, 3]), 0.04))
    assert session.finish().text == ""
    with pytest.raises(StreamError, match="rnnt session is finished; open another one"):
        session.push(encoded(3))
    with pytest.raises(StreamError, match="rnnt session is finished already"):
        session.finish()


# --- times


def test_tokens_and_words_have_times() -> None:
    best = next(
        found
        for seed in range(50)
        if len((found := build(seed).decode(encoded(40, seed), {})[0].best).extra["words"]) > 1
    )
    assert len(best.extra["token_times"]) == len(best.extra["token_scores"]) == len(best.tokens)
    assert all(end - start == pytest.approx(0.04) or start == 0 for start, end in best.extra["token_times"])
    assert len(best.times) == len(best.extra["words"]) == len(best.text.split())
    assert all(score <= 0 for score in best.extra["token_scores"])


# --- building


def test_searches_share_one_set_of_weights() -> None:
    greedy, beam = build(0), build(1, search="beam", n_best=3)
    beam.load_state_dict(greedy.state_dict())
    x = encoded(20)
    assert beam.decode(x, {})[0].best.score >= greedy.decode(x, {})[0].best.score - 1e-4
    assert set(greedy.offers()) == {"prediction", "joint", "vocabulary"}


def test_labels_come_from_the_encoder_the_config_or_the_bundle(tmp_path: Path) -> None:
    offered = Vocabulary(["x", "<blank>", "y"], kind="phones", blank=1)
    ports = Ports(upstream=UPSTREAM, offers={"encoder.vocabulary": offered})
    assert rnnt(RnntConfig(d_prediction=4), ports).vocabulary == offered
    assert build().vocabulary.labels == ("<blank>", " ", "a", "b", "c")
    (tmp_path / ctc.VOCABULARY_FILE).write_bytes(build().save_files()[ctc.VOCABULARY_FILE])
    bundled = Ports(upstream=UPSTREAM, offers={"encoder.vocabulary": offered}, folder=tmp_path)
    assert rnnt(RnntConfig(d_prediction=4), bundled).vocabulary == build().vocabulary
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(offered.to_dict()))
    assert rnnt(RnntConfig(vocabulary=path, d_prediction=4), Ports(upstream=UPSTREAM)).vocabulary == offered


def test_a_blank_that_is_not_first_works() -> None:
    labels = Vocabulary(["a", "b", "<blank>", " "], kind="characters", blank=2, boundary=3)
    ports = Ports(upstream=UPSTREAM, offers={"encoder.vocabulary": labels})
    model = rnnt(RnntConfig(d_prediction=4, search="beam"), ports).eval()
    (found,) = model.decode(encoded(10), {})
    assert 2 not in found.best.tokens
    given_text = [NBest([Hypothesis("ab a")])]
    losses = model.loss(encoded(10), model.targets(["ab a"], {}), {}).detach()
    assert float(losses) == pytest.approx(-float(model.score(encoded(10), given_text)), abs=1e-3)


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(
        PortError, match="decoder 'rnnt' needs the width d of the encoder before it, but before it stands n"
    ):
        rnnt(RnntConfig(characters="ab"), Ports())
    with pytest.raises(VocabularyError, match="decoder 'rnnt' has no labels: the encoder offers no vocabulary"):
        rnnt(RnntConfig(), Ports(upstream=UPSTREAM))
    head = CtcGreedy(ctc.Head(torch.nn.Linear(5, 5), build().vocabulary, 5))
    with pytest.raises(
        PortError, match="boost is a CtcGreedy, expected a decoder with the step interface, such as phrase-"
    ):
        build(ports=Ports(upstream=UPSTREAM, slots={"boost": head}), search="beam")
    other = phrase_boost(PhraseBoostConfig(characters="xyz"), Ports())
    with pytest.raises(
        VocabularyError, match="writes phrases in 5 labels of its own, which are not the 5 of the decoder"
    ):
        build(ports=Ports(upstream=UPSTREAM, slots={"boost": other}), search="beam")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"characters": "ab", "vocabulary": "v.json"}, "both name the labels; give one of them"),
        ({"n_best": 3}, "n_best has no effect with search: greedy; choose search: beam"),
        ({"boost": {"use": "phrase-boost"}}, "boost has no effect with search: greedy; choose search: beam"),
        ({"search": "beam", "beam": 2, "n_best": 3}, "n_best is 3, but a beam of 2 finds no more"),
        ({"prediction": "gru"}, "Input should be 'lstm' or 'stateless'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RnntConfig(**config)
