"""The experiment `pate_asr`: what its units, frames, made-up people and claims promise, and that its small runs go through."""

from __future__ import annotations

import json
import math
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from slt_pate.dp_sgd_component import DpSgd, Sampling
from slt_pate.mechanisms import GNMax
from slt_pate.settings import Protection
from sltcore.audio import read_audio
from sltcore.report import Report
from sltcore.types import Waveform

FOLDER = Path(__file__).parents[1] / "experiments" / "pate_asr"
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


def test_each_dialogue_file_is_in_one_unit_and_none_sounds_like_the_hero() -> None:
    table = json.loads((FOLDER / "units.json").read_text(encoding="utf-8"))
    files = [name for unit in table["units"] for name in unit]
    assert len(files) == len(set(files)) == 72
    assert table["sounds_like_the_hero"] == []
    tested = [unit for unit in table["units"] if M["data"].is_test("+".join(unit))]
    assert (len(table["units"]), len(tested)) == (29, 8)


def test_voices_merge_while_their_mean_is_near_and_no_further() -> None:
    def turned(degrees: float) -> np.ndarray[Any, Any]:
        return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])

    voices = {"a": turned(0), "b": turned(10), "c": turned(24), "d": turned(90)}
    sizes = dict.fromkeys(voices, 5)
    merge = M["merge_roles"].merged
    assert merge(voices, sizes, np.cos(np.radians(20))) == [
        ["a", "b", "c"],
        ["d"],
    ]  # c is 19 degrees from the mean of a and b
    assert merge(voices, sizes, np.cos(np.radians(18))) == [["a", "b"], ["c"], ["d"]]


def test_kept_frames_come_back_from_their_file_and_leave_the_untrained_layer_as_they_are(tmp_path: Path) -> None:
    kept = M["kept_frames"]
    frames = np.random.default_rng(0).normal(0, 5, (7, kept.WIDTH)).astype(np.float32)
    path = tmp_path / "frames.wav"
    soundfile.write(path, frames.reshape(-1) / kept.SCALE, kept.RATE_HZ, subtype="FLOAT")
    samples = torch.from_numpy(read_audio(str(path), kept.RATE_HZ).samples)
    batch = torch.zeros(2, samples.numel() + 3 * kept.WIDTH)
    batch[0, : samples.numel()] = samples
    layer = kept.KeptFrames(hidden=4, kernel=3)
    encoded = layer(Waveform(batch, torch.tensor([samples.numel(), 10 * kept.WIDTH]), kept.RATE_HZ), {})
    assert encoded.lengths.tolist() == [7, 10]
    assert encoded.values[0, :7].detach().numpy() == pytest.approx(frames, abs=1e-5)
    assert not encoded.values[0, 7:].any()


def test_made_up_people_are_the_same_for_a_seed_and_differ_between_people() -> None:
    people = M["people"]
    one, again = (people.say(people.CALLS, 3, 10, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one.features, again.features)
    assert sorted(one.digits[:10].tolist()) == list(range(10))
    assert one.people.tolist() == [person for person in range(3) for _ in range(10)]
    long, short = (people.spectrum((1500.0,), tract, np.zeros(3)).argmax() for tract in (0.7, 1.4))
    assert short > long  # a shorter vocal tract resonates higher


@pytest.mark.slow
def test_votes_on_made_up_people_are_those_of_teachers_with_disjoint_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic = M["synthetic"]
    here = synthetic.world(0, 12, 0)
    met: list[set[str]] = []
    learned = synthetic.Fits.__call__

    def fit(self: Any, rows: Any, **options: Any) -> Any:
        met.append({row["speaker"] for row in rows})
        return learned(self, rows, **options)

    monkeypatch.setattr(synthetic.Fits, "__call__", fit)
    teachers, counts = synthetic.cached_votes(here, here.private, 0)(4)
    assert teachers == 3
    assert sum(map(len, met)) == len(set.union(*met)) == 12
    assert counts.shape == (200, 10)
    assert set(counts.sum(axis=1)) == {len(met)}  # teachers with an empty shard abstain


@pytest.mark.slow
def test_noise_of_a_made_up_run_is_what_the_budget_takes_for_all_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic = M["synthetic"]
    here = synthetic.world(0, 12, 0)
    made: list[float] = []

    class Watched(GNMax):
        def release_batch(self, data: Any) -> Any:
            made.append(self.sigma)
            return super().release_batch(data)

    monkeypatch.setattr("slt_pate.budget.GNMax", Watched)
    synthetic._made(here, here.private, synthetic.Votes(4, 50), 4.0, synthetic.cached_votes(here, here.private, 0))
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    event = SelfComposedDpEvent(GaussianDpEvent(made[0] / np.sqrt(2)), 50)
    assert RdpAccountant().compose(event).get_epsilon(1e-5) == pytest.approx(4.0, rel=2e-3)


def test_an_error_rate_is_the_share_of_wrong_items() -> None:
    stats = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert M["scores"].wrong_share(stats)["wrong"].value == 75.0


def noise_by_divergence(epsilon: float, sampling: Sampling) -> float:
    """As the experiment's, by Rényi divergence alone, which takes milliseconds."""
    if math.isinf(epsilon):
        return 0.0
    return DpSgd(Protection(epsilon, 1e-5, "speaker", "temporary"), sampling).noise_for(sampling.steps)


@pytest.mark.slow
def test_the_synthetic_part_runs_at_its_smallest_size_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(M["synthetic"], "noise_of", noise_by_divergence)
    arguments = ["--out", str(tmp_path), "--size", "smoke", "--part", "synthetic"]
    assert M["run"].main(arguments) == 0
    units = {path.stem: path.stat().st_mtime_ns for path in (tmp_path / "units").glob("*.json")}
    assert {"choice--small--24", "crossing--large--24--seed-0"} <= set(units)
    report = Report.from_dict(json.loads((tmp_path / "report.json").read_text(encoding="utf-8")))
    assert not report.problems
    table = next(one for one in report.tables if one.title == "Made-up people, small model: digits heard wrongly")
    arms = [row["arm"] for row in table.rows]
    assert arms[:2] == ["public only", "non-private"]
    assert {f"{name}, epsilon {budget}" for name in ("PATE", "DP-SGD") for budget in (1, 4, 8)} <= set(arms)
    assert [one.verdict for one in report.verdicts if "Real speech" in one.text] == ["undecided"] * 5
    assert M["run"].main(arguments) == 0
    assert units == {path.stem: path.stat().st_mtime_ns for path in (tmp_path / "units").glob("*.json")}


@pytest.mark.system
def test_the_part_on_real_speech_runs_at_its_smallest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kept_frames", M["kept_frames"])  # the component is found by its module's name
    if not (Path(os.environ.get("SLT_DATA", "/nowhere")) / "kathleen_en").is_dir():
        pytest.skip("SLT_DATA names no folder with the public recordings")
    assert M["run"].main(["--out", str(tmp_path), "--size", "smoke", "--part", "speech"]) == 0
    report = Report.from_dict(json.loads((tmp_path / "report.json").read_text(encoding="utf-8")))
    assert not report.problems
    spent = [json.loads(path.read_text())["spent"] for path in (tmp_path / "units").glob("arm--*--epsilon-4--*.json")]
    assert len(spent) == 3
    assert all(0 < one <= 4 for one in spent)
