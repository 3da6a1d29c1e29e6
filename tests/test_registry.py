"""Whatever a plugin does wrong becomes one row with its remedy, and never stops the others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_plugins import PLUGIN, Site

from sltcore.errors import PluginError
from sltcore.plugin import Component
from sltcore.registry import Registry, Row, probe, scan

HEAD = "from sltcore.plugin import Component, Command, hookimpl\nSLT_API = (1, 0)\n"
HOOK = HEAD + "@hookimpl\ndef slt_components():\n    "
GOOD = 'Component("decoder", "{name}", impl="slt_x.build:b", config="slt_x.config:C", summary="s")'

# name -> (source of plugin.py, status, problem, remedy); "{dist}" and "{name}" are filled in
BAD: dict[str, tuple[str, str, str, str]] = {
    "third": (
        "import kenlm_that_nobody_has",
        "broken",
        "ModuleNotFoundError: No module named 'kenlm_that_nobody_has'",
        "pip install the distribution that brings 'kenlm_that_nobody_has', or set SLT_DISABLE={name}",
    ),
    "symbol": (
        "from json import dumpz",
        "broken",
        "ImportError: cannot import name 'dumpz' from 'json' ({json})",
        "mend or update it (pip install -U {dist}), or set SLT_DISABLE={name}",
    ),
    "syntax": (
        "def slt_components(:\n",
        "broken",
        "SyntaxError: invalid syntax (plugin.py, line 1)",
        "mend or update it (pip install -U {dist}), or set SLT_DISABLE={name}",
    ),
    "hookname": (
        HEAD + "@hookimpl\ndef slt_component():\n    return []\n",
        "misspelt",
        "{package}.plugin implements 'slt_component', which is no hook; hooks: slt_components, slt_commands, "
        "slt_pipeline_built, slt_before_stage, slt_after_stage, slt_stage_error, slt_bundle_saving",
        "rename it. Did you mean 'slt_components'?",
    ),
    "unmarked": (
        HEAD + "def slt_components():\n    return []\n",
        "misspelt",
        "{package}.plugin.slt_components is not marked as a hook",
        "put @sltcore.plugin.hookimpl above it",
    ),
    "nohook": (
        HEAD,
        "broken",
        "{package}.plugin implements no hook",
        "write slt_components with @sltcore.plugin.hookimpl",
    ),
    "badkind": (
        HOOK + 'return [Component("decodr", "x", impl="a:b", config="a:C", summary="s")]\n',
        "broken",
        "slt_components raised PluginError: component 'x': no kind is named 'decodr'; kinds: encoder, decoder, quantizer, "
        "accelerator, adapter, privacy, reranker, vocoder, objective, augmentation, metric. Did you mean 'decoder'?",
        "mend or uninstall it",
    ),
    "arguments": (
        HEAD + "@hookimpl\ndef slt_components(nonsense):\n    return []\n",
        "broken",
        "Plugin '{dist}/{name}' for hook 'slt_components' hookimpl definition: slt_components(nonsense) Argument(s) "
        "{{'nonsense'}} are declared in the hookimpl but can not be found in the hookspec",
        "compare its hooks with `sltcore.plugin.Hooks`",
    ),
    "toonew": (
        HOOK.replace("(1, 0)", "(1, 99)") + "return []\n",
        "too-new",
        "it is written for plugin API 1.99, this is 1.0",
        "pip install -U sltcore-lib",
    ),
    "toonewmajor": (
        HOOK.replace("(1, 0)", "(2, 0)") + "return []\n",
        "too-new",
        "it is written for plugin API 2.0, this is 1.0",
        "pip install -U sltcore-lib",
    ),
    "tooold": (
        HOOK.replace("(1, 0)", "(0, 7)") + "return []\n",
        "too-old",
        "it is written for plugin API 0.7, this is 1.0",
        "pip install -U {dist}",
    ),
    "noapi": (
        HOOK.replace("SLT_API = (1, 0)", "") + "return []\n",
        "broken",
        "{package}.plugin states no SLT_API",
        "write SLT_API = (1, 0) beside its hooks",
    ),
    "textapi": (
        HOOK.replace("(1, 0)", "'1.0'") + "return []\n",
        "broken",
        "{package}.plugin.SLT_API is '1.0'",
        "write SLT_API = (1, 0) beside its hooks",
    ),
    "raising": (
        HOOK + "raise RuntimeError('two\\nlines \\x1b[31m')\n",
        "broken",
        "slt_components raised RuntimeError: two lines [31m",
        "mend or uninstall it",
    ),
    "unprintable": (
        HEAD + "class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E\n",
        "broken",
        "E",
        "mend or update it (pip install -U {dist}), or set SLT_DISABLE={name}",
    ),
    "none": (
        HOOK + "return None\n",
        "broken",
        "slt_components returned a NoneType, expected a list of Component",
        "compare it with sltcore.plugin.Component",
    ),
    "junk": (
        HOOK + "return [{'kind': 'decoder'}]\n",
        "broken",
        "slt_components returned a list whose item 0 is a dict, expected Component",
        "compare it with sltcore.plugin.Component",
    ),
    "endless": (
        HOOK + "import itertools; return itertools.repeat(" + GOOD.format(name="e") + ")\n",
        "broken",
        "slt_components returned more than 1000 items",
        "compare it with sltcore.plugin.Component",
    ),
    "types": (
        HOOK + 'return [Component("decoder", "x", impl="a:b", config="a:C", summary=object)]\n',
        "broken",
        "slt_components returned an item whose summary is <class 'object'>, expected text",
        "compare it with sltcore.plugin.Component",
    ),
    "twice": (
        HOOK + "return [" + GOOD.format(name="t") + "] * 2\n",
        "broken",
        "it declares decoder/t more than once",
        "give each component a name of its own",
    ),
    "commands": (
        HEAD + "@hookimpl\ndef slt_commands():\n    return ['run']\n",
        "broken",
        "slt_commands returned a list whose item 0 is a str, expected Command",
        "compare it with sltcore.plugin.Command",
    ),
    "systemexit": (
        "raise SystemExit(4)",
        "broken",
        "SystemExit: 4",
        "mend or update it (pip install -U {dist}), or set SLT_DISABLE={name}",
    ),
    "sysexit": (
        HOOK + "import sys; sys.exit('bye')\n",
        "broken",
        "slt_components raised SystemExit: bye",
        "mend or uninstall it",
    ),
}
# These end or stop the process, so only the child may load them.
WILD: dict[str, tuple[str, str, str, str]] = {
    "exit3": (
        "import os; os._exit(3)",
        "exited",
        "loading it ended the process (exit code 3)",
        "set SLT_DISABLE={name}, or mend or update it (pip install -U {dist})",
    ),
    "segfault": (
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "exited",
        "loading it ended the process (signal 11, SIGSEGV)",
        "set SLT_DISABLE={name}, or mend or update it (pip install -U {dist})",
    ),
    "interrupt": (
        "raise KeyboardInterrupt",
        "exited",
        "loading it ended the process (signal 2, SIGINT)",
        "set SLT_DISABLE={name}, or mend or update it (pip install -U {dist})",
    ),
    "sleeper": (
        "import time; time.sleep(1000)",
        "hung",
        "loading it took longer than 1.5 s and was stopped",
        "set SLT_DISABLE={name}, or SLT_PLUGIN_TIMEOUT to more seconds",
    ),
    "spinner": (
        HOOK + "\n    while True:\n        pass\n",
        "hung",
        "loading it took longer than 1.5 s and was stopped",
        "set SLT_DISABLE={name}, or SLT_PLUGIN_TIMEOUT to more seconds",
    ),
    "fdcloser": (
        "import os; os.closerange(3, 64)",
        "exited",
        "loading it ended the process (exit code 1)",
        "set SLT_DISABLE={name}, or mend or update it (pip install -U {dist})",
    ),
    "forger": (
        "import os\nfor fd in range(3, 9):\n    try:\n        os.write(fd, b'junk\\n')\n    except OSError:\n        pass\n",
        "exited",
        "loading it ended the process (it wrote into the pipe that rows come through)",
        "set SLT_DISABLE={name}, or mend or update it (pip install -U {dist})",
    ),
}
NOISY = {
    "talker": "print('noise' * 10000)\nimport os, sys\nos.write(1, b'{\"row\": 1}\\n')\nsys.stderr.write('x' * 200000)\n"
    + PLUGIN,
    "closer": "import os, sys\nsys.stdout.close()\nos.close(1)\nos.close(2)\n" + PLUGIN,
    "reader": "import sys\nassert sys.stdin.read() == ''\n" + PLUGIN,
    "forker": "import os\nif os.fork() == 0:\n    import time\n    time.sleep(60)\n    os._exit(0)\n" + PLUGIN,
}


def filled(text: str, name: str) -> str:
    import json

    return text.format(name=name, dist=f"sltcore-{name}", package=f"slt_{name}", json=json.__file__)


def fill_site(site: Site, *tables: dict[str, tuple[str, str, str, str]]) -> None:
    for table in tables:
        for name, (source, *_) in table.items():
            site.add(name, source)
    for name in ("aaa", "zzz"):
        site.add(name)


@pytest.fixture
def importable(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site whose packages this process can import, and forgets."""
    monkeypatch.syspath_prepend(str(site.folder))
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        if name.startswith("slt_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """All bad plugins at once, and two good ones around them, loaded by one call."""
    site = Site(tmp_path_factory.mktemp("bad"))
    fill_site(site, BAD, WILD)
    for name, source in NOISY.items():
        site.add(name, source.replace("{kind}", "decoder").replace("{name}", name).replace("{package}", f"slt_{name}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLT_PLUGIN_TIMEOUT", "1.5")
        return {row.plugin: row for row in probe([str(site.folder)])}


@pytest.mark.parametrize("name", [*BAD, *WILD])
def test_every_fault_is_one_row_with_its_remedy(probed: dict[str, Row], name: str) -> None:
    source, status, problem, remedy = {**BAD, **WILD}[name]
    row = probed[name]
    assert (row.status, row.problem, row.remedy) == (status, filled(problem, name), filled(remedy, name))
    assert not row.components
    assert not row.usable


@pytest.mark.parametrize("name", ["aaa", "zzz", *NOISY])
def test_good_plugins_are_listed_whatever_the_others_do(probed: dict[str, Row], name: str) -> None:
    row = probed[name]
    assert (row.status, row.problem, row.remedy) == ("ok", "", "")
    assert [component.name for component in row.components] == [name]


def test_every_announced_plugin_has_exactly_one_row(probed: dict[str, Row]) -> None:
    assert set(probed) == {*BAD, *WILD, *NOISY, "aaa", "zzz"}


def test_no_process_is_left_behind(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = site.folder / "pids"
    spawn = (
        f"import os, subprocess, time\nchild = subprocess.Popen(['sleep', '987'])\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} {{child.pid}} ')\ntime.sleep(1000)\n"
    )
    site.add("parent", spawn)
    monkeypatch.setenv("SLT_PLUGIN_TIMEOUT", "0.5")
    (row,) = probe([str(site.folder)])
    assert row.status == "hung"
    found = [int(word) for word in pids.read_text().split()]
    assert len(found) == 2
    deadline = time.monotonic() + 5
    while any(_is_running(pid) for pid in found) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in found if _is_running(pid)]


def _is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # a zombie that init has not collected yet is gone


def test_a_hung_child_ends_with_the_process_that_started_it(site: Site) -> None:
    import subprocess

    site.add(
        "sleeper",
        f"import os, time\nopen({str(site.folder / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)\n",
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", "from sltcore.registry import probe; probe()"], env=site.environment()
    )
    deadline = time.monotonic() + 20
    while not (site.folder / "pid").exists() or not (site.folder / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    pid = int((site.folder / "pid").read_text())
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_running(pid)


def test_a_late_crash_is_not_blamed_on_the_plugin_that_was_loading(site: Site) -> None:
    late = "import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), os._exit(7)), daemon=True).start()\n"
    site.add("early", late + PLUGIN.format(kind="decoder", name="early", package="slt_early"))
    site.add(
        "victim", "import time; time.sleep(0.5)\n" + PLUGIN.format(kind="decoder", name="victim", package="slt_victim")
    )
    rows = {row.plugin: row for row in probe([str(site.folder)])}
    assert rows["victim"].usable
    assert [c.name for c in rows["victim"].components] == ["victim"]


def test_the_loop_of_this_process_isolates_as_well(importable: Site) -> None:
    fill_site(importable, BAD)
    registry = Registry(path=[str(importable.folder)])
    rows = {row.plugin: row for row in registry.rows}
    for name, (_, status, problem, remedy) in BAD.items():
        row = rows[name]
        assert (row.status, row.problem, row.remedy) == (status, filled(problem, name), filled(remedy, name))
    assert registry.names("decoder") == ["aaa", "zzz"]
    assert {name for name, _ in registry.manager.list_name_plugin()} == {"sltcore-aaa/aaa", "sltcore-zzz/zzz"}


@pytest.mark.parametrize(
    ("points", "status", "problem", "remedy"),
    [
        (
            "x = slt_x.plugn",
            "misspelt",
            "its entry point names module 'slt_x.plugn', but there is no 'slt_x.plugn'; slt_x holds build, config, plugin",
            "correct the entry point in its pyproject.toml and reinstall it. Did you mean 'plugin'?",
        ),
        (
            "x = slt_y.plugin",
            "misspelt",
            "its entry point names module 'slt_y.plugin', but there is no 'slt_y'",
            "correct the entry point in its pyproject.toml and reinstall it.",
        ),
        (
            "x = slt_x.plugin:slt_componentz",
            "misspelt",
            "its entry point names 'slt_x.plugin:slt_componentz', but slt_x.plugin has no 'slt_componentz'",
            "correct the entry point in its pyproject.toml and reinstall it. Did you mean 'slt_components'?",
        ),
        (
            "x = slt_x.plugin:slt_components",
            "broken",
            "slt_x.plugin:slt_components is a function, expected a module that holds the hooks",
            "let the entry point name the module alone: slt_x.plugin",
        ),
        (
            "x = slt-x.plugin",
            "misspelt",
            "its entry point reads 'slt-x.plugin', which is no module's name",
            "write package.module there, such as slt_x.plugin, and reinstall it",
        ),
        ("x = slt_x.plugin [extra]", "ok", "", ""),
        ("x = slt_x : plugin", "misspelt", None, None),
    ],
)
def test_a_wrong_entry_point_is_named(
    importable: Site, points: str, status: str, problem: str | None, remedy: str | None
) -> None:
    importable.add("x", points=f"[sltcore]\n{points}\n")
    (row,) = probe([str(importable.folder)])
    assert row.status == status
    assert problem is None or (row.problem, row.remedy) == (problem, remedy)


def test_damaged_metadata_is_a_row(site: Site) -> None:
    site.add("malformed", points="[sltcore]\nno equals sign here\n")
    site.add("double", points="[sltcore]\nd = slt_double.plugin\nd = slt_double.other\n")
    site.add("headless", metadata=False)
    site.add("bytes")
    bytes_info = next(site.folder.glob("sltcore_bytes*"))
    (bytes_info / "entry_points.txt").write_bytes(b"[sltcore]\nbytes = slt_\xff\xfe.plugin\n")
    site.add("good")
    rows = {row.distribution: row for row in probe([str(site.folder)])}
    place = os.path.realpath(site.folder)
    assert set(rows) == {"sltcore-malformed", "sltcore-double", "sltcore-headless", "sltcore-bytes", "sltcore-good"}
    malformed = rows["sltcore-malformed"]
    assert malformed.status == "broken"
    assert malformed.problem.startswith(f"{place}/sltcore_malformed-1.0.dist-info/entry_points.txt cannot be parsed (")
    assert malformed.remedy == "pip install --force-reinstall sltcore-malformed"
    double = rows["sltcore-double"]
    assert double.problem == f"{place}/sltcore_double-1.0.dist-info/entry_points.txt announces 'd' 2 times"
    assert double.remedy == "keep one entry point of that name and reinstall it"
    headless = rows["sltcore-headless"]
    assert headless.problem == (
        f"{place}/sltcore_headless-1.0.dist-info holds no METADATA: the rest of an installation that was removed or "
        "never finished"
    )
    assert headless.remedy == "delete that folder, or pip install --force-reinstall sltcore-headless"
    assert rows["sltcore-bytes"].status == "broken"
    assert "cannot be parsed (UnicodeDecodeError" in rows["sltcore-bytes"].problem
    assert rows["sltcore-good"].status == "ok"


def test_a_slow_plugin_is_usable_and_told_why(site: Site) -> None:
    heavy = "import time, sys, types\nsys.modules['pandas'] = types.ModuleType('pandas')\ntime.sleep(0.6)\n"
    site.add("slow", heavy + PLUGIN.format(kind="decoder", name="slow", package="slt_slow"))
    (row,) = probe([str(site.folder)])
    assert row.status == "slow"
    assert row.usable
    assert row.problem.startswith("importing slt_slow.plugin takes 0.")
    assert row.problem.endswith(" s and pulls in pandas")
    assert row.remedy == "import heavy modules inside the builder, not in plugin.py"
    assert Registry.from_rows([row]).find("decoder", "slow").distribution == "sltcore-slow"


def test_of_two_distributions_with_one_name_neither_wins(importable: Site) -> None:
    importable.add("one", component="same")
    importable.add("two", component="same")
    importable.add("three")
    for registry in (Registry(path=[str(importable.folder)]), Registry.from_rows(probe([str(importable.folder)]))):
        rows = {row.plugin: row for row in registry.rows}
        assert rows["one"].status == rows["two"].status == "collision"
        assert rows["one"].problem == "decoder 'same' is also offered by sltcore-two"
        assert rows["one"].remedy == "write sltcore-one/same in specs, or uninstall one"
        assert rows["three"].status == "ok"
        assert registry.names("decoder") == ["sltcore-one/same", "sltcore-two/same", "three"]
        with pytest.raises(PluginError) as caught:
            registry.find("decoder", "same")
        assert (
            str(caught.value) == "decoder 'same' is offered 2 times; write one of: sltcore-one/same, sltcore-two/same"
        )
        assert registry.find("decoder", "sltcore-one/same").distribution == "sltcore-one"
        with pytest.raises(
            PluginError, match=r"no decoder is named 'sltcore_two/same'; .* Did you mean 'sltcore-two/same'\?$"
        ):
            registry.find("decoder", "sltcore_two/same")


def test_one_name_in_two_kinds_is_addressed_by_kind(importable: Site) -> None:
    importable.add("one", component="same", kind="quantizer")
    importable.add("two", component="same", kind="adapter")
    registry = Registry(path=[str(importable.folder)])
    assert registry.find("adapter", "same").distribution == "sltcore-two"
    kinds = ("quantizer", "accelerator", "adapter")
    names = registry.names(*kinds)
    assert names == ["sltcore-one/same", "sltcore-two/same"]
    assert [registry.find(kinds, name).component.kind for name in names] == ["quantizer", "adapter"]
    assert registry.find(kinds, "adapter/same").component.kind == "adapter"
    assert registry.find(kinds, "adapter/sltcore-two/same").component.kind == "adapter"


def test_one_entry_name_in_two_distributions_is_listed_twice(site: Site) -> None:
    site.add("one", entry="shared")
    site.add("two", entry="shared")
    rows = probe([str(site.folder)])
    assert [(row.plugin, row.distribution, row.status) for row in rows] == [
        ("shared", "sltcore-one", "ok"),
        ("shared", "sltcore-two", "ok"),
    ]


def test_one_module_announced_by_two_distributions_is_told(site: Site) -> None:
    site.add("one")
    site.add("two", points="[sltcore]\ntwo = slt_one.plugin\n")
    rows = {row.plugin: row for row in probe([str(site.folder)])}
    assert rows["one"].status == "ok"
    assert (rows["two"].problem, rows["two"].remedy) == (
        "module slt_one.plugin is announced twice",
        "keep one of its entry points",
    )


def test_the_first_copy_of_a_distribution_counts(tmp_path: Path) -> None:
    first, second = Site(tmp_path / "first"), Site(tmp_path / "second")
    first.add("x", version="2.0")
    second.add("x", version="1.0")
    (found,) = scan([str(first.folder), str(second.folder)])
    assert found.version == "2.0"
    assert found.shadowed == (os.path.realpath(second.folder / "sltcore_x-1.0.dist-info"),)
    (once,) = scan([str(first.folder), str(first.folder)])
    assert once.shadowed == ()


def test_two_versions_in_one_folder_shadow_each_other(site: Site) -> None:
    site.add("x", version="1.0")
    site.add("x", version="2.0")
    (found,) = scan([str(site.folder)])
    assert found.version == "2.0"
    assert found.shadowed == (os.path.realpath(site.folder / "sltcore_x-1.0.dist-info"),)


@pytest.mark.parametrize(
    ("settings", "loaded"),
    [
        ({}, {"one", "two", "three"}),
        ({"SLT_PLUGINS": "one,sltcore-two"}, {"one", "two"}),
        ({"SLT_PLUGINS": " sltcore_three , "}, {"three"}),
        ({"SLT_PLUGINS": ""}, set()),
        ({"SLT_DISABLE": "one, sltcore-two/two"}, {"three"}),
        ({"SLT_PLUGINS": "one,two", "SLT_DISABLE": "two"}, {"one"}),
        ({"SLT_DISABLE": ""}, {"one", "two", "three"}),
        ({"SLT_STRICT": "0"}, {"one", "two", "three"}),
    ],
)
def test_settings_select_plugins(
    importable: Site, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], loaded: set[str]
) -> None:
    for name in ("one", "two", "three"):
        importable.add(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for rows in (probe([str(importable.folder)]), Registry(path=[str(importable.folder)]).rows):
        assert {row.plugin for row in rows if row.status == "ok"} == loaded
        kept_out = {row.plugin: row for row in rows if row.status != "ok"}
        assert set(kept_out) == {"one", "two", "three"} - loaded
        for row in kept_out.values():
            setting = row.remedy.removeprefix("change or unset ")
            assert row.status == "disabled"
            assert row.problem == f"kept out by {setting}={settings[setting]!r}"


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", "1e9", "5 s"])
def test_a_wrong_timeout_is_refused(monkeypatch: pytest.MonkeyPatch, site: Site, value: str) -> None:
    monkeypatch.setenv("SLT_PLUGIN_TIMEOUT", value)
    with pytest.raises(PluginError) as caught:
        probe([str(site.folder)])
    assert str(caught.value) == f"SLT_PLUGIN_TIMEOUT is {value!r}, expected a number of seconds above 0, such as 5"


def test_strict_refuses_the_first_problem(importable: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    importable.add("good")
    monkeypatch.setenv("SLT_STRICT", "1")
    for load in (probe, lambda path: Registry(path=path).rows):
        assert [row.status for row in load([str(importable.folder)])] == ["ok"]
    importable.add("bad", "raise ValueError('no')")
    monkeypatch.setenv("SLT_DISABLE", "bad")
    for load in (probe, lambda path: Registry(path=path).rows):
        assert sorted(row.status for row in load([str(importable.folder)])) == ["disabled", "ok"]
    monkeypatch.delenv("SLT_DISABLE")
    expected = (
        "plugin 'bad' of sltcore-bad 1.0 is broken: ValueError: no. Next: mend or update it (pip install -U sltcore-bad), "
        "or set SLT_DISABLE=bad (SLT_STRICT=1)"
    )
    for load in (probe, lambda path: Registry(path=path).rows):
        with pytest.raises(PluginError) as caught:
            load([str(importable.folder)])
        assert str(caught.value) == expected
    monkeypatch.setenv("SLT_PLUGINS", "god")
    with pytest.raises(PluginError) as caught:
        probe([str(importable.folder)])
    assert str(caught.value) == (
        "SLT_PLUGINS names 'god', which no installed plugin or distribution is called; plugins: bad, good. "
        "Did you mean 'good'? (SLT_STRICT=1)"
    )


def test_a_wrong_strict_is_refused(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    monkeypatch.setenv("SLT_STRICT", "yes")
    for load in (probe, lambda path: Registry(path=path)):
        with pytest.raises(PluginError) as caught:
            load([str(site.folder)])
        assert (
            str(caught.value) == "SLT_STRICT is 'yes', expected 1 (a plugin's problem is an error) or 0 (it is a row)"
        )


def test_a_row_survives_its_journey(probed: dict[str, Row]) -> None:
    import json

    for row in probed.values():
        assert Row.from_dict(json.loads(json.dumps(row.to_dict()))) == row


def test_anything_may_stand_in_small(site: Site) -> None:
    source = PLUGIN.format(kind="decoder", name="odd", package="slt_odd").replace(
        'summary="dummy odd"', 'summary="s", small={"contexts": [__import__("threading").Lock()]}'
    )
    site.add("odd", source)
    (row,) = probe([str(site.folder)])
    assert row.status == "ok"
    assert row.components[0].small == {}


FAULTY = {
    "missing": ("import nobody_has_this", "ModuleNotFoundError: No module named 'nobody_has_this'"),
    "raising": ("raise ValueError('no')", "ValueError: no"),
    "exiting": ("raise SystemExit", "SystemExit"),
}


@pytest.mark.parametrize("name", [*FAULTY, "hanging", "crashing", "absent"])
def test_a_config_that_fails_costs_its_component_alone(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    sources = {**{key: value[0] for key, value in FAULTY.items()}, "hanging": "import time; time.sleep(99)",
               "crashing": "import os; os._exit(5)", "absent": ""}  # fmt: skip
    plugin = HOOK + (
        'return [Component("decoder", "bad", impl="slt_f.build:build", config="slt_f.bad:Made", summary="s"),\n'
        '            Component("decoder", "fine", impl="slt_f.build:build", config="slt_f.config:Made", summary="s")]\n'
    )
    site.add("f", plugin, files={"bad.py": sources[name]})
    site.add("g")
    monkeypatch.setenv("SLT_PLUGIN_TIMEOUT", "4")
    for configs in (None, ["bad", "fine", "g"]):
        rows = probe([str(site.folder)], configs=configs)
        assert [row.status for row in rows] == ["ok", "ok"]
        registry = Registry.from_rows(rows)
        assert registry.names("decoder") == ["fine", "g"]
        with pytest.raises(PluginError) as caught:
            registry.find("decoder", "bad")
        head = "decoder 'bad' is declared by sltcore-f 1.0, "
        if name == "hanging":
            tail = (
                "but loading its config took longer than 4 s and was stopped. Next: set SLT_DISABLE=f, or "
                "SLT_PLUGIN_TIMEOUT to more seconds"
            )
        elif name == "crashing":
            tail = (
                "but loading its config ended the process (exit code 5). Next: set SLT_DISABLE=f, or mend or update it "
                "(pip install -U sltcore-f)"
            )
        else:
            what = {**{key: value[1] for key, value in FAULTY.items()},
                    "absent": "AttributeError: module 'slt_f.bad' has no attribute 'Made'"}[name]  # fmt: skip
            remedy = (
                "install the distribution that brings 'nobody_has_this'"
                if name == "missing"
                else "mend or update sltcore-f"
            )
            tail = f"whose config slt_f.bad:Made failed to load: {what}. Next: {remedy}, or set SLT_DISABLE=sltcore-f"
        assert str(caught.value) == head + tail
        if name in ("hanging", "crashing"):
            break


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "decoder",
            "serch",
            "no decoder is named 'serch'; installed: counter, search. Did you mean 'search'?",
        ),
        (
            "encoder",
            "search",
            "no encoder is named 'search'; installed: chorus, frames, stack. There is a decoder of that name.",
        ),
        ("privacy", "x", "no privacy is named 'x'; no plugin brings a privacy."),
        (
            "decoder",
            "ctc-beam",
            "decoder 'ctc-beam' is not installed; it comes with sltcore-ctc-personalization. Next: pip install "
            "sltcore-ctc-personalization",
        ),
        (
            "encoder",
            "hama-conformer",
            "encoder 'hama-conformer' is not installed; it comes with sltcore-speech. Next: pip install sltcore-speech",
        ),
        ("decoder", "a\nb", "no decoder is named 'a b'; installed: counter, search."),
        (
            "decoder",
            "other/search",
            "no decoder is named 'other/search'; installed: counter, search. Did you mean 'search'?",
        ),
    ],
)
def test_a_missing_component_says_what_there_is_and_what_to_do(
    demo_registry: Registry, kind: str, name: str, message: str
) -> None:
    with pytest.raises(PluginError) as caught:
        demo_registry.find(kind, name)
    assert str(caught.value) == message


def test_a_missing_component_of_a_sick_plugin_names_the_plugin(site: Site) -> None:
    site.add("speech", "import nobody_has_this")
    site.add("old", HOOK.replace("(1, 0)", "(0, 1)") + "return []\n")
    registry = Registry.from_rows(probe([str(site.folder)]))
    with pytest.raises(PluginError) as caught:
        registry.find("encoder", "log-mel")
    assert str(caught.value) == (
        "encoder 'log-mel' is part of sltcore-speech 1.0, which is broken: ModuleNotFoundError: No module named "
        "'nobody_has_this'. Next: pip install the distribution that brings 'nobody_has_this', or set SLT_DISABLE=speech"
    )


def test_an_outdated_publisher_is_updated_not_installed(site: Site) -> None:
    site.add("speech")
    registry = Registry.from_rows(probe([str(site.folder)]))
    with pytest.raises(PluginError) as caught:
        registry.find("encoder", "log-mel")
    assert str(caught.value) == (
        "encoder 'log-mel' is not in the sltcore-speech that is installed. Next: pip install -U sltcore-speech"
    )


def test_a_builder_that_cannot_be_imported_names_its_distribution(importable: Site) -> None:
    importable.add("lame", files={"build.py": "import nobody_has_this"})
    entry = Registry(path=[str(importable.folder)]).find("decoder", "lame")
    with pytest.raises(PluginError) as caught:
        entry.load_impl()
    assert str(caught.value) == (
        "decoder 'lame' is declared by sltcore-lame 1.0, whose impl slt_lame.build:build failed to load: "
        "ModuleNotFoundError: No module named 'nobody_has_this'. Next: install the distribution that brings "
        "'nobody_has_this', or set SLT_DISABLE=sltcore-lame"
    )
    assert entry.load_config().__name__ == "Made"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Upper"}, "component 'Upper': a name is lower-case words joined by hyphens, such as 'ctc-beam'"),
        ({"name": ""}, "component '': a name is lower-case words joined by hyphens, such as 'ctc-beam'"),
        ({"impl": "a.b"}, "component 'x': impl is 'a.b', expected 'module:name'"),
        ({"config": "a b:C"}, "component 'x': config is 'a b:C', expected 'module:name'"),
    ],
)
def test_a_wrong_component_is_refused(arguments: dict[str, str], message: str) -> None:
    good = {"kind": "decoder", "name": "x", "impl": "a:b", "config": "a:C", "summary": "s"}
    with pytest.raises(PluginError) as caught:
        Component(**{**good, **arguments})
    assert str(caught.value) == message


def test_a_module_in_the_working_folder_shadows_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("good")
    here = tmp_path / "here"
    here.mkdir()
    (here / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert [row.status for row in probe([str(site.folder)])] == ["ok"]
