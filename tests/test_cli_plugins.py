"""slt plugins, doctor, explain, check, fill, diff as their user sees them: output, exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from fake_plugins import Site, Slt, write_demo
from test_registry import BAD, WILD, fill_site

from sltcore.spec import parse_document


@pytest.fixture(scope="module")
def demo_only(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The demonstration plugin for child processes, with a spec beside it."""
    site = Site(tmp_path_factory.mktemp("cli"))
    write_demo(site)
    return site


def demo(slt: Slt, site: Site, *arguments: str | Path, **settings: str) -> tuple[int, str, str]:
    done = slt(*arguments, site=site, SLT_PLUGINS="demo", **settings)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_plugins_lists_everything_and_exits_0(slt: Slt, site: Site) -> None:
    chosen = ("third", "toonew", "exit3", "sleeper")
    fill_site(site, {name: {**BAD, **WILD}[name] for name in chosen})
    done = slt("plugins", "--path", site.folder, SLT_PLUGIN_TIMEOUT="1.5")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines[:7]] == [
        ["plugin", "distribution", "version", "status", "components"],
        ["aaa", "sltcore-aaa", "1.0", "ok", "decoder/aaa"],
        ["exit3", "sltcore-exit3", "1.0", "exited", "-"],
        ["sleeper", "sltcore-sleeper", "1.0", "hung", "-"],
        ["third", "sltcore-third", "1.0", "broken", "-"],
        ["toonew", "sltcore-toonew", "1.0", "too-new", "-"],
        ["zzz", "sltcore-zzz", "1.0", "ok", "decoder/zzz"],
    ]
    assert lines[7:] == [
        "exit3: loading it ended the process (exit code 3). Next: set SLT_DISABLE=exit3, or mend or update it (pip install "
        "-U sltcore-exit3)",
        "sleeper: loading it took longer than 1.5 s and was stopped. Next: set SLT_DISABLE=sleeper, or SLT_PLUGIN_TIMEOUT to "
        "more seconds",
        "third: ModuleNotFoundError: No module named 'kenlm_that_nobody_has'. Next: pip install the distribution that brings "
        "'kenlm_that_nobody_has', or set SLT_DISABLE=third",
        "toonew: it is written for plugin API 1.99, this is 1.0. Next: pip install -U sltcore-lib",
    ]
    assert done.stderr == ""


def test_plugins_as_json(slt: Slt, demo_only: Site) -> None:
    code, output, errors = demo(slt, demo_only, "plugins", "--json")
    rows = {row["plugin"]: row for row in json.loads(output)}
    assert (code, errors) == (0, "")
    row = rows["demo"]
    assert (row["status"], row["distribution"], row["version"], row["module"]) == (
        "ok",
        "sltcore-demo",
        "1.0",
        "slt_demo.plugin",
    )
    assert row["location"] == str(demo_only.folder)
    assert {"kind": "encoder", "name": "stack", "impl": "slt_demo.build:build", "config": "slt_demo.config:Stack",
            "summary": "an encoder on an encoder", "source": "arXiv:0000.00000", "version": 1} in row["components"]  # fmt: skip


def test_settings_that_name_nobody_are_told(slt: Slt, demo_only: Site) -> None:
    done = slt("plugins", "--path", demo_only.folder, SLT_PLUGINS="dmo")
    assert done.returncode == 0
    assert done.stderr == (
        "warning: SLT_PLUGINS names 'dmo', which no installed plugin or distribution is called; plugins: demo. Did you mean "
        "'demo'?\n"
    )
    for settings, message in (
        (
            {"SLT_PLUGIN_TIMEOUT": "soon"},
            "SLT_PLUGIN_TIMEOUT is 'soon', expected a number of seconds above 0, such as 5",
        ),
        ({"SLT_STRICT": "yes"}, "SLT_STRICT is 'yes', expected 1 (a plugin's problem is an error) or 0 (it is a row)"),
    ):
        done = slt("plugins", "--path", demo_only.folder, **settings)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


def test_an_empty_folder_and_no_folder(slt: Slt, tmp_path: Path) -> None:
    done = slt("plugins", "--path", tmp_path)
    assert done.returncode == 0
    assert done.stdout == "no plugin announces itself in group 'sltcore'; try: pip install sltcore-speech\n"
    done = slt("plugins", "--path", tmp_path / "no")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --path {tmp_path / 'no'}: there is no such folder; give one that holds installed distributions, such as a "
        "site-packages\n"
    )


def test_doctor_finds_nothing_wrong_where_nothing_is(slt: Slt, demo_only: Site) -> None:
    done = slt("doctor", "--path", demo_only.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "plugin API 1.0; 1 plugin, 10 components\nnothing is wrong\n"


def test_doctor_names_what_is_stale_shadowed_malformed_or_strange(slt: Slt, tmp_path: Path) -> None:
    first, second = Site(tmp_path / "first"), Site(tmp_path / "second")
    first.add("twice", version="2.0")
    second.add("twice", version="1.0")
    first.add("malformed", points="[sltcore]\nthis line has no equals sign\n")
    first.add("value", points="[sltcore]\nvalue = slt-value.plugin\n")
    first.add("headless", metadata=False)
    first.add("lame", files={"config.py": "raise ValueError('lame')"})
    first.add("good")
    stranger = first.folder / "sltcore-0.3.dist-info"
    stranger.mkdir()
    (stranger / "METADATA").write_text("Metadata-Version: 2.1\nName: sltcore\nVersion: 0.3\n\n")
    done = slt("doctor", "--path", first.folder, "--path", second.folder)
    assert done.returncode == 1, done.stderr
    here, there = os.path.realpath(first.folder), os.path.realpath(second.folder)
    lines = done.stdout.splitlines()
    assert lines[0] == "plugin API 1.0; 6 plugins, 2 components"
    found = [line.removeprefix("- ") for line in lines[1:-1]]
    assert lines[-1] == f"{len(found)} to look at"
    for expected in (
        f"sltcore-twice is installed more than once: the one in {here} (2.0) wins over {there}/sltcore_twice-1.0.dist-info. "
        "Next: delete that folder, or pip uninstall sltcore-twice until none is left and install it again",
        f"{here}/sltcore_value-1.0.dist-info: entry point 'value' reads 'slt-value.plugin', expected package.module. Next: "
        "reinstall that distribution",
        f"distribution 'sltcore' 0.3 in {here} is another project's, ours is sltcore-lib. Next: pip uninstall sltcore, then "
        "pip install --force-reinstall sltcore-lib",
        f"headless (sltcore-headless ?) is broken: {here}/sltcore_headless-1.0.dist-info holds no METADATA: the rest of an "
        "installation that was removed or never finished. Next: delete that folder, or pip install --force-reinstall "
        "sltcore-headless",
        "decoder 'lame' is declared by sltcore-lame 1.0, whose config slt_lame.config:Made failed to load: ValueError: lame. "
        "Next: mend or update sltcore-lame, or set SLT_DISABLE=sltcore-lame",
        "value (sltcore-value 1.0) is misspelt: its entry point reads 'slt-value.plugin', which is no module's name. Next: "
        "write package.module there, such as slt_x.plugin, and reinstall it",
    ):
        assert expected in found, done.stdout
    malformed = [line for line in found if "malformed" in line]
    assert [line.partition(": ")[0] for line in malformed] == [
        f"{here}/sltcore_malformed-1.0.dist-info",
        "sltcore-malformed (sltcore-malformed 1.0) is broken",
    ]
    assert len(found) == 8, done.stdout


def test_a_malformed_distribution_stops_no_command(slt: Slt, site: Site, tmp_path: Path) -> None:
    """pydantic reads every distribution's entry points too, and would fall over this one."""
    write_demo(site)
    site.add("malformed", points="[sltcore]\nthis line has no equals sign\n")
    path = tmp_path / "s.yaml"
    path.write_text("slt: 1\nkind: pipeline\nencoder: frames\n")
    done = slt("check", path, site=site)
    assert (done.returncode, done.stderr) == (0, f"{path}: good\n")


def test_a_stale_folder_beside_the_real_one_is_named(site: Site, slt: Slt) -> None:
    site.add("real")
    stale = Path(os.path.realpath(site.folder)) / "sltcore_real-2.0.dist-info"
    stale.mkdir()
    (stale / "entry_points.txt").write_text("[sltcore]\nolder = slt_real.older\n")
    done = slt("doctor", "--path", site.folder)
    assert done.returncode == 1
    assert done.stdout.splitlines()[:2] == [
        "plugin API 1.0; 1 plugin, 1 component",
        f"- sltcore-real is installed more than once: the one in {stale.parent} (1.0) wins over {stale}. Next: delete that "
        "folder, or pip uninstall sltcore-real until none is left and install it again",
    ]
    assert done.stdout.splitlines()[2] == "1 to look at"


def test_explain_tells_where_a_component_comes_from(slt: Slt, demo_only: Site) -> None:
    code, output, errors = demo(slt, demo_only, "explain", "encoder/frames")
    assert (code, errors) == (0, "")
    build = demo_only.folder / "slt_demo" / "build.py"
    line = build.read_text().splitlines().index("def build(config, ports) -> Built:") + 1
    assert output.startswith(
        "encoder frames: sound to frames\n"
        "from sltcore-demo 1.0, component version 1\n"
        f"built by slt_demo.build:build, {build}:{line}\n"
        "source: not stated\n"
        "\n"
        "What is built: nothing but its config.\n"
        "\n"
        "It says so in two paragraphs.\n"
        "\n"
        "field "
    )
    assert _table(output) == [
        ["field", "type", "default", "meaning"],
        ["bands", "integer 1 to 256", "80", "numbers in a frame"],
        ["shift_s", "number above 0 to 1", "0.01", "between frames, in seconds"],
        ["window", '"hann" or "hamming"', '"hann"', "shape of the window"],
        ["dither", "boolean", "false", "whether noise is added"],
    ]
    assert output.endswith("example:\n\nencoder:\n  use: frames\n  bands: 80\n  shift_s: 0.01\n  window: hann\n")


def _table(output: str) -> list[list[str]]:
    lines = output.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("field"))
    rows = []
    for line in lines[start:]:
        if not line:
            break
        rows.append(re.split(" {2,}", line))
    return rows


COMPONENTS = [
    ("encoder/stack", {}), ("encoder/chorus", {"<voices>": "[frames]"}), ("decoder/search", {}), ("decoder/counter", {"<path>": "x"}),
    ("quantizer/bits", {}), ("adapter/low-rank", {}), ("metric/rate", {}), ("vocoder/phase", {"<path>": "x"}),
    ("encoder/sltcore-demo/frames", {}),
]  # fmt: skip


def test_the_example_of_explain_passes_check(slt: Slt, demo_only: Site, tmp_path: Path) -> None:
    files = []
    answers = slt.several([["explain", name] for name, _ in COMPONENTS], site=demo_only, SLT_PLUGINS="demo")
    for (name, values), (code, output, _) in zip(COMPONENTS, answers, strict=True):
        assert code == 0
        text = output.partition("example:\n\n")[2]
        for mark, value in values.items():
            text = text.replace(f"'{mark}'", value).replace(mark, value)
        lines = [] if text.startswith(("encoder", "decoder", "vocoder")) else ["encoder: frames"]
        path = tmp_path / f"{name.replace('/', '-')}.yaml"
        path.write_text("\n".join(["slt: 1", "kind: pipeline", *lines, text]))
        files.append(path)
    code, _, errors = demo(slt, demo_only, "check", *files)
    assert errors == "".join(f"{path}: good\n" for path in files)
    assert code == 0


def test_explain_of_nothing_says_what_there_is(slt: Slt, demo_only: Site) -> None:
    answers = slt.several(
        [["explain", "encoder/nope"], ["explain", "decoder/ctc-beam"], ["explain", "frames"]],
        site=demo_only,
        SLT_PLUGINS="demo",
    )
    for (code, output, errors), message in zip(
        answers,
        (
            "no encoder is named 'nope'; installed: chorus, frames, stack.",
            "decoder 'ctc-beam' is ",  # not installed, or kept out by SLT_PLUGINS
            "'frames' is neither KIND/NAME nor a spec with a PATH; components: encoder/chorus, encoder/frames, ",
        ),
        strict=True,
    ):
        assert (code, output) == (2, "")
        assert len(errors.splitlines()) == 1
        assert errors.startswith(f"error: {message}")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "asr.yaml"
    path.write_text(
        "slt: 1\nkind: pipeline\nencoder:\n  use: chorus\n  voices:\n  - frames\n  - {use: stack, flow: {ref: encoder.x}}\n"
        "  weights: {a b: 2}\ndecoder: {use: search, beam: 32}\n"
    )
    return path


PLACES = {
    "decoder.beam": "decoder.beam = 32\n{spec}:9:24\npaths kept\n",
    "decoder.alpha": "decoder.alpha = 0.5\ndefault, not written in {spec}\nweight of the language model\n",
    "decoder.pruning.most": "decoder.pruning.most = 16\ndefault, not written in {spec}\nhow many stay\n",
    "encoder.voices[1].flow": 'encoder.voices[1].flow = {{"ref": "encoder.x"}}\n{spec}:7:18\nshared with another stage\n',
    'encoder.weights["a b"]': 'encoder.weights["a b"] = 2.0\n{spec}:8:13\n',
}


def test_explain_tells_what_one_place_holds(slt: Slt, demo_only: Site, spec: Path) -> None:
    answers = slt.several([["explain", spec, place] for place in PLACES], site=demo_only, SLT_PLUGINS="demo")
    for answer, expected in zip(answers, PLACES.values(), strict=True):
        assert answer == (0, expected.format(spec=spec), "")


def test_explain_of_a_block_and_of_no_place(slt: Slt, demo_only: Site, spec: Path) -> None:
    block, nothing = slt.several(
        [["explain", spec, "encoder.voices[0]"], ["explain", spec, "decoder.beem"]], site=demo_only, SLT_PLUGINS="demo"
    )
    assert block[0] == 0
    assert block[1].startswith(f"encoder.voices[0]: {spec}:6:5\n\nuse: frames\nbands: 80\n")
    assert "encoder frames: sound to frames\n" in block[1]
    message = (
        f"error: {spec}: decoder has no place 'beem'; it has: beam, head, lm, pruning, lexicon, token, phrases, alpha. Did "
        "you mean 'beam'?\n"
    )
    assert nothing == (2, "", message)


def test_check_of_several_files_tells_the_problems_of_each(slt: Slt, demo_only: Site, spec: Path) -> None:
    bad, worse = spec.with_name("bad.yaml"), spec.with_name("worse.yaml")
    bad.write_text("slt: 1\nkind: pipeline\nencoder: {use: frames, bands: 0}\ndecoder: nope\n")
    worse.write_text("slt: [\n")
    missing = spec.with_name("asr.yml")
    code, output, errors = demo(slt, demo_only, "check", bad, spec, worse, missing)
    assert (code, output) == (2, "")
    assert errors.splitlines() == [
        f"{spec}: good",
        f"error: {bad}:3:24: encoder.bands: encoder/frames expected greater than or equal to 1, got 0 (slt explain encoder/frames)",
        f"error: {bad}:4:1: decoder.use: no decoder is named 'nope'; installed: counter, search.",
        f"error: {worse}:2:1: not YAML: expected the node content, but found '<stream end>'",
        f"error: {missing}:1:1: there is no such spec file; {spec.parent} holds asr.yaml, bad.yaml, worse.yaml. Did you mean "
        "'asr.yaml'?",
    ]
    code, _, errors = demo(slt, demo_only, "check", spec, "--set", "decoder.beam=0")
    assert code == 2
    assert errors.endswith(
        "--set decoder.beam=0: decoder.beam: decoder/search expected greater than or equal to 1, got 0 (slt explain decoder/search)\n"
    )


GAUGE = """
from sltcore.plugin import Command, hookimpl
SLT_API = (1, 0)
@hookimpl
def slt_commands():
    return [Command("gauge", impl="{package}.gauge:app", summary="gauges", checks={{"gauge": "{package}.gauge:{function}"}})]
"""
LOOKED = """
from sltcore.errors import SpecError
def look(path):
    if "bits" not in path.read_text():
        raise SpecError(f"{path}:1:1: a gauge needs bits")
"""


def test_check_looks_at_files_that_only_a_plugin_reads(slt: Slt, site: Site, tmp_path: Path) -> None:
    site.add("gauge", files={"plugin.py": GAUGE.format(package="slt_gauge", function="look"), "gauge.py": LOOKED})
    good, bad, other = (tmp_path / f"{name}.yaml" for name in ("good", "bad", "other"))
    good.write_text("kind: gauge\nbits: 8\n")
    bad.write_text("kind: gauge\n")
    other.write_text("slt: 1\nkind: gouge\n")
    answers = slt.several(
        [["check", good, bad, other], ["check", good, "--set", "bits=4"]], site=site, SLT_PLUGINS="gauge"
    )
    assert answers[0][0] == 2
    assert answers[0][2].splitlines() == [
        f"{good}: good",
        f"error: {bad}:1:1: a gauge needs bits",
        f"error: {other}:2:1: kind: expected one of: pipeline, train, experiment, got 'gouge'.",
    ]
    assert answers[1] == (2, "", f"error: {good}: --set changes specs only; change the file itself\n")


def test_a_check_that_names_no_place_breaks_its_plugin_alone(slt: Slt, site: Site, tmp_path: Path) -> None:
    site.add("gauge", files={"plugin.py": GAUGE.format(package="slt_gauge", function="")})
    done = slt("plugins", site=site, SLT_PLUGINS="gauge")
    assert "the check of kind 'gauge' is 'slt_gauge.gauge:', expected 'module:name'" in done.stdout + done.stderr


def test_check_survives_a_config_that_hangs_or_exits(slt: Slt, site: Site, tmp_path: Path) -> None:
    write_demo(site)
    site.add("hang", files={"config.py": "import time; time.sleep(99)"})
    site.add("exit", files={"config.py": "import os; os._exit(9)"})
    path = tmp_path / "s.yaml"
    path.write_text(
        "slt: 1\nkind: pipeline\nencoder: frames\ndecoder: {use: search, lm: hang, pruning: {extra: exit}}\n"
    )
    done = slt("check", path, site=site, SLT_PLUGINS="demo,hang,exit", SLT_PLUGIN_TIMEOUT="4")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {path}:4:24: decoder.lm.use: decoder 'hang' is declared by sltcore-hang 1.0, but loading its config took "
        "longer than 4 s and was stopped. Next: set SLT_DISABLE=hang, or SLT_PLUGIN_TIMEOUT to more seconds",
        f"error: {path}:4:44: decoder.pruning.extra.use: decoder 'exit' is declared by sltcore-exit 1.0, but loading its "
        "config ended the process (exit code 9). Next: set SLT_DISABLE=exit, or mend or update it (pip install -U "
        "sltcore-exit)",
    ]


def test_fill_and_diff(slt: Slt, demo_only: Site, spec: Path) -> None:
    code, output, errors = demo(slt, demo_only, "fill", spec, "--set", "name='1e-4'")
    assert (code, errors) == (0, "")
    filled = parse_document(output).data
    assert (filled["name"], filled["decoder"]["alpha"]) == ("1e-4", 0.5)
    other = spec.with_name("filled.yaml")
    other.write_text(output)
    commands = [["fill", other], ["diff", spec, other], ["diff", spec, spec]]
    again, differ, equal = slt.several(commands, site=demo_only, SLT_PLUGINS="demo")
    assert again == (0, output, "")
    assert differ == (1, 'name: "" -> "1e-4"\n', "")
    assert equal == (0, "", "")
