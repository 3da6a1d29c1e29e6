"""Unpacking .deb files: an `ar` archive with a `data.tar` in it (deb(5)); no dpkg and no root needed."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from sltcore.errors import DataError

_MAGIC = b"!<arch>\n"


def unpack_deb(deb: Path, folder: Path) -> None:
    """Write a package's files below `folder`; links that lead out of it are left out.

    Raises DataError where the file is no .deb, is cut, or is packed in a way that nothing here unpacks.
    """
    name, data = _member(deb, "data.tar")
    if name.endswith(".zst"):  # Ubuntu's packages; tarfile reads zstd only from Python 3.14 on
        data = _zstd(data, deb)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
            for member in archive:
                _extract(archive, member, folder)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{deb} cannot be unpacked: {error}; download it again") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one member; by hand, because Debian 12's Python 3.11.2 has no `filter` argument (it came with 3.11.4)."""
    place = _inside(folder, folder / member.name)
    if place is None:
        raise tarfile.TarError(f"{member.name} leads out of the package")
    place.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        place.mkdir(exist_ok=True)
    elif member.issym() and _inside(folder, place.parent / member.linkname) is not None:
        place.symlink_to(member.linkname)
    elif member.isreg() or member.islnk():
        content = archive.extractfile(member)
        if content is not None:
            with content, place.open("wb") as file:
                shutil.copyfileobj(content, file)


def _inside(folder: Path, path: Path) -> Path | None:
    """The path with its dots and links resolved, or None where it lies outside `folder`."""
    resolved = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
    root = folder.resolve()
    return resolved if resolved == root or root in resolved.parents else None


def _member(deb: Path, start: str) -> tuple[str, bytes]:
    end = deb.stat().st_size
    with deb.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DataError(f"{deb} is no Debian package; download it again")
        while len(header := file.read(60)) == 60:
            name = header[:16].decode("ascii", "replace").rstrip("/ ")
            size = int(header[48:58]) if header[48:58].strip().isdigit() else -1
            if size < 0 or file.tell() + size > end:
                break
            if name.startswith(start):
                return name, file.read(size)
            file.seek(size + size % 2, os.SEEK_CUR)
    raise DataError(f"{deb} was cut or holds no {start}; download it again")


def _zstd(data: bytes, deb: Path) -> bytes:
    commands = (["dpkg-deb", "--fsys-tarfile", str(deb)], ["zstd", "-dcq"])
    for command in commands:
        if shutil.which(command[0]):
            done = subprocess.run(command, input=data, capture_output=True, check=False)
            if not done.returncode:
                return done.stdout
    raise DataError(
        f"{deb} is packed with zstd, which needs dpkg-deb or zstd here; install zstd and run the same again"
    )
