"""A PostgreSQL server of a test's own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACES = ["/usr/local/bin", "/usr/bin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is: in the folder SLT_POSTGRES where it is set, else where it is installed."""
    if "SLT_POSTGRES" in os.environ:
        return shutil.which(name, path=os.environ["SLT_POSTGRES"])
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(PLACES))


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The folder of its socket; a superuser `root` without a password may connect. PostgreSQL refuses to run as root."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    assert initdb is not None
    assert pg_ctl is not None
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if user is not None:
        for place in (folder, *folder.parents):
            if place == Path("/tmp"):
                break
            place.chmod(place.stat().st_mode | 0o055)
        os.chown(folder, user.pw_uid, user.pw_gid)
    rights = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    data, environment = folder / "data", {**os.environ, "LC_ALL": "C", "TZ": "UTC", "HOME": str(folder)}

    def run(*words: str) -> None:
        subprocess.run(words, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL, timeout=60, **rights)  # type: ignore[call-overload]

    run(initdb, "-D", str(data), "-U", "root", "-A", "trust", "-E", "UTF8", "--no-sync")
    settings = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c max_connections=10"
    run(pg_ctl, "-D", str(data), "-w", "-o", settings, "-l", str(folder / "log"), "start")
    try:
        yield str(folder)
    finally:
        run(pg_ctl, "-D", str(data), "-m", "immediate", "stop")
