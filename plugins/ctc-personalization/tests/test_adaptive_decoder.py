"""Decoder `ctc-beam` with adaptive boosting: where its evidence comes from, when it is refused, streams and hot swaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beam_references import random_log_probs

from slt_ctc_personalization.beam_search.ctc_beam import CtcBeam
from slt_ctc_personalization.language_model.build_lm import build_lm
from slt_ctc_personalization.lexicon.lexicon import PHONES
from sltcore.errors import ContextError, DataError, PluginError, PortError, SpecError, StreamError
from sltcore.pipeline import build_component
from sltcore.types import Encoded, Port, Targets
from sltcore.vocabulary import Vocabulary

LETTERS = Vocabulary(["-", " ", *"abcdefgh"], kind="characters", blank=0, boundary=1)
SOUNDS = Vocabulary(["<blank>", "<wb>", *PHONES], kind="phones", blank=0, boundary=1)
SHIFT_S = 0.04
ATTENTION = {"encoder.phrase_attention": True}
PHONE_HEAD = {"encoder.encoder.phone_vocabulary": SOUNDS}
BOTH = {**ATTENTION, **PHONE_HEAD}


class Identity(torch.nn.Module):
    """A head for frames that are log-probabilities already."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values


def decoder(labels: Vocabulary = LETTERS, offers: dict[str, Any] = ATTENTION, **config: Any) -> CtcBeam:
    upstream = Port("Encoded", {"d": len(labels), "frame_shift_s": SHIFT_S})
    offers = {"encoder.head": Identity(), "encoder.vocabulary": labels, **offers}
    config = {"threads": 1, **config}
    made = build_component("decoder", "ctc-beam", config, upstream=upstream, offers=offers)
    assert isinstance(made, CtcBeam)
    return made


def frames_of(text: str, *, unsure: Sequence[tuple[int, str]] = (), labels: Vocabulary = LETTERS) -> np.ndarray:
    """Three frames a label that say `text` loudly; at `unsure` places the given label is nearly as likely."""
    ids = text.split() if labels.kind == "phones" else list(text)
    names = labels.labels
    others = dict(unsure)
    rows = []
    for place, name in enumerate(ids):
        row = np.full(len(names), 1e-5)
        row[names.index(name)] = 0.6 if place in others else 0.99
        if place in others:
            row[names.index(others[place])] = 0.4
        silent = np.full(len(names), 1e-5)
        silent[0] = 1.0
        rows += [row, row, silent]
    return np.log(np.array(rows) / np.sum(rows, axis=1, keepdims=True)).astype(np.float32)


def encoded(*rows: np.ndarray, attention: Sequence[np.ndarray] = (), phones: Sequence[np.ndarray] = ()) -> Encoded:
    def padded(parts: Sequence[np.ndarray]) -> torch.Tensor:
        shape = (len(parts), max(map(len, rows)), max(part.shape[1] for part in parts))
        values = torch.zeros(shape)
        for place, part in enumerate(parts):
            values[place, : len(part), : part.shape[1]] = torch.from_numpy(part)
        return values

    extra = {}
    if attention:
        extra["phrase_attention"] = padded(attention)
    if phones:
        extra["phone_log_probs"] = padded(phones)
    return Encoded(padded(rows), torch.tensor([len(row) for row in rows]), SHIFT_S, extra=extra)


def looks(frames: int, phrases: int, *spans: tuple[int, int, int, float]) -> np.ndarray:
    """Attention [t k+1]: (phrase, begin, end, value) and the rest on no phrase."""
    values = np.zeros((frames, phrases + 1), np.float32)
    for phrase, begin, end, value in spans:
        values[begin:end, phrase + 1] = value
    values[:, 0] = 1.0 - values.sum(axis=1)
    return values


HEARD = frames_of("a bad face", unsure=[(2, "f"), (6, "b")])  # 'bad' or 'fad', 'face' or 'bace'
LIST = ["fad", "bace"]


@pytest.mark.parametrize("boosting", ["utterance", "windowed"])
def test_a_phrase_is_paid_for_where_the_adapter_hears_it(boosting: str) -> None:
    part = decoder(boosting=boosting, evidence="attention", phrase_bonus=2.0)

    def text(*spans: tuple[int, int, int, float]) -> str:
        values = encoded(HEARD, attention=[looks(len(HEARD), 2, *spans)])
        return part.decode(values, {"phrases": LIST})[0].text

    assert text() == "a bad face"
    assert text((0, 6, 14, 0.9)) == "a fad face"
    assert text((1, 18, 29, 0.9)) == "a bad bace"
    assert text((0, 6, 14, 0.9), (1, 18, 29, 0.9)) == "a fad bace"
    assert part.decode(encoded(HEARD), {})[0].text == "a bad face"


def test_only_the_windowed_form_asks_where_a_phrase_is_heard() -> None:
    heard = frames_of("a bad face and a face", labels=Vocabulary([*LETTERS.labels, "n"], boundary=1), unsure=[(2, "f")])
    labels = Vocabulary([*LETTERS.labels, "n"], kind="characters", blank=0, boundary=1)
    late = looks(len(heard), 1, (0, 50, 60, 0.9))
    texts = {}
    for boosting, window in (("utterance", {}), ("windowed", {"window_before_s": 0.4, "window_after_s": 0.4})):
        part = decoder(labels, boosting=boosting, phrase_bonus=2.0, **window)
        texts[boosting] = part.decode(encoded(heard, attention=[late]), {"phrases": ["fad"]})[0].text
    assert texts == {"utterance": "a fad face and a face", "windowed": "a bad face and a face"}


def test_the_floor_pays_what_is_not_heard() -> None:
    silent = encoded(HEARD, attention=[looks(len(HEARD), 2)])
    for boosting in ("utterance", "windowed"):
        part = decoder(boosting=boosting, evidence_floor=1.0, phrase_bonus=2.0)
        assert part.decode(silent, {"phrases": LIST})[0].text == "a fad bace"


@pytest.mark.parametrize("boosting", ["fixed", "depth-scaled"])
def test_plain_boosting_reads_no_evidence(boosting: str) -> None:
    part = decoder(boosting=boosting, phrase_bonus=2.0)
    assert part.evidence is None
    assert part.decode(encoded(HEARD), {"phrases": LIST})[0].text == "a fad bace"


def phone_head_batch(*said: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Letters that leave open what was said, and phones that say it."""
    from slt_ctc_personalization.lexicon.lexicon import cmu_dictionary

    words = cmu_dictionary()
    letters, phones = [], []
    for text in said:
        sounds = " <wb> ".join(" ".join(words[word][0]) for word in text.split())
        phone = frames_of(sounds, labels=SOUNDS)
        letter = frames_of("bad", unsure=[(0, "f")])
        blank = np.log(np.full((max(len(phone) - len(letter), 0), len(LETTERS)), 1e-5, np.float32))
        blank[:, 0] = 0.0
        letters.append(np.concatenate([letter, blank])[: max(len(phone), len(letter))])
        phones.append(phone[: len(letters[-1])])
    return letters, phones


@pytest.mark.parametrize("boosting", ["utterance", "windowed"])
def test_a_spotter_on_the_encoders_phones_is_evidence(boosting: str) -> None:
    part = decoder(offers=PHONE_HEAD, boosting=boosting, phrase_bonus=2.0)
    letters, phones = phone_head_batch("fad", "bad", "bee")
    found = part.decode(encoded(*letters, phones=phones), {"phrases": ["fad"]})
    assert [nbest.text for nbest in found] == ["fad", "bad", "bad"]


@pytest.mark.slow
def test_a_recogniser_of_phones_needs_nothing_else_and_no_training() -> None:
    """Head of phones, English lexicon without the name: the spotter reads the decoder's own posteriors."""
    said = "k ɔ l <wb> b ɝ t ʌ l ɑ n i"
    part = decoder(
        SOUNDS,
        offers={},
        boosting="utterance",
        lexicon="english",
        lexicon_words=2000,
        confusions="none",
        phrase_bonus=2.0,
    )
    assert part.evidence is not None
    assert part.evidence.phones is not None
    frames = encoded(frames_of(said, labels=SOUNDS, unsure=[(7, "oʊ")]))
    assert part.decode(frames, {"phrases": ["Bertolani", "Kowalczyk"]})[0].text == "call bertolani"
    assert "bertolani" not in part.decode(frames, {})[0].text
    other = encoded(frames_of("k ɔ l <wb> h oʊ m", labels=SOUNDS))
    assert "bertolani" not in part.decode(other, {"phrases": ["Bertolani", "Kowalczyk"]})[0].text


@pytest.mark.parametrize("source", ["attention", "phones", "both"])
def test_a_stream_gives_the_windowed_result_of_the_whole(source: str) -> None:
    part = decoder(offers=BOTH, boosting="windowed", evidence=source, beam=20, phrase_bonus=1.5, window_before_s=0.8)
    rng = np.random.default_rng(5)
    phrases = ["bad", "a face", "head", "deaf cab", "gaff"]
    taken = 0
    for seed in range(2):
        frames = random_log_probs(rng, 90, len(LETTERS), spread=2.0)
        looked = rng.dirichlet(np.full(6, 0.3), size=90).astype(np.float32)
        sounds = random_log_probs(rng, 90, len(SOUNDS), spread=3.0)
        sounds[20:41] = frames_of("b æ d <wb> h ɛ d", labels=SOUNDS)
        frames[17:44] = frames_of(" gad head", unsure=[(1, "b")])
        whole = encoded(frames, attention=[looked], phones=[sounds])
        offline = part.decode(whole, {"phrases": phrases})[0]
        taken += offline.text != part.decode(whole, {})[0].text
        for size in (1, 3, 16, 64) if seed == 0 else (7, 90):
            session = part.open({"phrases": phrases})
            for begin in range(0, 90, size):
                cut = slice(begin, begin + size)
                session.push(encoded(frames[cut], attention=[looked[cut]], phones=[sounds[cut]]))
            assert session.finish() == offline
    assert taken


def test_a_stream_without_phrases_reads_no_evidence() -> None:
    part = decoder(boosting="windowed")
    frames = random_log_probs(np.random.default_rng(0), 40, len(LETTERS))
    session = part.open({"phrases": []})
    session.push(encoded(frames[:15]))
    session.push(encoded(frames[15:]))
    assert session.finish() == part.decode(encoded(frames), {})[0]


def test_the_whole_utterance_form_refuses_to_stream() -> None:
    with pytest.raises(
        StreamError, match="boosting: utterance weighs phrases .* cannot stream; use boosting: windowed"
    ):
        decoder(boosting="utterance").open({"phrases": ["bad"]})


def test_lists_change_from_call_to_call_and_from_utterance_to_utterance() -> None:
    part = decoder(boosting="windowed", phrase_bonus=2.0)
    first, second = looks(len(HEARD), 1, (0, 6, 14, 0.9)), looks(len(HEARD), 1, (0, 18, 29, 0.9))
    calls = [(["fad"], first, "a fad face"), (["bace"], second, "a bad bace"), ([], None, "a bad face")]
    for _ in range(2):
        for phrases, looked, text in calls:
            values = encoded(HEARD, attention=[] if looked is None else [looked])
            assert part.decode(values, {"phrases": phrases})[0].text == text
            assert part.decode(values, part.prepare({"phrases": phrases}))[0].text == text
    together = encoded(HEARD, HEARD, HEARD, attention=[first, np.pad(second, [(0, 0), (0, 0)]), looks(len(HEARD), 1)])
    found = part.decode(together, {"phrases": [["fad"], ["bace"], []]})
    assert [nbest.text for nbest in found] == [text for _, _, text in calls]
    table = part.table(["fad"])
    assert part.table(["fad"]) is table
    assert part.table(("fad",)) is table


def test_a_prepared_list_keeps_what_other_stages_made_of_it() -> None:
    part, other = decoder(offers=PHONE_HEAD, boosting="windowed"), decoder()
    prepared = other.prepare(part.prepare({"phrases": ["bad", "face"]}))
    assert list(prepared["phrases"]) == ["bad", "face"]
    assert part.table(prepared["phrases"]) is part.table(["bad", "face"])
    assert part.evidence is not None
    assert part.evidence.phones is not None
    spotted = part.evidence.phones
    assert spotted.table(prepared["phrases"]) is spotted.table(["bad", "face"])


@pytest.mark.parametrize(
    ("offers", "config", "error", "message"),
    [
        (
            {},
            {"boosting": "windowed"},
            PortError,
            "nothing here hears phrases; use encoder contextual-adapter or phone-head",
        ),
        ({}, {"boosting": "utterance"}, PortError, "boosting: utterance pays a phrase by what is heard of it"),
        (
            PHONE_HEAD,
            {"boosting": "windowed", "evidence": "attention"},
            PortError,
            "no encoder before it offers one; wrap it",
        ),
        (
            ATTENTION,
            {"boosting": "windowed", "evidence": "phones"},
            PortError,
            "offers a phone_vocabulary and the head's",
        ),
        (ATTENTION, {"boosting": "windowed", "evidence": "both"}, PortError, "evidence: both reads phones"),
        ({}, {"attention_supervision": 0.5}, PortError, "attention_supervision teaches an adapter's attention"),
        (ATTENTION, {"evidence": "attention"}, SpecError, "evidence: attention has no effect with boosting: fixed"),
        (
            ATTENTION,
            {"boosting": "windowed", "evidence": "none"},
            SpecError,
            "choose evidence: auto, or boosting: fixed",
        ),
        (ATTENTION, {"evidence_floor": 0.5}, SpecError, "evidence_floor has no effect with boosting: fixed"),
        (ATTENTION, {"boosting": "utterance", "window_after_s": 1.0}, SpecError, "choose boosting: windowed"),
        (ATTENTION, {"depth_scaling": 3.0}, SpecError, "depth_scaling has no effect with boosting: fixed"),
        (ATTENTION, {"boosting": "windowed", "lexicon": "spelling"}, SpecError, "windowed works without a lexicon"),
        (ATTENTION, {"boosting": "windowed", "engine": "torch"}, PluginError, "is for the compiled engine only"),
    ],
)
def test_what_would_have_no_effect_is_refused_when_the_pipeline_is_built(
    offers: dict[str, Any], config: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        decoder(offers=offers, **config)


def test_windows_in_seconds_need_to_know_the_frames() -> None:
    offers = {"encoder.head": Identity(), "encoder.vocabulary": LETTERS, **ATTENTION}
    with pytest.raises(PortError, match="does not say its frame_shift_s"):
        build_component(
            "decoder", "ctc-beam", {"boosting": "windowed"}, upstream=Port("Encoded", {"d": 10}), offers=offers
        )
    settings = decoder(boosting="windowed", window_before_s=1.0, window_after_s=0.2).search.settings
    assert (settings.window_before, settings.window_after) == (25, 5)


def test_missing_or_foreign_evidence_is_refused_at_the_call() -> None:
    part = decoder(offers=BOTH, boosting="utterance", evidence="attention")
    with pytest.raises(DataError, match=r"attention is read from Encoded.extra\['phrase_attention'\].* wrote nothing"):
        part.decode(encoded(HEARD), {"phrases": LIST})
    with pytest.raises(DataError, match="2 phrases are decoded with, but .* has columns for 3"):
        part.decode(encoded(HEARD, attention=[looks(len(HEARD), 3)]), {"phrases": LIST})
    part = decoder(offers=PHONE_HEAD, boosting="utterance")
    with pytest.raises(DataError, match=r"phones is read from Encoded.extra\['phone_log_probs'\]"):
        part.decode(encoded(HEARD), {"phrases": LIST})
    short = encoded(HEARD, phones=[np.zeros((len(HEARD), 3), np.float32)])._replace(
        extra={"phone_log_probs": torch.zeros(1, 2, 3)}
    )
    with pytest.raises(DataError, match=r"has shape \(1, 2, 3\), expected \(b, t, p\) with b, t ="):
        part.decode(short, {"phrases": LIST})
    with pytest.raises(DataError, match="phones need the phrases themselves"):
        part.decode(encoded(HEARD, phones=[HEARD]), {"phrases": part.table(LIST)})
    with pytest.raises(ContextError, match="cannot be spelled, so they would have no effect: .*'xyz'"):
        part.prepare({"phrases": ["bad", "xyz"]})


def test_supervision_adds_the_loss_of_the_attention() -> None:
    plain, taught = decoder(), decoder(attention_supervision=0.5)
    targets = Targets(torch.tensor([[3, 2, 5, 1, 7, 2, 4, 6]]), torch.tensor([8]))
    frames = frames_of("bad face")
    context = {"phrases": [["bad"]]}
    right, wrong = looks(len(frames), 1, (0, 0, 9, 1.0)), looks(len(frames), 1, (0, 15, 24, 1.0))
    bare = plain.loss(encoded(frames), targets, {})
    assert torch.equal(taught.loss(encoded(frames), targets, {}), bare)
    losses = [taught.loss(encoded(frames, attention=[look]), targets, context) - bare for look in (right, wrong)]
    assert losses[0].item() < 20.0 < losses[1].item()
    assert torch.equal(plain.loss(encoded(frames, attention=[wrong]), targets, context), bare)
    look = torch.from_numpy(wrong)[None].clamp(0.05, 0.95).requires_grad_()
    taught.loss(encoded(frames)._replace(extra={"phrase_attention": look}), targets, context).sum().backward()
    assert look.grad is not None
    assert bool((look.grad[0, :8, 1] < 0).all())


def test_the_torch_engine_gives_the_same_texts() -> None:
    frames = random_log_probs(np.random.default_rng(2), 40, len(LETTERS), spread=2.5)
    looked = looks(40, 2, (0, 5, 15, 0.8), (1, 20, 30, 0.5))
    for config in ({}, {"boosting": "depth-scaled"}, {"boosting": "utterance"}):
        batch = encoded(frames, frames[:25], attention=[looked, looked[:25]])
        found = [
            decoder(engine=engine, beam=16, phrase_bonus=1.5, **config).decode(batch, {"phrases": LIST})
            for engine in ("auto", "compiled", "torch")
        ]
        assert found[0] == found[1]
        for one, other in zip(found[1], found[2], strict=True):
            assert (one.text, one.best.tokens) == (other.text, other.best.tokens)
            assert one.best.score == pytest.approx(other.best.score, abs=1e-4)


@pytest.mark.parametrize("listed", ["CAB", "cab", "Cab"])
def test_a_listed_word_of_the_lexicon_stays_that_word_whatever_its_case(listed: str, tmp_path: Path) -> None:
    labels = Vocabulary(["-", " ", *"ABCDEFGH"], kind="characters", blank=0, boundary=1)
    build_lm(["A BAD FACE", "A FED CAB", "HE BAD FACE"] * 3, order=2, out=tmp_path / "upper.arpa")
    part = decoder(labels, {}, lexicon="spelling", lm_file=tmp_path / "upper.arpa", phrase_bonus=2.0)
    frames = frames_of("A BAD CAB", unsure=[(7, "H")], labels=labels)
    assert part.decode(encoded(frames), {"phrases": [listed]})[0].text == "A BAD CAB"
    assert part.decode(encoded(frames_of("A BAD GAB", labels=labels)), {"phrases": ["Gab"]})[0].text == "A BAD GAB"


def test_a_listed_name_is_written_although_the_language_model_has_no_place_for_unknown_words(tmp_path: Path) -> None:
    build_lm(["a bad face", "a fed cab", "he bad face"] * 3, order=2, out=tmp_path / "open.arpa")
    lines = (tmp_path / "open.arpa").read_text().splitlines()
    count = next(int(line[8:]) for line in lines if line.startswith("ngram 1="))
    closed = [line for line in lines if line.split()[1:2] != ["<unk>"]]
    (tmp_path / "closed.arpa").write_text("\n".join(closed).replace(f"ngram 1={count}", f"ngram 1={count - 1}") + "\n")
    texts = [
        decoder(offers={}, lm_file=tmp_path / name, phrase_bonus=2.0)
        .decode(encoded(frames_of("a bad gaff", unsure=[(6, "f")])), {"phrases": ["gaff"]})[0]
        .text
        for name in ("open.arpa", "closed.arpa")
    ]
    assert texts == ["a bad gaff"] * 2


@pytest.mark.slow
def test_the_english_language_model_gives_unknown_names_the_chance_of_its_rarest_word() -> None:
    from slt_ctc_personalization.language_model.english import english_lm

    scores = english_lm().unigram_log_probs()
    assert scores[0] == scores[3:].min()
    assert -25 < scores[0] < -10


PIPELINE = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {
        "use": "contextual-adapter",
        "encoder": {"use": "lstm", "hidden": 16, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}},
        "spelling": "characters",
    },
    "decoder": {"use": "ctc-beam", "characters": "abcdefgh", "boosting": "utterance", "phrase_bonus": 9.0, "beam": 8},
}


def test_one_loaded_pipeline_takes_a_list_a_call_or_a_list_an_utterance() -> None:
    """Head and adapter are untrained, so what is heard is left to chance; a floor of 1 makes the lists count."""
    import sltcore

    pipeline = sltcore.load({**PIPELINE, "decoder": {**PIPELINE["decoder"], "evidence_floor": 1.0}})
    rng = np.random.default_rng(1)
    sounds = [rng.normal(scale=0.1, size=8000).astype(np.float32) for _ in range(3)]
    lists: list[list[str]] = [["bad cafe"], ["gaff"], []]
    alone = [pipeline(sound, phrases=phrases).text for sound, phrases in zip(sounds, lists, strict=True)]
    assert "bad cafe" in alone[0]
    assert "gaff" in alone[1]
    assert alone[2] == pipeline(sounds[2]).text
    assert [nbest.text for nbest in pipeline(sounds, phrases=lists)] == alone
    prepared = pipeline.prepare(phrases=lists)
    assert [nbest.text for nbest in pipeline(sounds, prepared=prepared)] == alone
    shared = pipeline.prepare(phrases=lists[0])
    assert pipeline(sounds[0], prepared=shared).text == alone[0]
    assert pipeline(sounds[1], phrases=lists[1]).text == alone[1]


def test_a_pipeline_without_ears_for_phrases_is_refused_when_it_is_built() -> None:
    import sltcore

    with pytest.raises(PortError, match="nothing here hears phrases; use encoder contextual-adapter or phone-head"):
        sltcore.load({**PIPELINE, "encoder": PIPELINE["encoder"]["encoder"]})
