"""The conformance kit, tested on components that break exactly one promise each."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sltcore.testing as kit
from sltcore.errors import PluginError
from sltcore.interfaces import INTERFACES, Encoder
from sltcore.plugin import KINDS, Component
from sltcore.registry import Registry, Row
from sltcore.testing import Case, ComponentPromises, EncoderPromises, Promises, breaches
from sltcore.testing.promises import component as component_promises
from sltcore.testing.promises.promise import broken, fallen, name_of_test

FOLDER = Path(__file__).parent / "broken"
TRANSFORMS = ("quantizer", "accelerator", "adapter")
PARTS = ("encoder", "decoder", "vocoder", "reranker", "objective", "augmentation", "metric", "privacy")


def loaded(name: str) -> ModuleType:
    """A module of the folder of broken components, importable by the name `broken_NAME`."""
    full = f"broken_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


def good_of(kind: str) -> type:
    """The component that keeps every promise of its kind."""
    found: type = loaded("transform").GOOD[kind] if kind in TRANSFORMS else loaded(kind).Good
    return found


def broken_of(kind: str) -> Mapping[str, tuple[type, str]]:
    """For each promise the component that breaks it, and what the reason says."""
    found: Mapping[str, tuple[type, str]] = (
        loaded("transform").BROKEN[kind] if kind in TRANSFORMS else loaded(kind).BROKEN
    )
    return found


def promises_of(kind: str) -> type[Promises]:
    """The kit's class for a kind."""
    found: type[Promises] = getattr(kit, f"{kind.capitalize()}Promises")
    return found


def case_of(kind: str, cls: type) -> Case:
    """A case that builds `cls`, with the config as keyword arguments."""
    small = loaded("transform" if kind in TRANSFORMS else kind).SMALL
    component = Component(kind, "shout", impl="x:y", config="x:Y", summary="for tests", small=small)
    return Case(component, lambda config, ports, seed: cls(**config))


PAIRS = [(kind, promise) for kind in KINDS for promise in INTERFACES[kind].promises]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_component_keeps_every_promise(kind: str) -> None:
    assert breaches(promises_of(kind), case_of(kind, good_of(kind))) == {}


@pytest.mark.parametrize(("kind", "promise"), PAIRS, ids=[f"{kind}-{promise}" for kind, promise in PAIRS])
def test_exactly_the_intended_promise_fails(kind: str, promise: str) -> None:
    cls, reason = broken_of(kind)[promise]
    found = breaches(promises_of(kind), case_of(kind, cls))
    assert set(found) == {promise}
    message = found[promise]
    sentence = INTERFACES[kind].promises[promise]  # type: ignore[attr-defined]
    assert message.startswith(f"Broken promise: {kind} 'shout': {sentence}. Reason: ")
    assert re.search(reason, message)
    assert re.search(r"To mend: \S.{20,}\.$", message)
    assert "\n" not in message


@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_has_a_test_and_every_test_a_promise(kind: str) -> None:
    promises = promises_of(kind)
    assert dict(promises.promises) == dict(INTERFACES[kind].promises)  # type: ignore[attr-defined]
    assert set(broken_of(kind)) == set(promises.promises)
    assert fallen(promises, {}) is None


# Promises of every component, on components that come through a registry

GENERIC: Mapping[str, tuple[str, str, str]] = {
    "described": ("good", "component:UndescribedConfig", "field 'gain' has no description"),
    "fields-read": ("good", "component:UnreadConfig", "nothing reads colour while it is built"),
    "config-errors": ("good", "component:LenientConfig", "it was built with gain="),
    "light-import": ("good", "heavy:HeavyConfig", "in a fresh process loads numpy"),
    "quick": ("slow", "component:GoodConfig", "building took 0.2 s of CPU, allowed are 0.1"),
    "interface": ("duck", "component:GoodConfig", "it built a Duck, which is no Encoder"),
    "ports": ("writes_text", "component:GoodConfig", "produces is Text, a encoder produces Encoded or Features"),
    "context-keys": ("reads_unknown", "component:GoodConfig", "the key 'phrases' has the unknown type 'textes'"),
    "source": ("unsourced", "component:GoodConfig", "neither Unsourced nor its module has a 'Source:'"),
    "reload": (
        "hides_weights",
        "component:GoodConfig",
        "the saved weights and files differs: utterance 0: frame 0 is the first",
    ),
}


@pytest.fixture
def generic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that makes the case of a builder and a config in the folder of broken components."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(component_promises, "BUILD_SECONDS", 0.1)

    def make(builder: str, config: str, **small: Any) -> Case:
        shout = Component(
            "encoder", "shout", impl=f"component:{builder}", config=config, summary="for tests", small=small
        )
        row = Row(plugin="shout", distribution="slt-shout", version="1", module="light", components=(shout,))
        case = Case.of("encoder", "shout", registry=Registry.from_rows([row]))
        # torch is imported by these modules; the configs proper are looked at in light.py and heavy.py
        modules = tuple(name if name == "heavy" else "light" for name in case.modules)
        make_it = case.make if builder != "duck" else lambda config, ports, seed: loaded("component").Duck(**config)
        return Case(case.component, make_it, case.entry, modules)

    yield make
    for name in ("component", "heavy", "light"):
        sys.modules.pop(name, None)


def test_a_good_component_keeps_what_every_component_promises(generic: Any) -> None:
    assert breaches(ComponentPromises, generic("good", "component:GoodConfig")) == {}


def test_every_generic_promise_has_a_broken_component() -> None:
    assert set(GENERIC) == set(ComponentPromises.promises)
    assert fallen(ComponentPromises, {}) is None


@pytest.mark.parametrize("promise", GENERIC)
def test_exactly_the_intended_generic_promise_fails(generic: Any, promise: str) -> None:
    builder, config, reason = GENERIC[promise]
    case = generic(builder, config)
    found = breaches(ComponentPromises, case)
    if promise == "interface":  # what is no encoder at all refuses no wrong value either, it was never asked by a spec
        found.pop("config-errors", None)
        found.pop("fields-read", None)
    assert set(found) == {promise}
    assert reason in found[promise]


# The guard, excuses, and messages


def test_an_override_without_xfail_is_refused() -> None:
    class Override(EncoderPromises):
        def test_padding(self, case: Case) -> None:
            return

    class Excused(EncoderPromises):
        @pytest.mark.xfail(reason="reads the whole batch on purpose")
        def test_padding(self, case: Case) -> None:
            return

    class Dropped(EncoderPromises):
        test_padding = None  # type: ignore[assignment]

    class Unguarded(EncoderPromises):
        def test_every_promise_stands(self, case: Case) -> None:
            return

    assert fallen(Override, {}) == "Override overrides test_padding without xfail(reason=...)"
    assert fallen(Dropped, {}) == "Dropped drops test_padding"
    assert fallen(Unguarded, {}) == "Unguarded overrides test_every_promise_stands"
    assert fallen(Excused, {}) is None


def test_an_excuse_needs_a_known_promise_and_a_reason() -> None:
    assert "small excuses 'paddings', which is no promise; promises: batch," in str(
        fallen(EncoderPromises, {"paddings": "x"})
    )
    assert fallen(EncoderPromises, {"padding": " "}) == "small excuses 'padding' without a reason"
    assert fallen(EncoderPromises, {"padding": "reads ahead", "source": "a secret"}) is None


def test_an_excused_promise_is_no_breach() -> None:
    module = loaded("encoder")
    small = {**module.SMALL, "skip": {"padding": "reads what stands behind on purpose"}}
    component = Component("encoder", "shout", impl="x:y", config="x:Y", summary="for tests", small=small)
    assert breaches(EncoderPromises, Case(component, lambda config, ports, seed: module.ReadsPadding())) == {}


def test_small_refuses_unknown_keys() -> None:
    component = Component("encoder", "shout", impl="x:y", config="x:Y", summary="s", small={"context": []})
    with pytest.raises(PluginError, match="encoder 'shout': small has no key 'context'; keys: config, contexts, "):
        _ = Case(component, lambda config, ports, seed: None).contexts


def test_breaches_needs_the_class_of_a_kind() -> None:
    with pytest.raises(PluginError, match="Promises has no promises; take the class of a kind"):
        breaches(Promises, case_of("encoder", good_of("encoder")))


def test_an_error_of_the_component_names_its_line() -> None:
    class Raises(good_of("encoder")):  # type: ignore[misc]
        def forward(self, x: Any, context: Any) -> Any:
            raise IndexError("no such frame")

    message = breaches(EncoderPromises, case_of("encoder", Raises))["shape"]
    assert re.search(
        r"Reason: it raised IndexError: no such frame \(at .*test_conformance_kit\.py:\d+, in forward\)", message
    )


def test_broken_is_one_paragraph_with_promise_reason_and_mending() -> None:
    with pytest.raises(pytest.fail.Exception) as failure:
        broken("frames are finite", "frame 3\n  is NaN", "guard the logarithm.")
    assert (
        str(failure.value) == "Broken promise: frames are finite. Reason: frame 3 is NaN. To mend: guard the logarithm."
    )


def test_names_of_tests_follow_promises() -> None:
    assert name_of_test("context-identity") == "test_context_identity"
    assert all(hasattr(EncoderPromises, name_of_test(name)) for name in Encoder.promises)


# The pytest plugin, in a process of its own

PLUGIN = """
from sltcore.plugin import Component, hookimpl
SLT_API = (1, 0)

@hookimpl
def slt_components():
    return [Component("encoder", "shout", impl="component:good", config="light:LightConfig", summary="for tests",
                      small={"skip": {"gradient": "one gradient is out of reach"}})]
"""
TESTS = """
import pytest
from sltcore.testing import EncoderPromises

class TestShout(EncoderPromises):
    plugin = "shout"
    component = "shout"

class TestOverride(EncoderPromises):
    plugin = "shout"
    component = "shout"

    def test_padding(self, case):
        pass
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed plugin `shout`, and a test file of its author."""
    root = tmp_path_factory.mktemp("installed")
    for path in FOLDER.glob("*.py"):
        (root / path.name).write_text(path.read_text())
    (root / "shout_plugin.py").write_text(PLUGIN)
    (root / "test_shout.py").write_text(TESTS)
    meta = root / "slt_shout-1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: slt-shout\nVersion: 1\n")
    (meta / "entry_points.txt").write_text("[sltcore]\nshout = shout_plugin\n")
    return root


def run_pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a fresh process where the plugin is installed."""
    announced = importlib.metadata.entry_points(group="pytest11", name="sltcore")
    loading = [] if announced else ["-p", "sltcore.testing.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rxXfE", *loading, *arguments]
    environment = {
        "PYTHONPATH": str(root),
        "SLT_PLUGINS": "shout",
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        "COLUMNS": "400",
    }
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_pyargs_checks_a_plugin_without_tests(installed: Path) -> None:
    done = run_pytest(installed, "--pyargs", "sltcore.testing.conformance", "--slt-plugin", "shout")
    assert done.returncode == 0, done.stdout
    assert "test_encoder.py::TestEncoder::test_gradient[encoder/shout] - one gradient is out of reach" in done.stdout
    assert "decoder" not in done.stdout


@pytest.mark.slow
def test_an_author_may_subclass_but_not_override(installed: Path) -> None:
    done = run_pytest(installed, "test_shout.py")
    assert done.returncode == 1, done.stdout
    failures = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failures) == 1
    assert "TestOverride::test_every_promise_stands[encoder/shout]" in failures[0]
    assert "TestOverride overrides test_padding without xfail(reason=...)" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which plugin? Give --slt-plugin NAME; installed: shout"),
        (("--slt-plugin", "shot"), "no plugin is named 'shot'; installed: shout"),
    ],
)
def test_a_missing_plugin_is_one_line(installed: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run_pytest(installed, "--pyargs", "sltcore.testing.conformance", *arguments)
    assert done.returncode == 4
    assert (done.stderr + done.stdout).count(message) == 1


def test_the_pytest_plugin_is_light() -> None:
    code = "import sltcore.testing.pytest_plugin, sys; print([m for m in ('torch', 'numpy', 'pydantic', 'pluggy.x') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
