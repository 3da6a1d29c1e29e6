"""Debian packages without root: apt's own download and signature check, with lists and archives in our cache.

Nothing is installed and the system's apt is not touched: `Dir::State` and `Dir::Cache` point into the cache, only the
sources and keys are the system's. What is unpacked is never fetched again; a download that broke off is gone on with by
apt (after a SIGKILL it begins that one file anew).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sltcore.data.archives import unpack_deb
from sltcore.data.cache import Progress, appearing, locked, remove_leftovers
from sltcore.data.corpora import DebianPackage
from sltcore.errors import DataError

RECORD = "sltcore.json"
_LISTS_AGE_S = 24 * 3600
_TELL_S = 5.0
_URI = re.compile(
    r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) (?P<kind>SHA\d+|MD5Sum):(?P<digest>[0-9a-f]+)\s*$", re.M
)
_HOOKS = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")


class Archive(NamedTuple):
    """One .deb as apt's signed lists describe it."""

    package: str
    version: str
    file: str
    size: int
    algorithm: str
    digest: str


def unpacked(packages: Sequence[DebianPackage], folder: Path) -> list[Path] | None:
    """The unpacked folders of all packages, or None where one is missing."""
    places = [folder / package.name for package in packages]
    return places if all((place / RECORD).is_file() for place in places) else None


def versions(packages: Sequence[DebianPackage], folder: Path) -> dict[str, str]:
    """The version of each unpacked package."""
    return {p.name: str(json.loads((folder / p.name / RECORD).read_text())["version"]) for p in packages}


def fetch(packages: Sequence[DebianPackage], folder: Path, progress: Progress) -> list[Path]:
    """Download, verify and unpack what is missing of `packages`; their folders, in order.

    Raises DataError: no apt here, no such package, no network, a checksum that differs.
    """
    places = unpacked(packages, folder)
    if places is not None:
        return places
    if shutil.which("apt-get") is None:
        names = " ".join(package.name for package in packages)
        raise DataError(
            f"this machine has no apt-get, and the corpus comes as Debian packages ({names}); download their .deb files "
            f"on any machine into a folder and set SLT_DATA=FOLDER"
        )
    with locked(folder / ".lock", progress) as lock:
        remove_leftovers(folder)
        missing = [package for package in packages if not (folder / package.name / RECORD).is_file()]
        apt = _Apt(folder / "apt", lock, progress)
        for package, archive in zip(missing, apt.describe([p.name for p in missing]), strict=True):
            _check_known(package, archive, progress)
            _unpack(apt.download(archive), archive, folder / package.name, progress)
    return [folder / package.name for package in packages]


def _check_known(package: DebianPackage, archive: Archive, progress: Progress) -> None:
    known = package.sha256.get(archive.version)
    if known is None:
        recorded = ", ".join(package.sha256)
        progress(
            f"{package.name} {archive.version} is not a version recorded here ({recorded}): it is verified by apt's "
            f"signed lists alone, and counts may differ"
        )
    elif archive.algorithm == "sha256" and archive.digest != known:
        raise DataError(
            f"{package.name} {archive.version}: apt's list promises sha256 {archive.digest[:12]}…, recorded here is "
            f"{known[:12]}…; the package source was changed, use another one in /etc/apt"
        )


def _unpack(deb: Path, archive: Archive, place: Path, progress: Progress) -> None:
    progress(f"unpacking {archive.package} {archive.version}")
    with appearing(place) as fresh:
        unpack_deb(deb, fresh)
        record = {"package": archive.package, "version": archive.version, archive.algorithm: archive.digest}
        (fresh / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    deb.unlink()


class _Apt:
    """apt-get with state and archives in a folder of ours."""

    def __init__(self, folder: Path, lock: int, progress: Progress) -> None:
        self.folder = folder
        self.lock = lock
        self.progress = progress
        self.archives = folder / "archives"
        for part in ("lists/partial", "cache/archives/partial", "archives"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "apt.conf").write_text("".join(f"#clear {hook};\n" for hook in _HOOKS))

    def command(self, *arguments: str) -> list[str]:
        """The command line of apt-get with our folders."""
        options = {
            "Dir::State": self.folder,
            "Dir::State::lists": self.folder / "lists",
            "Dir::Cache": self.folder / "cache",
            "Acquire::Languages": "none",
            "Acquire::ForceHash": "SHA256",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
            "APT::Sandbox::User": "root",  # as root, apt's own user could not write here; else without meaning
        }
        flags = [flag for key, value in options.items() for flag in ("-o", f"{key}={value}")]
        return ["apt-get", "-c", str(self.folder / "apt.conf"), *flags, "-q", *arguments]

    def run(self, *arguments: str, watch: Archive | None = None) -> subprocess.CompletedProcess[str]:
        """Run it, its messages in plain English; with `watch`, in the folder of archives, telling how that file grows.

        Elsewhere `--print-uris` would leave out what lies there already. It inherits the lock: when this process is
        killed, apt-get lives on, and the next fetch waits for it rather than write the same file.
        """
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder if watch is None else self.archives,
                pass_fds=(self.lock,),
                env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
            try:
                while True:
                    try:
                        process.wait(_TELL_S)
                        break
                    except subprocess.TimeoutExpired:
                        self._tell(watch)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
            out.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(process.args, process.returncode, out.read(), errors.read())

    def _tell(self, watch: Archive | None) -> None:
        if watch is not None and (path := self.archives / watch.file).exists():
            self.progress(f"  {path.stat().st_size / 1e6:.1f} of {watch.size / 1e6:.1f} MB")

    def describe(self, names: Sequence[str]) -> list[Archive]:
        """What the package lists say of each name; lists older than a day, or that do not know one, are renewed."""
        stamp = self.folder / "updated"
        fresh = stamp.exists() and time.time() - stamp.stat().st_mtime < _LISTS_AGE_S
        complaint = ""
        if fresh:
            found, complaint = self._described(names)
            if found is not None:
                return found
        self.progress("updating the package lists in the cache (apt-get update, no root needed)")
        update = self.run("update")
        found, complaint = self._described(names)
        if found is None:
            reason = _last_error(update.stderr) or _last_error(complaint) or "apt-get failed without a message"
            raise DataError(
                f"apt cannot find {' '.join(names)}: {reason}; check the network and the sources in /etc/apt, or unpack "
                f"the packages into a folder and set SLT_DATA=FOLDER"
            )
        stamp.touch()
        return found

    def _described(self, names: Sequence[str]) -> tuple[list[Archive] | None, str]:
        answer = self.run("download", "--print-uris", *names)
        found = {}
        for match in _URI.finditer(answer.stdout):
            package, version = match["file"].split("_")[:2]
            found[package] = Archive(
                package,
                version.replace("%3a", ":"),
                match["file"],
                int(match["size"]),
                match["kind"].lower().removesuffix("sum"),
                match["digest"],
            )
        if answer.returncode or not all(name in found for name in names):
            return None, answer.stderr
        return [found[name] for name in names], ""

    def download(self, archive: Archive) -> Path:
        """The .deb, verified; a whole one from an earlier call is kept, and a partial one is gone on with."""
        path = self.archives / archive.file
        for _ in range(
            2
        ):  # a second time where a partial file was damaged, so that going on with it made a wrong whole
            if _verified(path, archive):
                return path
            self.progress(f"downloading {archive.package} {archive.version} ({archive.size / 1e6:.1f} MB)")
            answer = self.run("download", f"{archive.package}={archive.version}", watch=archive)
            if _verified(path, archive):
                return path
            size = path.stat().st_size if path.exists() else 0
            if size >= archive.size:
                path.unlink()
            elif answer.returncode:
                break
        reason = f"{size} of {archive.size} bytes, or another {archive.algorithm} than apt's signed lists promise"
        raise DataError(
            f"apt cannot download {archive.file}: {_last_error(answer.stderr) or reason}; check the network and run the "
            f"same again"
        )


def _verified(path: Path, archive: Archive) -> bool:
    if not path.is_file() or path.stat().st_size != archive.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, archive.algorithm).hexdigest() == archive.digest


def _last_error(text: str) -> str:
    lines = [line[2:].strip() for line in text.splitlines() if line.startswith("E:")]
    return lines[-1].rstrip(".") if lines else ""


def from_files(packages: Sequence[DebianPackage], source: Path, folder: Path, progress: Progress) -> list[Path] | None:
    """The packages' folders, unpacked from .deb files that lie in `source`; None where one is missing there.

    Raises DataError where a file of a recorded version has another checksum.
    """
    found = {}
    for package in packages:
        for deb in sorted(source.glob(f"{package.name}_*.deb")):
            found[package.name] = deb
    if len(found) < len(packages):
        return None
    with locked(folder / ".lock", progress):
        for package in packages:
            deb = found[package.name]
            version = deb.name.split("_")[1].replace("%3a", ":")
            with deb.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            known = package.sha256.get(version)
            if known is not None and known != digest:
                raise DataError(f"{deb} has sha256 {digest[:12]}…, expected {known[:12]}…; download it again")
            place = folder / package.name
            if (place / RECORD).is_file() and json.loads((place / RECORD).read_text()).get("sha256") == digest:
                continue
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                copy = Path(scratch) / deb.name
                shutil.copyfile(deb, copy)
                _unpack(copy, Archive(package.name, version, deb.name, 0, "sha256", digest), place, progress)
    return [folder / package.name for package in packages]
