"""The experiment `updates`: how words are divided and counted, what is kept of a run, and what the claims compare."""

from __future__ import annotations

import json
import random
import sys
from concurrent.futures import Future
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_bundles import base_bundle, contents
from hypothesis import given
from hypothesis import strategies as st

from sltcore.data.examples import Example
from sltcore.report import Report
from sltcore.types import Item

FOLDER = Path(__file__).parents[1] / "experiments" / "updates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def _modules() -> dict[str, Any]:
    """The experiment's files under their own names, which other modules of a test run may have too."""
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        return {name: import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(before)


M = _modules()
SETS = (("cab", "ba"), ("abc", "bca"))
SENTENCES = ("a {} b", "b {} a", "{} c")


# What is counted


def by_force(reference: list[str], heard: list[str]) -> int:
    @cache
    def cost(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(cost(i - 1, j) + 1, cost(i, j - 1) + 1, cost(i - 1, j - 1) + (reference[i - 1] != heard[j - 1]))

    return cost(len(reference), len(heard))


WORDS = st.lists(st.sampled_from(["a", "b", "cab"]), max_size=6)


@given(WORDS, WORDS)
def test_an_alignment_is_a_shortest_path_through_both_texts(reference: list[str], heard: list[str]) -> None:
    pairs = M["counting"].aligned(reference, heard)
    assert [i for i, _ in pairs if i is not None] == list(range(len(reference)))
    assert [j for _, j in pairs if j is not None] == list(range(len(heard)))
    errors = sum(i is None or j is None or reference[i] != heard[j] for i, j in pairs)
    assert errors == by_force(reference, heard)


@pytest.mark.parametrize(
    ("text", "heard", "expected"),
    [
        ("a cab b", "a cab b", (1, 1, 0, 3, 0)),
        ("a cab b", "a b", (0, 1, 1, 3, 0)),
        ("a b c b cab", "cab a b c b", (0, 1, 2, 5, 1)),  # heard, but not where it was said
        ("a b", "a cab b", (0, 0, 1, 2, 1)),
        ("cab", "cab cab", (1, 1, 1, 1, 1)),
        ("a", "", (0, 0, 1, 1, 0)),
    ],
)
def test_words_count_where_they_were_said(text: str, heard: str, expected: tuple[int, ...]) -> None:
    assert M["counting"].count(text, heard, {"cab"}) == expected


# How utterances are divided


def example(number: int, text: str, speaker: str, seconds: float = 1.0) -> Example:
    return Example(Item(f"u{number}", None, text, speaker), seconds)


def crowd(seed: int) -> tuple[list[Example], list[Example], list[Example]]:
    """Utterances with the words by many voices, and general ones of two parts."""
    generator = random.Random(seed)
    voices = [*M["words"].TEST_VOICES, "rico", "naomi", "ian"]
    said = [word for own in SETS for word in own]
    taught = []
    for number in range(400):
        words = generator.sample(said, 1 + (generator.random() < 0.2))
        filler = "".join(generator.choices("defgh", k=3))
        taught.append(
            example(number, f"{filler} {' '.join(words)} {generator.choice('xyz')}", generator.choice(voices))
        )
    general = [example(1000 + k, f"general {k % 90}", generator.choice(voices)) for k in range(120)]
    held_out = [example(2000 + k, f"held {k % 70}", "guide") for k in range(100)]
    return taught, [*general, example(3000, "held 3", "rico")], held_out


@pytest.mark.parametrize("seed", range(5))
def test_no_voice_and_no_text_stands_on_both_sides(seed: int) -> None:
    words = M["words"]
    taught, general, held_out = crowd(seed)
    found = words.divide(taught, general, held_out, SETS)
    teaching = [one for own in found.train for one in own]
    measured = [*found.dev, *found.test]
    assert {e.item.speaker for e in measured} == set(words.TEST_VOICES)
    assert not {e.item.speaker for e in teaching} & set(words.TEST_VOICES)
    texts = {e.item.text for e in [*measured, *found.general_dev, *found.general_test]}
    assert not texts & {e.item.text for e in [*teaching, *found.general_train]}
    assert not {e.item.text for e in found.dev} & {e.item.text for e in found.test}
    words.check(found, SETS)


def test_an_update_reads_no_other_sets_data_unless_its_word_would_have_too_little() -> None:
    words = M["words"]
    taught = [example(k, f"{k} cab {word}", "rico") for k, word in enumerate(["x", "y", "z", "abc", "abc"])]
    taught += [example(10 + k, f"{k} ba", "rico") for k in range(3)]
    found = words.divide(taught, [], [], SETS)
    assert [e.item.text for e in found.train[0]] == ["0 cab x", "1 cab y", "2 cab z", "0 ba", "1 ba", "2 ba"]
    assert [e.item.text for e in found.train[1]] == ["3 cab abc", "4 cab abc"]


def test_a_division_that_breaks_a_promise_is_refused() -> None:
    words = M["words"]
    one = example(0, "a cab", "rico")
    shared = words.Division([[one], []], [], [example(1, "a cab", "joe")], [], [], [])
    with pytest.raises(SystemExit, match="a text teaches and is measured: 'a cab'"):
        words.check(shared, SETS)
    voice = words.Division([[one], []], [], [example(1, "b cab", "rico")], [], [], [])
    with pytest.raises(SystemExit, match="a voice teaches words and is measured: rico"):
        words.check(voice, SETS)
    few = words.Division([[one], []], [], [example(1, "b cab", "joe")], [], [], [])
    with pytest.raises(SystemExit, match="'cab' has 1 training utterances, fewer than 3"):
        words.check(few, SETS)


def test_synthetic_utterances_say_each_word_in_every_carrier() -> None:
    pytest.importorskip("espeakng_loader")
    synthetic = M["synthetic"]
    rows = list(synthetic.utterances(["rocket"], "x"))
    assert [text for _, _, text, _ in rows] == [carrier.format("rocket") for carrier in synthetic.CARRIERS]
    assert len({voice for *_, voice in rows}) == len(synthetic.VOICES)
    for _, samples, _, _ in rows:
        assert samples.dtype == np.float32
        assert 0.8 * 16000 < len(samples) < 6 * 16000
        assert 0.05 < abs(samples).max() <= 1.0


def test_without_espeak_the_run_says_at_once_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    M["synthetic"].engine.cache_clear()
    monkeypatch.setattr(M["words"], "division", lambda: pytest.fail("it reads the corpora first"))
    with pytest.raises(SystemExit, match=r"^synthetic utterances need espeak-ng: pip install espeakng-loader$"):
        M["data"].prepare(tmp_path / "data", smoke=True)
    assert not list((tmp_path / "data").iterdir())


def test_general_audio_is_drawn_in_the_share_that_the_settings_say(study: Any) -> None:
    settings = M["settings"].Settings(1e-2, general=2.5, real=3.0)
    entries = M["specs"].training_data(study.data, [1, 2], settings)
    drawn = {
        Path(e["manifest"]).stem: e.get("weight", 1.0) * study.data.count(Path(e["manifest"]).stem) for e in entries
    }
    general = drawn.pop("general")
    assert drawn == {"real-1": 6.0, "synthetic-1": 2.0, "real-2": 6.0, "synthetic-2": 2.0}
    assert general == pytest.approx(2.5 * sum(drawn.values()))


# What is run, and what is kept


def noise(texts: list[str], name: str, seed: int) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [
        (f"{name}-{k}", 0.1 * generator.standard_normal(4000).astype(np.float32), text, "noise")
        for k, text in enumerate(texts)
    ]


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """Two sets of two words each, taught, said and tested by noise."""
    folder = tmp_path / "out" / "data"
    folder.mkdir(parents=True)
    general = ["a a b", "b c", "c c a b"]
    parts = {"dev": ["a cab"], "test": [s.format(w) for own in SETS for w in own for s in SENTENCES]}
    parts |= {"general": general, "general-dev": general, "general-test": general}
    for number, own in enumerate(SETS, 1):
        parts |= {f"real-{number}": [f"a {w}" for w in own], f"synthetic-{number}": [f"{w} c" for w in own]}
    for seed, (name, texts) in enumerate(parts.items()):
        M["words"].write_manifest(folder / f"{name}.csv", noise(texts, name, seed))
    occurrences = [{"set": n, "word": w, "train": 1, "dev": 0, "test": 3} for n, own in enumerate(SETS, 1) for w in own]
    facts = {
        "sets": SETS,
        "utterances": {name: len(texts) for name, texts in parts.items()},
        "occurrences": occurrences,
    }
    (folder / "data.json").write_text(json.dumps(facts))
    return M["study"].Study(base_bundle(tmp_path / "base"), tmp_path / "out", "smoke", (0,))


def test_units_come_after_what_they_need_and_have_names_of_their_own(study: Any) -> None:
    found = M["study"].units(study)
    names = [unit.name for unit in found]
    assert len(set(names)) == len(names)
    for place, unit in enumerate(found):
        assert set(unit.needs) <= set(names[:place])
    arms = {unit.arm for unit in found if unit.kind == "hear"}
    assert arms == set(M["tables"].ARMS)


class Here:
    """A pool that works at once."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def submit(self, work: Any, *arguments: Any) -> Future[str]:
        future: Future[str] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def test_a_second_start_does_only_what_is_missing(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def fake(study: Any, unit: Any) -> str:
        done.append(unit.name)
        if unit.name == broken:
            raise ValueError("no sound")
        study.file(unit.name).parent.mkdir(parents=True, exist_ok=True)
        study.file(unit.name).write_text("{}")
        return str(unit.name)

    monkeypatch.setattr(M["run"], "ProcessPoolExecutor", Here)
    monkeypatch.setattr(M["run"], "do", fake)
    every = [unit.name for unit in M["study"].units(study)]
    broken = "train--sequential-1--seed-0"
    failed = M["run"].run(study, 2)
    assert failed[broken] == "ValueError: no sound"
    lost = {"train--sequential-2--seed-0", "hear--sequential--seed-0", "hear--full--seed-0"}
    assert set(failed) == {broken, *lost}
    assert set(done) == set(every) - lost
    broken = ""
    done.clear()
    assert M["run"].run(study, 2) == {}
    assert set(done) == {"train--sequential-1--seed-0", *lost}
    done.clear()
    assert M["run"].run(study, 2) == {}
    assert not done


@pytest.mark.slow
def test_updates_are_trained_added_and_heard_and_the_base_stays(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Settings = M["settings"].Settings
    chosen = {
        "adapter": Settings(0.01, rank=2, place=("encoder.layers.*",), silence=1.0),
        "lora": Settings(0.01, rank=2), "full": Settings(1e-3), "fusion": Settings(0.01),
        "joint": Settings(0.01, rank=2, place=("encoder.layers.*",), silence=1.0),
    }  # fmt: skip
    monkeypatch.setattr(M["work"], "CHOSEN", chosen)
    monkeypatch.setattr(M["report"], "CHOSEN", chosen)
    before = contents(study.base)
    beams = ("beam", "boosting", "sum-boosting")  # CTC has neither
    for unit in M["study"].units(study):
        if unit.arm not in beams and (unit.arm != "lora"):
            M["work"].do(study, unit)
    assert contents(study.base) == before
    scores = M["scores"].Scores(study)
    heard = scores.texts("sum", 0)
    assert list(heard) == ["1-2"]
    assert set(heard["1-2"]) == {f"{w}-{k}" for w, n in (("test", 12), ("general-test", 3)) for k in range(n)}
    assert set(scores.texts("single", 0)) == {"1", "2"}
    assert set(study.result("check--sum--seed-0")["check"]["conflicts"][0]) >= {"same_frames", "mean_cosine"}
    report = M["report"].make_report(study, scores, {})
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))).title == report.title
    arms = {str(row["arm"]) for row in report.tables[0].rows}
    assert arms == {M["tables"].ARMS[arm] for arm in M["tables"].ARMS if arm not in (*beams, "lora")}
    assert [table.title for table in report.tables if "espeak-ng" not in table.caption] == []
    assert report.problems[0].startswith("6 of ")


# What the claims compare


def hear(study: Any, arm: str, seed: int | None, hits: dict[str, set[int]], wrong: int = 0) -> None:
    """A unit's result: of each key of active sets the places of the test utterances whose word is heard; `wrong` of the
    general utterances have one word too many."""
    texts = {e.item.id: e.item.text for e in study.data.examples("test")}
    general = {e.item.id: e.item.text for e in study.data.examples("general-test")}
    found = {}
    for key, places in hits.items():
        found[key] = {id: text if int(id.rsplit("-", 1)[1]) in places else "c" for id, text in texts.items()}
        found[key] |= {id: f"{text}{' b' if k < wrong else ''}" for k, (id, text) in enumerate(general.items())}
    name = f"hear--{arm}" if seed is None else f"hear--{arm}--seed-{seed}"
    study.file(name).parent.mkdir(parents=True, exist_ok=True)
    study.file(name).write_text(json.dumps({"texts": found, "seconds": 1.0, "cpu_s": 1.0}))


def test_claims_compare_what_they_say(study: Any) -> None:
    study = M["study"].Study(study.base, study.out, "smoke", (0, 1))
    hear(study, "base", None, {"1-2": {0, 1, 2}})  # 3 of 12
    for seed, summed in ((0, set(range(9))), (1, set(range(10)))):
        hear(study, "single", seed, {"1": set(range(6)), "2": set(range(6, 11))})  # 11 of 12: the middle is 7
        hear(study, "sum", seed, {"1-2": summed}, wrong=1 + seed)
        hear(study, "average", seed, {"1-2": set(range(4))})
        hear(study, "sequential", seed, {"1": set(range(6)), "2": set(range(6, 12)), "1-2": set(range(2, 12))})
    kept, averaged, general, forgotten = M["claims"].verdicts(M["scores"].Scores(study))
    assert [round(one.effect, 6) for one in kept.seeds] == [round(100 * n / 12, 6) for n in (2, 3)]
    assert [round(one.effect, 6) for one in averaged.seeds] == [round(100 * 3 / 12, 6)] * 2
    assert forgotten.effect == pytest.approx(100 * 2 / 6)  # of the first set's six, two are lost
    assert (general.relative, general.margin, general.direction) == (True, 1.0, "not-worse")
    assert kept.low < kept.effect < kept.high


def test_general_speech_is_compared_in_percent_of_the_base(study: Any) -> None:
    hear(study, "base", None, {"1-2": set()}, wrong=2)  # 2 of 9 words
    hear(study, "single", 0, {"1": set(), "2": set()})
    hear(study, "sum", 0, {"1-2": set()}, wrong=3)
    hear(study, "average", 0, {"1-2": set()})
    verdicts = M["claims"].verdicts(M["scores"].Scores(study))
    assert verdicts[2].effect == pytest.approx(50.0)
    assert verdicts[2].unit == "%"
    assert verdicts[3].effect is None
    assert "no seed of its arms is finished" in verdicts[3].note


def test_the_claims_stand_in_the_file_as_they_were_written() -> None:
    claims = M["claims"]
    assert claims.HALF == 0.5
    assert claims.AT == 4
    assert [(one.arm, one.versus, one.direction, one.margin) for one in claims.CLAIMS] == [
        ("sum", "halfway", "better", 0.0),
        ("halfway", "average", "better", 0.0),
        ("sum", "base", "not-worse", 1.0),
        ("taught", "sequential", "better", 0.0),
    ]


def test_the_chosen_settings_are_those_that_the_rule_gives() -> None:
    sweep, settings = M["sweep"], M["settings"]
    adapters = [one for one in sweep.SWEEP if not one.settings.startswith(("LoRA", "full"))]
    fine = [one for one in adapters if one.wer_sum <= sweep.BASE_WER * 1.01]
    assert [one for one in adapters if one.chosen] == [max(fine, key=lambda one: one.together)]
    joint = [one for one in sweep.JOINT if one.wer_sum is not None and one.wer_sum <= 1.01 * sweep.JOINT_WER]
    (best,) = [one for one in sweep.JOINT if one.chosen]
    assert best == max(joint, key=lambda one: one.together or 0)
    chosen = settings.CHOSEN["joint"]
    assert f"rank {chosen.rank}, rate 3e-3, silence {chosen.silence:g}" in best.settings
    low = [one for one in sweep.SWEEP if one.settings.startswith("LoRA")]
    assert not [one for one in low if one.wer_sum <= sweep.BASE_WER * 1.01]
    assert [one for one in low if one.chosen] == [min(low, key=lambda one: one.wer_sum)]
    without = sweep.BOOSTED[0][2]
    assert max((one for one in sweep.BOOSTED if one[2] <= without * 1.01), key=lambda one: one[1])[0] == settings.BONUS
