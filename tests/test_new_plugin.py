"""`slt new-plugin`: one of each kind is generated, installed, found, and keeps every promise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import sltcore.testing as kit
from sltcore.errors import PluginError
from sltcore.plugin import KINDS
from sltcore.registry import Registry
from sltcore.testing import Case, ComponentPromises, breaches, new_plugin
from sltcore.testing.promises.promise import fallen

LINES = 60
"""What a decoder may take of its author, in all four files."""


def named(kind: str) -> str:
    """The plugin of a kind: two words, so that hyphens and underscores differ."""
    return f"my-{kind}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plugin of each kind."""
    root = tmp_path_factory.mktemp("plugins")
    for kind in KINDS:
        new_plugin(named(kind), kind, root)
    return root


@pytest.fixture(scope="module")
def registry(folder: Path) -> Iterator[Registry]:
    """The plugins announced as `pip install -e` announces them: a .dist-info folder, and the source on the path."""
    site = folder / "site"
    sources = [str(folder / named(kind) / "src") for kind in KINDS]
    for kind in KINDS:
        meta = site / f"sltcore_my_{kind}-0.1.0.dist-info"
        meta.mkdir(parents=True)
        (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sltcore-{named(kind)}\nVersion: 0.1.0\n")
        (meta / "entry_points.txt").write_text(f"[sltcore]\n{named(kind)} = slt_my_{kind}.plugin\n")
    with pytest.MonkeyPatch.context() as patch:
        for path in [str(site), *sources]:
            patch.syspath_prepend(path)
        patch.delenv("SLT_PLUGINS", raising=False)
        yield Registry(path=[str(site)])
    for name in [name for name in sys.modules if name.startswith("slt_my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_plugin_appears_in_the_registry(registry: Registry, kind: str) -> None:
    row = next(row for row in registry.rows if row.plugin == named(kind))
    assert (row.status, row.problem, row.distribution) == ("ok", "", f"sltcore-{named(kind)}")
    assert [(c.kind, c.name) for c in row.components] == [(kind, named(kind))]
    assert all(c.summary and c.source for c in row.components)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_plugin_keeps_every_promise(registry: Registry, kind: str) -> None:
    case = Case.of(kind, named(kind), registry=registry)
    promises = getattr(kit, f"{kind.capitalize()}Promises")
    assert case.excused == {}
    assert breaches(ComponentPromises, case) == {}
    assert breaches(promises, case) == {}
    assert fallen(promises, case.excused) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_plugin_is_complete(folder: Path, kind: str) -> None:
    root = folder / named(kind)
    package = root / "src" / f"slt_my_{kind}"
    for path in ("pyproject.toml", "README.md", "tests/test_conformance.py"):
        assert (root / path).is_file()
    assert {"__init__.py", "py.typed", "plugin.py", "config.py", "build.py"} < {path.name for path in package.iterdir()}
    example = next((root / "examples").iterdir())
    assert named(kind) in example.read_text()
    assert example.read_text().strip() in (root / "README.md").read_text()
    for path in root.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            text = path.read_text()
            leftovers = [
                word for word in ("new-name", "new_name", "NewName", "KIND_", "_LINE", "EXAMPLE_") if word in text
            ]
            assert not leftovers, f"{path}: {leftovers}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_plugin_is_well_formed(folder: Path, kind: str) -> None:
    ruff = shutil.which("ruff") or str(Path(sys.executable).with_name("ruff"))
    if not Path(ruff).exists():
        pytest.skip("ruff is not installed")
    settings = ["--isolated", "--select", "E,F,W,I,UP,B,SIM,RET", "--line-length", "120", "--target-version", "py311"]
    done = subprocess.run(
        [ruff, "check", *settings, "."], cwd=folder / named(kind), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_decoder_takes_at_most_sixty_lines_of_its_author(folder: Path) -> None:
    package = folder / named("decoder") / "src" / "slt_my_decoder"
    lines = [
        line for path in package.glob("*.py") if path.name != "__init__.py" for line in path.read_text().splitlines()
    ]
    assert len([line for line in lines if line.strip()]) <= LINES


def test_the_generated_decoder_takes_a_frame_for_blank_above_the_threshold(registry: Registry) -> None:
    import torch

    from sltcore.pipeline import build_component
    from sltcore.types import Encoded
    from sltcore.vocabulary import Vocabulary

    labels = Vocabulary(["-", "a", "b"])
    # frames read: a a - a b, and the third one has a blank at 0.4, an a at 0.35
    frames = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]).log()
    offers = {"encoder.head": torch.nn.Identity(), "encoder.vocabulary": labels}
    texts = {}
    for threshold in (0.3, 0.5):
        decoder = build_component(
            "decoder", named("decoder"), {"blank_above": threshold}, registry=registry, offers=offers
        )
        nbest = decoder.decode(Encoded(frames[None], torch.tensor([5]), 0.04), {})[0]
        texts[threshold] = nbest.text
    # by hand: with the blank read, "aa-ab" collapses to "aab"; without it "aaaab" collapses to "ab"
    assert texts == {0.3: "aab", 0.5: "ab"}


def test_the_generated_privacy_accountant_equals_a_search_over_orders(registry: Registry) -> None:
    import math

    from sltcore.pipeline import build_component

    mechanism = build_component("privacy", named("privacy"), {"sigma": 7.0}, registry=registry)
    orders = [1 + step / 1000 for step in range(1, 60000)]
    searched = min(30 * order / 7.0**2 + math.log(1e5) / (order - 1) for order in orders)
    assert mechanism.plan(1e-5, queries=30).epsilon == pytest.approx(searched, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Whisper", "'Whisper' cannot name a plugin; use lower-case words joined by hyphens, such as 'whisper-bias'"),
        ("../up", "'../up' cannot name a plugin; use lower-case words"),
        ("two--hyphens", "'two--hyphens' cannot name a plugin; use lower-case words"),
        ("9lives", "'9lives' cannot name a plugin; use lower-case words"),
        ("under_score", "'under_score' cannot name a plugin; use lower-case words"),
        ("", "'' cannot name a plugin; use lower-case words"),
        ("class", "'class' cannot name a plugin, it has a meaning already; add a word, such as 'class-two'"),
        ("sltcore", "'sltcore' cannot name a plugin, it has a meaning already"),
        ("decoder", "'decoder' cannot name a plugin of kind decoder: its class would be called Decoder, as something"),
        ("component", "'component' cannot name a plugin of kind decoder: its class would be called Component"),
    ],
)
def test_a_bad_name_is_refused_in_one_line(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(PluginError) as error:
        new_plugin(name, "decoder", tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        PluginError, match=r"no kind is named 'decodr'; kinds: encoder, .*metric\. Did you mean 'decoder'\?"
    ):
        new_plugin("shout", "decodr", tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "shout").mkdir()
    with pytest.raises(PluginError, match="shout' exists already, and nothing was written; choose another name"):
        new_plugin("shout", "decoder", tmp_path)
    assert not list((tmp_path / "shout").iterdir())


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PluginError, match=r"folder '.*nowhere' does not exist; create it, or name another one with --dir"
    ):
        new_plugin("shout", "decoder", tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["privacy", "objective", "augmentation"])
def test_the_example_program_runs_with_the_core_alone(registry: Registry, folder: Path, kind: str) -> None:
    root = folder / named(kind)
    path = os.pathsep.join([str(folder / "site"), str(root / "src")])
    example = next((root / "examples").glob("*.py"))
    done = subprocess.run(
        [sys.executable, str(example)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "SLT_PLUGINS": named(kind)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert any(character.isdigit() for character in done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "vocoder"])
def test_the_example_spec_runs_with_the_core_alone(registry: Registry, folder: Path, kind: str) -> None:
    root = folder / named(kind)
    path = os.pathsep.join([str(folder / "site"), str(root / "src")])
    example = next((root / "examples").glob("*.yaml"))
    code = (
        f"import numpy, sltcore; result = sltcore.load({str(example)!r})(numpy.ones(16000, dtype=numpy.float32)); "
        "values = getattr(result, 'samples', result); print(values.shape, bool(numpy.isfinite(values).all()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "SLT_PLUGINS": named(kind)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # by hand: 98 windows of 400 samples at shift 160 make 32 stacks of 3; 62 whole shifts of 256 samples
    assert done.stdout.strip() == {"encoder": "(32, 32) True", "vocoder": "(15872,) True"}[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("privacy", "objective", "augmentation")])
def test_the_example_spec_configures_the_component(registry: Registry, folder: Path, kind: str) -> None:
    import yaml

    case = Case.of(kind, named(kind), registry=registry)
    spec = yaml.safe_load(next((folder / named(kind) / "examples").glob("*.yaml")).read_text())
    blocks = [*spec.get("transforms", ()), *spec.get("metrics", ()), *(b for b in spec.values() if isinstance(b, dict))]
    own = next(block for block in blocks if block["use"] == named(kind))
    assert case.fresh(config={key: value for key, value in own.items() if key != "use"}) is not None


@pytest.mark.system
def test_generated_plugins_install_and_run_their_own_tests(folder: Path, tmp_path: Path) -> None:
    """All kinds in one environment that sees this one's packages; each runs the tests it was generated with."""
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    parents = [path for path in sys.path if path.endswith("site-packages")]
    (site / "parent.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in parents))
    sources = [str(folder / named(kind)) for kind in KINDS]
    editable = [word for source in sources for word in ("-e", source)]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, *editable], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    tests = [str(folder / named(kind) / "tests") for kind in KINDS]
    own = {**os.environ, "SLT_PLUGINS": ",".join(named(kind) for kind in KINDS)}
    command = [str(python), "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *tests], capture_output=True, text=True, timeout=600, env=own, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout
