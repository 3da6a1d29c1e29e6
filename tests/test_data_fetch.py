"""Promises of fetching: sources in order, checksums, resuming, one at a time; with an apt-get made here, no network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from sltcore.data import cache_folder, corpus, fetch, rows
from sltcore.data.archives import unpack_deb
from sltcore.data.cache import locked
from sltcore.errors import DataError

APT = """#!{python}
import hashlib, json, pathlib, sys, time
home = pathlib.Path({home!r})
plan = json.loads((home / "plan.json").read_text())
arguments = sys.argv[1:]
with (home / "calls").open("a") as log:
    log.write(" ".join(arguments) + "\\n")
options = dict(a.split("=", 1) for a in arguments if "=" in a and "::" in a.split("=")[0])
lists = pathlib.Path(options["Dir::State::lists"])
words = [a for i, a in enumerate(arguments) if not a.startswith("-") and arguments[i - 1] not in ("-o", "-c")]
if words[0] == "update":
    if plan.get("offline"):
        print("E: Could not resolve 'deb.example'", file=sys.stderr)
        sys.exit(100)
    (lists / "Packages").touch()
    sys.exit(0)
for word in words[1:]:
    name = word.split("=")[0]
    found = sorted((home / "pool").glob(name + "_*.deb"))
    if not found or not (lists / "Packages").exists():
        print("E: Unable to locate package " + name, file=sys.stderr)
        sys.exit(100)
    data = found[0].read_bytes()
    if "--print-uris" in arguments:
        if pathlib.Path(found[0].name).exists():  # as apt does
            continue
        digest = plan.get("digest") or hashlib.sha256(data).hexdigest()
        print("'http://deb.example/%s' %s %d SHA256:%s" % (found[0].name, found[0].name, len(data), digest))
        continue
    if plan.get("fails"):
        print("E: Failed to fetch " + name, file=sys.stderr)
        sys.exit(100)
    have = pathlib.Path(found[0].name)
    time.sleep(plan.get("slow", 0))
    start = have.stat().st_size if have.exists() else 0
    with (home / "calls").open("a") as log:
        log.write("from byte %d of %s\\n" % (start, have.name))
    with have.open("ab") as file:
        file.write(data[start : plan.get("stop")] if plan.get("stop") else data[start:])
    if plan.get("stop"):
        print("E: Connection failed", file=sys.stderr)
        sys.exit(100)
"""
VOICE = "usr/share/asterisk/sounds/en_US_f_Allison"
TEXTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt"
FILES = {
    "asterisk-core-sounds-en": {TEXTS: b"hello: Hello.\nbye: Good bye.\n"},
    "asterisk-core-sounds-en-g722": {f"{VOICE}/hello.g722": bytes(8000), f"{VOICE}/bye.g722": bytes(16000)},
}


def deb(files: dict[str, bytes], mode: str = "w:xz", links: dict[str, str] | None = None) -> bytes:
    """A binary package as deb(5) describes it, written without dpkg."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    ending = {"w:xz": "xz", "w:gz": "gz", "w": ""}[mode]
    out = b"!<arch>\n"
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"",
        f"data.tar{'.' * bool(ending)}{ending}": inner.getvalue(),
    }
    for name, content in parts.items():
        out += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
            + content
            + b"\n" * (len(content) % 2)
        )
    return out


class Machine:
    """A machine with an apt-get of ours, a pool of packages, and an empty cache."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.told: list[str] = []
        for folder in ("bin", "pool", "cache"):
            (home / folder).mkdir()
        (home / "bin" / "apt-get").write_text(APT.format(python=sys.executable, home=str(home)))
        (home / "bin" / "apt-get").chmod(0o755)
        self.plan()
        monkeypatch.setenv("PATH", str(home / "bin"))
        monkeypatch.setenv("SLT_CACHE", str(home / "cache"))
        monkeypatch.delenv("SLT_DATA", raising=False)
        monkeypatch.setattr("sltcore.data.sources._SYSTEM", home / "system")

    def plan(self, **plan: object) -> None:
        (self.home / "plan.json").write_text(json.dumps(plan))

    def publish(self, version: str = "9.9-1") -> None:
        for old in (self.home / "pool").iterdir():
            old.unlink()
        for name, files in FILES.items():
            (self.home / "pool" / f"{name}_{version}_all.deb").write_bytes(deb(files))

    def calls(self, word: str) -> int:
        path = self.home / "calls"
        return sum(word in line for line in path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, monkeypatch)
    made.publish()
    return made


def test_a_fetched_corpus_is_whole_and_not_fetched_again(machine: Machine) -> None:
    found = fetch("asterisk-en", progress=machine.told.append)
    assert (found.source, found.versions) == ("debian", dict.fromkeys(FILES, "9.9-1"))
    assert [(row.id, row.text, row.seconds) for row in rows("asterisk-en")] == [
        ("hello", "hello", 1.0),
        ("bye", "good bye", 2.0),
    ]
    assert machine.calls("download") == 3  # the addresses of both, then each
    assert fetch("asterisk-en", progress=machine.told.append) == found
    assert machine.calls("download") == 3
    assert machine.calls("update") == 1
    assert not list((machine.home / "cache").rglob("*.deb"))


def test_apt_gets_lists_and_cache_of_its_own(machine: Machine) -> None:
    fetch("asterisk-en")
    for line in (machine.home / "calls").read_text().splitlines():
        if line.startswith("-c"):
            for key in ("Dir::State=", "Dir::State::lists=", "Dir::Cache="):
                assert f"{key}{machine.home / 'cache'}" in line


def test_a_version_not_recorded_is_said(machine: Machine) -> None:
    fetch("asterisk-en", progress=machine.told.append)
    said = [line for line in machine.told if "is not a version recorded here (1.6.1-1)" in line]
    assert len(said) == 2
    assert "verified by apt's signed lists alone" in said[0]


def test_a_recorded_version_with_another_checksum_is_refused(machine: Machine) -> None:
    machine.publish("1.6.1-1")
    with pytest.raises(
        DataError, match=r"asterisk-core-sounds-en 1\.6\.1-1: apt's list promises sha256 .* recorded here is 973e"
    ):
        fetch("asterisk-en")
    assert not (machine.home / "cache/debian/asterisk-core-sounds-en").exists()


def test_a_download_with_another_checksum_is_refused(machine: Machine) -> None:
    machine.plan(digest="0" * 64)
    with pytest.raises(
        DataError, match=r"apt cannot download .*_all\.deb: .* another sha256 than apt's signed lists promise"
    ):
        fetch("asterisk-en")
    machine.plan()
    assert fetch("asterisk-en").source == "debian"


def test_a_stopped_download_goes_on_where_it_stopped(machine: Machine) -> None:
    machine.plan(stop=100)
    with pytest.raises(DataError, match=r"Connection failed; check the network and run the same again"):
        fetch("asterisk-en")
    machine.plan()
    fetch("asterisk-en")
    assert machine.calls("from byte 100 of asterisk-core-sounds-en_9.9-1_all.deb") == 1


def test_a_damaged_partial_download_is_begun_anew(machine: Machine) -> None:
    archives = machine.home / "cache/debian/apt/archives"
    archives.mkdir(parents=True)
    (archives / "asterisk-core-sounds-en_9.9-1_all.deb").write_bytes(b"x" * 50)
    assert fetch("asterisk-en").source == "debian"
    assert machine.calls("from byte 0 of asterisk-core-sounds-en_9.9-1_all.deb") == 1


def test_what_is_unpacked_is_kept_when_the_next_package_fails(machine: Machine) -> None:
    (pool := machine.home / "pool" / "asterisk-core-sounds-en-g722_9.9-1_all.deb").rename(machine.home / "kept")
    with pytest.raises(DataError, match="Unable to locate package asterisk-core-sounds-en-g722"):
        fetch("asterisk-en")
    (machine.home / "kept").rename(pool)
    machine.plan(stop=0)
    fetch("asterisk-en")
    shutil.rmtree(machine.home / "cache/debian/asterisk-core-sounds-en-g722")
    before = machine.calls("from byte")
    fetch("asterisk-en")
    assert machine.calls("from byte") == before + 1


def test_half_an_unpacking_leaves_nothing_behind(machine: Machine) -> None:
    broken = deb(FILES["asterisk-core-sounds-en"])
    (machine.home / "pool/asterisk-core-sounds-en_9.9-1_all.deb").write_bytes(broken[:-60])
    with pytest.raises(DataError, match=r"was cut or holds no data\.tar; download it again"):
        fetch("asterisk-en")
    assert [path.name for path in (machine.home / "cache/debian").iterdir() if path.is_dir()] == ["apt"]


def test_what_a_killed_process_left_is_removed(machine: Machine) -> None:
    left = machine.home / "cache/debian/.asterisk-core-sounds-en-abc"
    left.mkdir(parents=True)
    fetch("asterisk-en")
    assert not left.exists()


def test_without_network_the_reason_and_the_remedy_are_said(machine: Machine) -> None:
    machine.plan(offline=True)
    with pytest.raises(DataError) as caught:
        fetch("asterisk-en")
    assert "Could not resolve 'deb.example'; check the network and the sources in /etc/apt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failing_download_is_said(machine: Machine) -> None:
    machine.plan(fails=True)
    with pytest.raises(
        DataError, match=r"Failed to fetch asterisk-core-sounds-en; check the network and run the same again"
    ):
        fetch("asterisk-en")


def test_without_apt_the_packages_and_the_remedy_are_named(machine: Machine) -> None:
    (machine.home / "bin" / "apt-get").unlink()
    with pytest.raises(DataError) as caught:
        fetch("asterisk-en")
    assert str(caught.value) == (
        "corpus asterisk-en: this machine has no apt-get, and the corpus comes as Debian packages (asterisk-core-sounds-en "
        "asterisk-core-sounds-en-g722); download their .deb files on any machine into a folder and set SLT_DATA=FOLDER"
    )


def lay(root: Path) -> None:
    for files in FILES.values():
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)


@pytest.mark.parametrize("place", [".", "asterisk-en"])
def test_a_local_folder_comes_first(machine: Machine, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    lay(machine.home / "mine" / place)
    lay(machine.home / "system")
    monkeypatch.setenv("SLT_DATA", str(machine.home / "mine"))
    found = fetch("asterisk-en")
    assert (found.source, found.roots) == ("folder", ((machine.home / "mine" / place).resolve(),))
    assert machine.calls("") == 0


def test_a_folder_with_a_folder_for_each_package_is_understood(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, files in FILES.items():
        for name, content in files.items():
            (path := machine.home / "mine" / package / name).parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    monkeypatch.setenv("SLT_DATA", str(machine.home / "mine"))
    assert fetch("asterisk-en").source == "folder"
    assert len(rows("asterisk-en")) == 2


def test_a_folder_of_packages_is_unpacked_without_apt(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.home / "bin" / "apt-get").unlink()
    monkeypatch.setenv("SLT_DATA", str(machine.home / "pool"))
    assert fetch("asterisk-en").source == "folder"
    assert len(rows("asterisk-en")) == 2
    assert len(list((machine.home / "pool").glob("*.deb"))) == 2


def test_a_package_in_a_folder_with_another_checksum_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.publish("1.6.1-1")
    monkeypatch.setenv("SLT_DATA", str(machine.home / "pool"))
    with pytest.raises(DataError, match=r"_1\.6\.1-1_all\.deb has sha256 .*, expected 973e.*; download it again"):
        fetch("asterisk-en")


def test_a_folder_without_the_corpus_is_passed_over(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.home / "mine").mkdir()
    monkeypatch.setenv("SLT_DATA", str(machine.home / "mine"))
    assert fetch("asterisk-en").source == "debian"


def test_a_wrong_folder_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLT_DATA", str(machine.home / "none"))
    with pytest.raises(DataError, match=r"SLT_DATA=.*none is no folder; name one that holds corpora, or unset it"):
        fetch("asterisk-en")


def test_installed_packages_come_before_the_network(machine: Machine) -> None:
    lay(machine.home / "system")
    assert fetch("asterisk-en").source == "installed"
    assert machine.calls("") == 0


def test_packages_whose_documents_were_stripped_are_not_used(machine: Machine) -> None:
    lay(machine.home / "system")  # as in container images, which leave /usr/share/doc out
    (machine.home / "system" / TEXTS).unlink()
    assert fetch("asterisk-en").source == "debian"


def test_one_process_fetches_and_the_others_wait(machine: Machine) -> None:
    code = "from sltcore.data import fetch; print(fetch('asterisk-en').source)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    together = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0] for process in together] == ["debian\n"] * 3
    assert machine.calls("from byte") == 2


def test_a_fetch_waits_for_the_download_of_a_killed_one(machine: Machine) -> None:
    machine.plan(slow=1.0)
    code = "from sltcore.data import fetch; fetch('asterisk-en', progress=lambda line: print(line, flush=True))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    while not killed.stdout.readline().startswith("downloading"):
        assert killed.poll() is None
    time.sleep(0.3)
    killed.kill()
    killed.wait()
    assert fetch("asterisk-en", progress=machine.told.append).source == "debian"
    assert machine.told[0].startswith("waiting for another process")
    assert machine.calls("from byte 0 of asterisk-core-sounds-en_") == 1


def test_waiting_is_said_and_ends_with_the_holder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib\nfrom sltcore.data.cache import locked\n"
            "with locked(pathlib.Path(sys.argv[1]), print):\n  print('held', flush=True); time.sleep(0.6)",
            str(tmp_path / ".lock"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told: list[str] = []
    with locked(tmp_path / ".lock", told.append):
        assert told == [f"waiting for another process that is filling {tmp_path}"]
    holder.communicate(timeout=10)


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
def test_packages_are_unpacked_without_dpkg(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a.deb").write_bytes(deb({"usr/share/x": b"1", "usr/y": b"2"}, mode, {"usr/z": "share/x"}))
    unpack_deb(tmp_path / "a.deb", tmp_path / "out")
    found = {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == {"usr/share/x": b"1", "usr/y": b"2", "usr/z": b"1"}


def test_a_package_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(deb({"../../evil": b"1"}))
    with pytest.raises(DataError, match="leads out of the package"):
        unpack_deb(tmp_path / "a.deb", tmp_path / "in" / "out")
    (tmp_path / "b.deb").write_bytes(deb({}, links={"usr/etc": "/etc", "usr/up": "../../.."}))
    unpack_deb(tmp_path / "b.deb", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("data", [b"", b"!<arch>\n", b"hello", b"!<arch>\n" + b"x" * 100])
def test_what_is_no_package_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.deb").write_bytes(data)
    with pytest.raises(DataError, match="download it again"):
        unpack_deb(tmp_path / "a.deb", tmp_path / "out")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
@pytest.mark.parametrize("packing", ["xz", "gzip", "none", "zstd"])
def test_real_packages_are_unpacked_as_dpkg_does(tmp_path: Path, packing: str) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"
    )
    (tree / "usr/share").mkdir(parents=True)
    (tree / "usr/share/a.txt").write_bytes(os.urandom(100000))
    build = subprocess.run(
        ["dpkg-deb", f"-Z{packing}", "-b", tree, tmp_path / "x.deb"], capture_output=True, check=False
    )
    if build.returncode:
        pytest.skip(f"this dpkg-deb cannot pack with {packing}")
    unpack_deb(tmp_path / "x.deb", tmp_path / "out")
    assert (tmp_path / "out/usr/share/a.txt").read_bytes() == (tree / "usr/share/a.txt").read_bytes()


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "a"))
    assert cache_folder() == (tmp_path / "a").resolve()
    monkeypatch.delenv("SLT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == (tmp_path / "b" / "sltcore").resolve()
    (tmp_path / "file").touch()
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "file" / "c"))
    with pytest.raises(DataError, match=r"the cache folder .* cannot be made: .*; set SLT_CACHE=FOLDER"):
        cache_folder()


def test_recorded_checksums_are_the_ones_compared(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    # the fake package's own checksum put into the table is accepted without a word
    from sltcore.data import corpora

    entry = corpus("asterisk-en")
    known = []
    for package in entry.packages:
        data = (machine.home / "pool" / f"{package.name}_9.9-1_all.deb").read_bytes()
        known.append(corpora.DebianPackage(package.name, {"9.9-1": hashlib.sha256(data).hexdigest()}))
    from dataclasses import replace

    monkeypatch.setattr(corpora, "CORPORA", {"asterisk-en": replace(entry, packages=tuple(known))})
    assert fetch("asterisk-en", progress=machine.told.append).source == "debian"
    assert not [line for line in machine.told if "recorded" in line]
