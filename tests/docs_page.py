"""One page of the documentation, its blocks carried out in a folder of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from generation.blocks import Block, Command, agrees, blocks_of, commands_of

from sltcore.cli import app
from sltcore.cli.console import Console
from sltcore.registry import default_registry
from sltcore.spec import PipelineSpec, load_spec, parse_document

NOT_RUN: Mapping[str, str] = {
    "make demo": "installs, and may fetch a recording",
    "make test": "would run this test again",
    "make install": "installs; the same packages are here already",
    "pip install": "needs the network; a plugin made on the page is put on the path instead",
    "slt data fetch": "needs the network or apt",
    "slt pull": "needs a hub",
    "slt push": "needs a hub, and an account there",
}
"""Commands that are shown and not run, with the reason."""

ROOT = Path(__file__).parent.parent
SPEECH_S = 4.6
SAID = "it was the best of times it was the worst of times"


def recording(path: Path) -> Path:
    """Speech to run the pages on: the first words of a recording in moonshine-voice where that is installed, else
    tones, on which no shown output is compared."""
    found = importlib.util.find_spec("moonshine_voice")
    place = Path(found.origin).parent / "assets" / "two_cities.wav" if found and found.origin else None
    if place is not None and place.is_file():
        samples, rate_hz = soundfile.read(place, dtype="float32")
        soundfile.write(path, samples[: int(SPEECH_S * rate_hz)], rate_hz)
    else:
        time_s = np.arange(int(SPEECH_S * 16000)) / 16000
        tones = sum(np.sin(2 * np.pi * 120 * k * time_s) / k for k in range(1, 20))
        soundfile.write(path, 0.1 * tones * (np.sin(2 * np.pi * 3 * time_s) > 0), 16000)
        path.with_suffix(".tones").touch()
    return path


class Page:
    """The blocks of a page, run in order in `folder`, which holds `call.wav`, `calls/`, `calls.csv` and the
    project's `examples/`."""

    def __init__(self, path: Path, folder: Path, speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.is_speech = not speech.with_suffix(".tones").exists()
        self.namespace: dict[str, Any] = {"__name__": "page"}
        self.printed: str | None = None
        self.heard = False
        shutil.copy(speech, folder / "call.wav")
        (folder / "calls").mkdir()
        for name in ("one.wav", "two.wav"):
            shutil.copy(speech, folder / "calls" / name)
        (folder / "calls.csv").write_text(f"audio,text\ncalls/one.wav,{SAID}\ncalls/two.wav,{SAID}\n", encoding="utf-8")
        (folder / "examples").symlink_to(ROOT / "examples")
        monkeypatch.chdir(folder)

    def run(self) -> None:
        """Carry out every block; the failure names the page and the block's line."""
        for block in blocks_of(self.path.read_text(encoding="utf-8")):
            if block.title and block.title != "output":
                place = self.folder / block.title
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(block.text, encoding="utf-8")
            kind: Callable[[Block], None] | None = getattr(self, f"run_{block.language}", None)
            assert kind is not None, self.at(
                block, f"nothing is known of blocks of {block.language or 'no language'!r}"
            )
            kind(block)
            if block.language != "python":
                self.printed = None

    def at(self, block: Block, message: str) -> str:
        return f"{self.path.name}:{block.line}: {message}"

    def run_python(self, block: Block) -> None:
        if block.title:  # a file of a plugin, which imports its own package
            compile(block.text, block.title, "exec")
            return
        with captured() as output:
            exec(compile(block.text, f"{self.path.name}:{block.line}", "exec"), self.namespace)
        self.printed = output.getvalue()
        self.heard = "call" in block.text

    def run_text(self, block: Block) -> None:
        assert block.title, self.at(block, "a text block is a file, or titled output and stands after python")
        if block.title == "output":
            assert self.printed is not None, self.at(block, "no python block stands right before this output")
            self.compare(block, block.text, self.printed, heard=self.heard)

    def run_yaml(self, block: Block) -> None:
        data = parse_document(block.text, block.title or self.path.name).data
        if "slt" not in data:  # a part of a pipeline: complete it with what it lacks
            unknown = set(data) - set(PipelineSpec.model_fields)
            assert not unknown, self.at(block, f"not part of a pipeline: {', '.join(sorted(unknown))}")
            data = {"slt": 1, "kind": "pipeline", "encoder": "hama-conformer", "decoder": "ctc-greedy", **data}
        if "broken" not in block.title:
            load_spec(data, registry=default_registry(), folder=self.folder)

    def run_json(self, block: Block) -> None:
        for line in block.text.splitlines() if block.title.endswith("l") else [block.text]:
            json.loads(line)

    def run_toml(self, block: Block) -> None:
        tomllib.loads(block.text)

    def run_markdown(self, block: Block) -> None:
        assert block.text.strip(), self.at(block, "an empty page")

    def run_console(self, block: Block) -> None:
        for command in commands_of(block):
            if command.text.startswith("pip install -e "):
                self.put_on_path(self.folder / shlex.split(command.text)[3].partition("[")[0])
            if any(command.text.startswith(prefix) for prefix in NOT_RUN) or not self.has_recordings(command):
                continue
            self.compare(block, command.shown, self.output_of(block, command), heard="call" in block.text)

    def has_recordings(self, command: Command) -> bool:
        """Whether the corpus recordings that a command names are here; those found in `SLT_DATA` are put here."""
        for name in re.findall(r"\S+\.g722", command.text):
            found = sorted(Path(os.environ.get("SLT_DATA") or self.folder).rglob(name))
            if not found:
                return False
            if found[0].parent != self.folder:
                shutil.copy(found[0], self.folder / name)
        return True

    def compare(self, block: Block, shown: str, printed: str, *, heard: bool) -> None:
        """Fail where output is not as shown; what was heard in the recording is compared on real speech only, and what is
        said once on a new machine not at all."""
        printed = re.sub(r"(?m)^compiling \w+ for this machine, once, .*\n", "", printed)
        if shown.strip() and (self.is_speech or not heard):
            assert agrees(shown, printed), self.at(block, f"the page shows\n{shown}\nbut it prints\n{printed}")

    def output_of(self, block: Block, command: Command) -> str:
        """What a command prints on both its streams; it must succeed unless the page shows its exit code."""
        text, _, after = command.text.partition("; ")
        words = shlex.split(text, comments=True)
        with self.monkeypatch.context() as patch:
            while re.fullmatch(r"[A-Z_]+=.*", words[0]):
                patch.setenv(*words.pop(0).split("=", 1))
            if words[0] == "slt":
                code, output = slt(words[1:])
            elif words[0] in ("pytest", "cat", "ls"):
                code, output = child(words)
            else:
                raise AssertionError(self.at(block, f"nobody knows how to run `{text}`; see NOT_RUN"))
        if after == "echo $?":
            return f"{output}{code}\n"
        assert code == 0, self.at(block, f"`{text}` ends with code {code}:\n{output}")
        return output

    def put_on_path(self, root: Path) -> None:
        """What `pip install -e` does, without pip: metadata and source on the path, here and in child processes."""
        facts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        place = self.folder / "site"
        info = place / f"{facts['name'].replace('-', '_')}-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {facts['name']}\nVersion: 0.1.0\n", encoding="utf-8"
        )
        points = "".join(f"{name} = {value}\n" for name, value in facts["entry-points"]["sltcore"].items())
        (info / "entry_points.txt").write_text(f"[sltcore]\n{points}", encoding="utf-8")
        folders = [str(place), str(root / "src")]
        for folder in folders:
            self.monkeypatch.syspath_prepend(folder)
        path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self.monkeypatch.setenv("PYTHONPATH", path)
        self.monkeypatch.setattr("sltcore.registry.registry._default", None)


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    """Both output streams as one text; the root logger as it was afterwards."""
    output = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield output
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def slt(words: list[str]) -> tuple[int, str]:
    """`slt` in this process: its exit code and what it printed."""
    Console.quiet = Console.json = Console.debug = False  # as in a new process
    with captured() as output, pytest.raises(SystemExit) as end:
        app.run(words)
    return int(end.value.code or 0), output.getvalue()


def child(words: list[str]) -> tuple[int, str]:
    """A command that has to be a process of its own."""
    command = [sys.executable, "-m", *words] if words[0] == "pytest" else words
    if words[0] == "pytest":
        command += ["-p", "no:cacheprovider"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout
