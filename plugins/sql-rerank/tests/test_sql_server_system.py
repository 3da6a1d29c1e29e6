"""The same promises before a PostgreSQL unpacked from Debian's packages, where none is installed. Run by make test-system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sltcore.data.debian import DebianPackage, fetch

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get"),
]


def told(*words: str, libraries: str = "") -> str:
    environment = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": libraries}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment).stdout


@pytest.fixture(scope="module")
def unpacked() -> Iterator[tuple[Path, str]]:
    """The folder of PostgreSQL's programs, and where their libraries are; all below /tmp, which any user can read."""
    folder = Path(tempfile.mkdtemp(prefix="pgdeb", dir="/tmp"))
    folder.chmod(0o755)
    try:
        (name,) = set(
            re.findall(r"Depends: (postgresql-\d+)$", told("apt-cache", "depends", "postgresql"), re.MULTILINE)
        )
        needed = re.findall(r"Depends: (lib\S+)$", told("apt-cache", "depends", name), re.MULTILINE)
        names = [name, *(entry for entry in needed if not re.match(r"lib(llvm|c6|gcc)", entry))]
        known = [entry for entry in names if told("apt-cache", "policy", entry).strip()]
        places = fetch([DebianPackage(entry, {}) for entry in known], folder / "packages", print)
        libraries = [str(found.parent) for place in places for found in place.rglob("*.so.*")]
        (program,) = places[0].rglob("bin/postgres")
        for found in program.parent.iterdir():
            found.chmod(0o755)
        for place in (folder / "packages").rglob("*"):
            if not place.is_symlink():
                place.chmod(place.stat().st_mode | (0o055 if place.is_dir() else 0o044))
        (folder / "packages").chmod(0o755)
        yield program.parent, os.pathsep.join(dict.fromkeys(libraries))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_sandbox_keeps_its_promises_before_the_packaged_server(unpacked: tuple[Path, str]) -> None:
    programs, libraries = unpacked
    assert "PostgreSQL" in told(str(programs / "initdb"), "--version", libraries=libraries)
    tests = Path(__file__).with_name("test_sql_server_sandbox.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", str(tests)],
        env={**os.environ, "SLT_POSTGRES": str(programs), "LD_LIBRARY_PATH": libraries},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout
    assert re.search(r"\b[3-9]\d passed", done.stdout)
