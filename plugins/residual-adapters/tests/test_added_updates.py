"""Updates of a bundle: added and taken away in any order, the base's files the same bit for bit."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from adapter_bundles import base_bundle, contents, drawn, drawn_file, spec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from safetensors import safe_open
from torch import Tensor
from typer.testing import CliRunner

import sltcore
from slt_residual_adapters.added import NEEDS, add, read_added, read_all, remove
from slt_residual_adapters.commands import app
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import read_update, save_update
from sltcore.bundle import load_bundle, save_bundle
from sltcore.errors import BundleError, PluginError, SltError, SpecError
from sltcore.registry import Registry
from sltcore.types import Waveform

pytest.importorskip("slt_speech")

NAMES = ("monday", "wednesday", "friday", "sunday")


def heard(pipeline: Any, **context: Any) -> Tensor:
    """Frames of a fixed sound."""
    sound = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), pipeline.using(context):
        return torch.as_tensor(pipeline.model.encoder(Waveform(sound, torch.tensor([8000]), 16000), {}).values)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_bundle(tmp_path / "base")


class AddAndRemove(RuleBasedStateMachine):
    """Any sequence of add and remove, on disk and on an attached model, against a plain list of names."""

    taken: ClassVar[list[int]] = []  # steps of each run

    @initialize()
    def begin(self) -> None:
        self.steps = 0
        self.place = Path(tempfile.mkdtemp())
        self.bundle = base_bundle(self.place / "base")
        self.before = contents(self.bundle)
        self.plain = heard(load_bundle(self.bundle))
        self.files = {name: drawn_file(self.bundle, self.place, name) for name in NAMES}
        self.names: list[str] = []
        self.model = load_bundle(self.bundle).model
        self.weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    @rule(name=st.sampled_from(NAMES), weight=st.sampled_from([None, 0.5, -1.0]))
    def add_one(self, name: str, weight: float | None) -> None:
        add(self.bundle, [self.files[name]], weight=weight)
        if name not in self.names:
            self.names.append(name)

    @precondition(lambda self: bool(self.names))
    @rule(data=st.data())
    def remove_one(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.names))
        remove(self.bundle, [name])
        self.names.remove(name)

    @rule(name=st.sampled_from(NAMES))
    def remove_what_is_not_there(self, name: str) -> None:
        if name in self.names:
            return
        with pytest.raises(PluginError, match=f"no update named '{name}' is added"):
            remove(self.bundle, [name])

    @precondition(lambda self: bool(self.names))
    @rule()
    def attach_and_detach(self) -> None:
        adapters = ResidualAdapters(updates=[update for update, _ in read_all(self.bundle).values()])
        adapters.attach(self.model)
        adapters.detach()

    @invariant()
    def the_base_is_what_it_was(self) -> None:
        if not hasattr(self, "bundle"):
            return
        self.steps += 1
        assert read_added(self.bundle).names == self.names
        now = contents(self.bundle)
        if not self.names:
            assert now == self.before
        assert {name: now[name] for name in self.before} == self.before
        state = self.model.state_dict()
        assert all(torch.equal(self.weights[name], tensor) for name, tensor in state.items())

    def teardown(self) -> None:
        if not hasattr(self, "bundle"):
            return
        self.taken.append(self.steps)
        if self.names:
            remove(self.bundle, self.names)
        assert contents(self.bundle) == self.before
        assert torch.equal(heard(load_bundle(self.bundle)), self.plain)
        shutil.rmtree(self.place)


@pytest.mark.slow
def test_any_500_steps_of_add_and_remove_leave_the_base_bit_for_bit() -> None:
    AddAndRemove.taken.clear()
    long = settings(
        max_examples=4,
        stateful_step_count=500,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),  # which warn of long runs, wanted here
    )
    run_state_machine_as_test(AddAndRemove, settings=long)
    assert max(AddAndRemove.taken) == 500


def test_a_bundle_with_updates_hears_what_the_updates_do(base: Path, tmp_path: Path) -> None:
    plain = heard(load_bundle(base))
    files = [drawn_file(base, tmp_path, name) for name in ("monday", "friday")]
    add(base, files, weight=0.5)
    loaded = sltcore.load(base)
    by_spec = sltcore.load(
        base,
        overrides=[
            f"transforms=[{{use: residual, updates: ['{files[0]}', '{files[1]}'], weights: {{monday: 0.5, friday: 0.5}}}}]"
        ],
    )
    assert torch.equal(heard(loaded), heard(by_spec))
    assert not torch.equal(heard(loaded), plain)
    assert torch.equal(heard(loaded, updates=[]), plain)
    assert set(loaded.context_keys) >= {"updates", "transcript"}
    remove(base, ["friday"])
    alone = heard(sltcore.load(base))
    assert torch.equal(alone, heard(loaded, updates=["monday"]))
    remove(base, ["monday"])
    assert torch.equal(heard(sltcore.load(base)), plain)


def test_a_call_names_updates(base: Path, tmp_path: Path) -> None:
    add(base, [drawn_file(base, tmp_path, "monday", scale=3.0)])
    pipeline = sltcore.load(base)
    sound = [0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(k)).numpy() for k in range(2)]
    with_it, without = (pipeline(sound, updates=names) for names in (["monday"], []))
    mixed = pipeline(sound, updates=[["monday"], []])
    assert (mixed[0].best.tokens, mixed[1].best.tokens) == (with_it[0].best.tokens, without[1].best.tokens)
    with pytest.raises(SltError, match=r"context 'updates' names 'monda', .* Did you mean 'monday'\?"):
        pipeline(sound, updates=["monda"])


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -101.0])
def test_a_weight_is_a_number_within_reason(base: Path, tmp_path: Path, weight: float) -> None:
    with pytest.raises(SpecError, match=rf"weight of updates is {weight:g}, expected a number from -100 to 100"):
        add(base, [drawn_file(base, tmp_path, "monday")], weight=weight)
    assert not (base / "updates").exists()


@pytest.mark.parametrize("fusion", ["average", "stack"])
def test_the_fusion_of_a_bundle_is_kept(base: Path, tmp_path: Path, fusion: Any) -> None:
    files = [drawn_file(base, tmp_path, name) for name in ("monday", "friday")]
    add(base, files, fusion=fusion)
    add(base, files[:1], weight=2.0)
    assert read_added(base).fusion == fusion
    plain = load_bundle(base_bundle(tmp_path / "other"))
    ResidualAdapters(updates=[read_update(file) for file in files], fusion=fusion, weights={"monday": 2.0}).attach(
        plain.model
    )
    assert torch.equal(heard(plain), heard(sltcore.load(base)))


# -- what is refused


def test_an_update_of_another_base_is_refused_everywhere(base: Path, tmp_path: Path) -> None:
    other = base_bundle(tmp_path / "other", seed=1)
    before = contents(base)
    file = drawn_file(other, tmp_path, "monday")
    with pytest.raises(
        PluginError, match=r"update 'monday' was trained on another base than bundle .*: decoder, encoder differ"
    ):
        add(base, [file])
    assert contents(base) == before
    with pytest.raises(PluginError, match=r"trained on another base than this model"):
        sltcore.load(base, overrides=[f"transforms=[{{use: residual, updates: ['{file}']}}]"])


def test_one_changed_number_makes_another_base(base: Path, tmp_path: Path) -> None:
    update = drawn(base, "monday")
    pipeline = load_bundle(base)
    with torch.no_grad():
        next(pipeline.model.encoder.parameters()).view(-1)[0] += 1e-7
    with pytest.raises(PluginError, match=r"another base than this model: encoder differs \(sha256 [0-9a-f]{8}… of"):
        ResidualAdapters(updates=[update]).attach(pipeline.model)


def test_a_restored_update_on_another_base_is_refused_when_it_is_called(base: Path) -> None:
    one = load_bundle(base)
    adapters = ResidualAdapters(updates=[drawn(base, "monday")])
    adapters.attach(one.model)
    state = dict(adapters.state())
    with torch.no_grad():
        next(one.model.encoder.parameters()).view(-1)[0] += 1e-7
    adapters.detach()
    adapters = ResidualAdapters(updates=[drawn(base, "monday")])
    adapters.restore(one.model, state)
    with pytest.raises(PluginError, match=r"another base than this model: encoder differs"):
        heard(one)


def test_an_added_bundle_under_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    add(base, [drawn_file(base, tmp_path, "monday")])
    other = base_bundle(tmp_path / "other", seed=1)
    shutil.copytree(base / "updates", other / "updates")
    with pytest.raises(PluginError, match=r"trained on another base than bundle .*other"):
        sltcore.load(other)


def test_two_updates_of_one_name_are_refused(base: Path, tmp_path: Path) -> None:
    add(base, [drawn_file(base, tmp_path, "monday")])
    again = save_update(drawn(base, "monday", scale=2.0), tmp_path / "again.safetensors")
    with pytest.raises(
        PluginError, match="another update named 'monday' is added; remove it first: slt adapters remove"
    ):
        add(base, [again])
    with pytest.raises(PluginError, match="two of the updates have one name"):
        add(base_bundle(tmp_path / "fresh"), [again, tmp_path / "monday.safetensors"])
    with pytest.raises(PluginError, match="two updates are named 'monday'"):
        ResidualAdapters(updates=[again, again]).attach(load_bundle(tmp_path / "fresh").model)


def test_damaged_files_are_told(base: Path, tmp_path: Path) -> None:
    add(base, [drawn_file(base, tmp_path, "monday")])
    file = base / "updates" / "monday.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"x")
    with pytest.raises(BundleError, match=r"monday.safetensors does not match updates/added.json \(sha256"):
        sltcore.load(base)
    file.unlink()
    with pytest.raises(BundleError, match="monday.safetensors of updates/added.json is missing; add the update again"):
        sltcore.load(base)
    file.write_bytes(good)
    listed = base / "updates" / "added.json"
    text = listed.read_text()
    for bad in ("{", "[]", text.replace("monday", "../monday"), text.replace('"sum"', '"sun"')):
        listed.write_text(bad)
        with pytest.raises(BundleError, match=r"updates/added.json is cut or changed; remove the folder updates"):
            sltcore.load(base)
    listed.write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(BundleError, match="updates/added.json has format 9, expected 2"):
        sltcore.load(base)


def test_without_the_plugin_a_bundle_with_updates_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = drawn_file(base, tmp_path, "monday")
    plain = heard(sltcore.load(base))
    add(base, [file])
    full = Registry()
    bare = Registry.from_rows(row for row in full.rows if row.distribution != NEEDS)
    with pytest.raises(
        BundleError, match=rf"updates/added.json needs {NEEDS}, which is not installed; .* remove the folder"
    ):
        sltcore.load(base, registry=bare)
    monkeypatch.setenv("SLT_DISABLE", NEEDS)
    with pytest.raises(BundleError, match=f"updates/added.json needs {NEEDS}, which is disabled"):
        sltcore.load(base, registry=Registry())
    remove(base, ["monday"])
    assert torch.equal(heard(sltcore.load(base, registry=Registry())), plain)


def test_what_is_no_update_is_told(base: Path, tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text("no tensors")
    cases = {
        tmp_path / "none.safetensors": "there is no such file",
        text: "it cannot be read",
        base / "weights.safetensors": "it is a safetensors file, but no update",
        base: "holds no update, expected one",
    }
    for path, message in cases.items():
        with pytest.raises(PluginError, match=message):
            read_update(path)
    with pytest.raises(SpecError, match=r"no fusion is named 'sun'; added updates take: .* Did you mean 'sum'\?"):
        add(base, [drawn_file(base, tmp_path, "monday")], fusion="sun")
    with pytest.raises(SpecError, match="fusion 'attention' is learned: give what training it left among the updates"):
        add(base, [tmp_path / "monday.safetensors"], fusion="attention")


def test_a_bundle_with_added_updates_is_not_saved_as_another(base: Path, tmp_path: Path) -> None:
    add(base, [drawn_file(base, tmp_path, "monday")])
    with pytest.raises(
        BundleError, match=r"added updates \(monday\), which cannot be saved into another; copy the folder"
    ):
        save_bundle(sltcore.load(base), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    shutil.copytree(base, tmp_path / "copied")
    assert torch.equal(heard(sltcore.load(base)), heard(sltcore.load(tmp_path / "copied")))


def test_a_bundle_with_adapters_in_its_spec_takes_no_further_ones(base: Path, tmp_path: Path) -> None:
    file = drawn_file(base, tmp_path, "monday")
    pipeline = sltcore.load(base, overrides=[f"transforms=[{{use: residual, updates: ['{file}']}}]"])
    own = save_bundle(pipeline, tmp_path / "own")
    assert torch.equal(heard(sltcore.load(own)), heard(pipeline))
    with pytest.raises(PluginError, match=r"its spec has adapters of its own \(transforms\[0\]\)"):
        add(own, [file])
    other = sltcore.load(own, overrides=["transforms[0].weights={monday: 0}"])
    assert torch.equal(heard(other), heard(sltcore.load(base)))
    with pytest.raises(BundleError, match=r"transforms\[0\]\.updates is .* in its stored weights"):
        sltcore.load(own, overrides=["transforms[0].updates=[]"])


# -- files and commands


def test_an_update_is_one_file_that_says_what_it_is(base: Path, tmp_path: Path) -> None:
    update = drawn(base, "monday", words=("Aurora Rising",))
    path = save_update(update, tmp_path / "monday.safetensors")
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["slt_update"])
    assert facts["name"] == "monday"
    assert facts["words"] == ["Aurora Rising"]
    assert facts["base"] == dict(update.base)
    assert facts["card"] == {"data": "none, random numbers"}
    assert facts["places"] == ["encoder.layers.1"]
    again = read_update(path)
    assert save_update(again, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert (again.rank, again.parameters) == (3, 64)


def invoke(*words: object, code: int = 0) -> str:
    answer = CliRunner().invoke(app, [str(word) for word in words])
    assert answer.exit_code == code, answer.output
    return answer.output


def test_the_commands_in_the_order_of_a_release(base: Path, tmp_path: Path) -> None:
    before = contents(base)
    trained = sltcore.load(base, overrides=["transforms=[{use: residual, name: monday, rank: 2, words: [ab, cab]}]"])
    bundle = save_bundle(
        trained, tmp_path / "trained", training={"data": "manifest monday.csv", "steps": 7, "values": {}}
    )
    file = tmp_path / "monday.safetensors"
    assert "update 'monday', 2 places" in invoke("save", bundle, file)
    assert read_update(file).card == {"data": "manifest monday.csv", "steps": 7, "values": {}}
    assert "no updates are added" in invoke("list", base)
    assert "added 'monday', 2 places" in invoke("add", base, file, "--weight", "0.5")
    assert "ab, cab" in invoke("list", base)
    (row,) = json.loads(invoke("list", base, "--json"))["updates"]
    assert (row["name"], row["weight"], row["words"], row["rank"]) == ("monday", 0.5, ["ab", "cab"], 2)
    assert "removed 'monday'" in invoke("remove", base, "monday")
    assert contents(base) == before
    invoke("add", base, bundle)  # the bundle of the training does as well
    invoke("remove", base, "monday")
    assert contents(base) == before


def test_a_fresh_update_in_a_pipeline_is_the_base_bit_for_bit(base: Path) -> None:
    pipeline = sltcore.load(base, overrides=["transforms=[{use: residual, name: monday}]"])
    assert torch.equal(heard(pipeline), heard(sltcore.load(base)))
    assert spec()["transforms"] == []
