"""Bundles move, lose the files they were made from, meet strays and strangers, and still say what they are."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_plugins import Site
from torch import nn

import sltcore
from sltcore.bundle import describe_bundle, load_bundle, provenance, save_bundle
from sltcore.bundle.weights import fill_model, read_weights, save_weights
from sltcore.errors import BundleError, SltError
from sltcore.registry import Registry

SPEC = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {"use": "lstm", "hidden": 16, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}},
    "decoder": {"use": "ctc-greedy", "characters": "abcdefgh"},
}
SOUND = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
ARPA = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1.0\t<s>\n-1.0\t</s>\n-0.7\tab\n-0.9\tcad\n\n\\end\\\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return save_bundle(sltcore.load(SPEC), tmp_path_factory.mktemp("bundles") / "tiny")


def resigned(folder: Path, **changes: object) -> None:
    """Sign a folder again, as a stranger could."""
    facts = json.loads((folder / "provenance.json").read_text())
    for name in ("self", "sha256", "bundle"):
        facts.pop(name)
    provenance.write(folder, {**facts, **changes})


def test_a_moved_bundle_works_after_its_source_files_are_gone(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "words.arpa").write_text(ARPA)
    spec = {
        **SPEC,
        "decoder": {
            "use": "ctc-beam",
            "characters": "abcdefgh ",
            "beam": 4,
            "lm_file": str(source / "words.arpa"),
            "lexicon": "spelling",
        },
    }
    pipeline = sltcore.load(spec)
    expected = pipeline(SOUND)
    save_bundle(pipeline, tmp_path / "made")
    del pipeline
    shutil.rmtree(source)
    moved = tmp_path / "a folder with spaces — ü"
    shutil.move(tmp_path / "made", moved)
    again = load_bundle(moved)
    assert again(SOUND) == expected
    assert str(tmp_path) not in (moved / "spec.yaml").read_text()
    third = save_bundle(again, tmp_path / "third")
    shutil.rmtree(moved)
    assert load_bundle(third)(SOUND) == expected


def test_a_relative_folder_is_found_from_anywhere(bundle: Path, monkeypatch):
    monkeypatch.chdir(bundle.parent)
    pipeline = load_bundle(Path("tiny"))
    monkeypatch.chdir("/")
    assert pipeline(SOUND) == sltcore.load(SPEC)(SOUND)


def test_a_linked_folder_is_a_bundle_and_replacing_it_leaves_what_it_points_at(bundle: Path, tmp_path: Path):
    real = tmp_path / "real"
    shutil.copytree(bundle, real)
    link = tmp_path / "link"
    link.symlink_to(real)
    assert load_bundle(link)(SOUND) == load_bundle(bundle)(SOUND)
    save_bundle(sltcore.load(SPEC, overrides=["seed=9"]), link, force=True)
    assert load_bundle(real)(SOUND) == load_bundle(bundle)(SOUND)
    assert describe_bundle(link)["spec"]["seed"] == 9


def test_strays_among_the_components_files_are_refused_and_elsewhere_ignored(bundle: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "NOTES.txt").write_text("mine")
    (copy / "files" / ".DS_Store").write_text("x")
    assert load_bundle(copy)(SOUND) == load_bundle(bundle)(SOUND)
    (copy / "files" / "decoder" / "words.arpa").write_text("x")
    with pytest.raises(
        BundleError, match=r"files/decoder/words.arpa was added after saving; remove it, or copy the bundle again"
    ):
        load_bundle(copy)


def test_a_signed_file_that_lacks_what_a_bundle_needs_is_refused(bundle: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "weights.safetensors").unlink()
    resigned(copy)
    with pytest.raises(BundleError, match=r"provenance.json says nothing about weights.safetensors"):
        load_bundle(copy)
    resigned(copy, aliases=None)
    with pytest.raises(BundleError, match=r"provenance.json says nothing about aliases"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)),
            "spec.yaml",
        ),
        ("- a list\n", "spec.yaml is no map"),
        ("slt: 1\nkind: !!python/object/apply:os.system [ls]\n", "spec.yaml"),
    ],
)
def test_a_strangers_spec_is_read_as_carefully_as_any(bundle: Path, tmp_path: Path, text, message):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "spec.yaml").write_text(text)
    resigned(copy)
    for read in (load_bundle, describe_bundle):
        with pytest.raises(SltError, match=message) as caught:
            read(copy)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["1e-4", "no", "null", "0x10", "~", "a: b", "ü\u0085x", "12:30:00"])
def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path, name):
    folder = save_bundle(sltcore.load({**SPEC, "name": name}), tmp_path / "b")
    assert load_bundle(folder).spec.model.name == name
    assert sltcore.load(folder / "spec.yaml", overrides=["decoder.characters=abcdefgh"]).spec.model.name == name


def test_of_two_saves_at_once_one_wins_whole_and_the_other_says_so(tmp_path: Path):
    pipelines = [sltcore.load(SPEC, overrides=[f"seed={seed}"]) for seed in range(4)]
    problems: list[Exception] = []

    def save(pipeline) -> None:
        try:
            save_bundle(pipeline, tmp_path / "b")
        except BundleError as error:
            problems.append(error)

    threads = [threading.Thread(target=save, args=(pipeline,)) for pipeline in pipelines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(problems) == 3
    seed = describe_bundle(tmp_path / "b")["spec"]["seed"]
    assert load_bundle(tmp_path / "b")(SOUND) == pipelines[seed](SOUND)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_components_of_no_known_distribution_are_saved_without_a_version(tmp_path: Path):
    from dataclasses import replace

    pipeline = sltcore.load(SPEC)
    block = pipeline.spec.model.decoder
    for name in ("", "nobody-has-this"):
        nameless = replace(block, entry=replace(block.entry, distribution=name))
        model = pipeline.spec.model.model_copy(update={"decoder": nameless})
        pipeline.spec = pipeline.spec._replace(model=model)
        folder = save_bundle(pipeline, tmp_path / f"b{name}")
        facts = describe_bundle(folder)["provenance"]
        assert facts["components"]["decoder"]["distribution"] == name
        assert name not in facts["distributions"]
        assert load_bundle(folder)(SOUND) == sltcore.load(SPEC)(SOUND)


def test_views_empty_tensors_halves_and_odd_strides_come_back(tmp_path: Path):
    whole = torch.randn(6, 4)
    tensors = {
        "whole": whole,
        "same": whole,
        "top": whole[:2],
        "bottom": whole[3:],
        "turned": whole.T,
        "flat": whole.view(-1),
        "column": whole[:, 1],
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "empty": torch.zeros(0, 5),
        "also empty": torch.zeros(0, 5),
        "number": torch.tensor(3),
        "truth": torch.tensor([True, False]),
        "spread": torch.ones(1).expand(4),
    }
    aliases = save_weights(tmp_path / "w.safetensors", tensors)
    assert aliases == {"same": "whole"}
    stored = read_weights(tmp_path / "w.safetensors")
    stored.update({alias: stored[name] for alias, name in aliases.items()})
    assert set(stored) == set(tensors)
    for name, tensor in tensors.items():
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name], tensor)


def test_what_is_no_tensor_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match="x._extra_state is a dict, but a bundle holds tensors only"):
        save_weights(tmp_path / "w.safetensors", {"x._extra_state": {}})


def test_numbers_of_another_kind_are_refused(tmp_path: Path):
    model = nn.Linear(2, 2, bias=False)
    with pytest.raises(BundleError, match="weight holds torch.int64, but the model expects torch.float32"):
        fill_model(model, {"weight": torch.ones(2, 2, dtype=torch.int64)}, bundle=tmp_path)
    fill_model(model, {"weight": torch.ones(2, 2).half()}, bundle=tmp_path)
    assert torch.equal(model.weight, torch.ones(2, 2))


def test_a_replaced_transform_is_attached_anew_and_a_kept_one_restored(bundle: Path, monkeypatch):
    import sltcore.bundle.bundle as module
    from sltcore.pipeline import build

    calls = []

    class Spy:
        def context_keys(self):
            return ()

        def restore(self, model, state):
            calls.append(("restore", sorted(state)))

        def attach(self, model):
            calls.append(("attach", float(model.state_dict()["decoder.head.weight"].abs().sum()) > 0))

    inner = build.build_spec

    def with_spies(spec, registry, folder=None):
        built = inner(spec, registry, folder)
        built.transforms = [Spy(), Spy()]
        return built

    monkeypatch.setattr(build, "build_spec", with_spies)
    monkeypatch.setattr(module, "load_spec", lambda data, overrides, registry, folder, kind: sltcore.load(SPEC).spec)
    load_bundle(bundle, overrides=["transforms[1]={use: bits}"])
    assert calls == [("restore", []), ("attach", True)]
    calls.clear()
    load_bundle(bundle, overrides=["transforms = []"])
    assert [name for name, _ in calls] == ["attach", "attach"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(bundle: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "weights.safetensors").chmod(0)
    with pytest.raises(SltError, match="weights.safetensors"):
        load_bundle(copy)


ADDITION = '{"format": 1, "needs": "sltcore-additions"}'
ADDING = """
from sltcore.plugin import hookimpl
SLT_API = (1, 0)
@hookimpl
def slt_components():
    return []
"""


def test_what_was_added_is_never_passed_over_in_silence(bundle: Path, tmp_path: Path, monkeypatch):
    copy = tmp_path / "added"
    shutil.copytree(bundle, copy)
    (copy / "more").mkdir()
    (copy / "more" / "added.json").write_text(ADDITION)
    missing = r"more/added.json needs sltcore-additions, which is not installed; the bundle would work without .* pip install sltcore-additions, or remove the folder more"
    for load in (load_bundle, sltcore.load):
        with pytest.raises(BundleError, match=missing) as raised:
            load(copy)
        assert "\n" not in str(raised.value)
    site = Site(tmp_path / "site")
    site.add("additions", ADDING)
    monkeypatch.syspath_prepend(str(site.folder))
    expected = sltcore.load(bundle)(SOUND)
    assert load_bundle(copy, registry=Registry())(SOUND) == expected
    monkeypatch.setenv("SLT_DISABLE", "additions")
    with pytest.raises(BundleError, match="needs sltcore-additions, which is disabled: kept out by SLT_DISABLE"):
        load_bundle(copy, registry=Registry())


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"needs": ""}', '{"needs": 3}'])
def test_an_addition_that_does_not_say_what_it_needs_is_refused(bundle: Path, tmp_path: Path, text: str):
    copy = tmp_path / "added"
    shutil.copytree(bundle, copy)
    (copy / "more").mkdir()
    (copy / "more" / "added.json").write_text(text)
    with pytest.raises(BundleError, match="more/added.json is cut or changed; remove the folder more and add again"):
        load_bundle(copy)


def test_a_bundle_saved_with_such_a_file_of_its_own_loads(bundle: Path, tmp_path: Path):
    copy = tmp_path / "own"
    shutil.copytree(bundle, copy)
    (copy / "more").mkdir()
    (copy / "more" / "added.json").write_text("{}")
    resigned(copy)
    assert load_bundle(copy)(SOUND) == sltcore.load(bundle)(SOUND)
