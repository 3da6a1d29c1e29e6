"""Compiled kernels: importing is light, the first compilation is announced, and no cache folder is needed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from slt_ctc_personalization import compiled

SMALL_KERNEL = """
import logging, sys
from slt_ctc_personalization.compiled import compile_function, first_call, kernel_folder
def add(a, b):
    return a + b
add = compile_function(add)
print(first_call(add, 2, 3), kernel_folder(), sum(add.stats.cache_hits.values()))
"""


def run(code, folder, **environment):
    script = folder / "kernel.py"
    script.write_text(code)
    settings = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "SLT_CACHE")} | environment
    settings["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, script], env=settings, capture_output=True, text=True, check=True)
    return done.stdout.split(), done.stderr


def test_importing_the_plugin_loads_neither_numba_nor_numpy(tmp_path):
    code = "import sys, slt_ctc_personalization\nprint([m for m in ('numba', 'numpy', 'torch') if m in sys.modules])"
    assert run(code, tmp_path)[0] == ["[]"]


def test_second_process_takes_the_kernel_from_the_cache(tmp_path):
    first, _ = run(SMALL_KERNEL, tmp_path, SLT_CACHE=str(tmp_path / "cache"))
    second, _ = run(SMALL_KERNEL, tmp_path, SLT_CACHE=str(tmp_path / "cache"))
    assert (first[0], first[2], second[0], second[2]) == ("5", "0", "5", "1")
    assert first[1].startswith(str(tmp_path / "cache"))


def test_unusable_cache_folders_fall_back_to_a_private_one(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file is in the way")
    place = {"NUMBA_CACHE_DIR": str(blocked / "numba"), "SLT_CACHE": str(blocked / "slt"), "TMPDIR": str(tmp_path)}
    (result, folder, _), _ = run(SMALL_KERNEL, tmp_path, **place)
    assert result == "5"
    private = tmp_path / f"slt-kernels-{os.getuid()}"
    assert folder.startswith(str(private))
    assert private.stat().st_mode & 0o077 == 0


def test_no_folder_at_all_still_computes(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file is in the way")
    (tmp_path / f"slt-kernels-{os.getuid()}").write_text("and here")
    place = {"NUMBA_CACHE_DIR": str(blocked / "numba"), "SLT_CACHE": str(blocked / "slt"), "TMPDIR": str(tmp_path)}
    assert run(SMALL_KERNEL, tmp_path, **place)[0] == ["5", "None", "0"]


def test_private_folder_of_somebody_else_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"slt-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700)
    assert compiled._private_folder() == folder
    folder.chmod(0o777)
    assert compiled._private_folder() is None


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_only_a_long_first_call_is_announced_in_one_line(seconds, caplog, monkeypatch):
    monkeypatch.setattr(compiled, "ANNOUNCE_AFTER_S", 0.1)

    class Kernel:
        overloads = ()
        __name__ = "kernel"

        def __call__(self):
            time.sleep(seconds)
            return 7

    with caplog.at_level(logging.WARNING, logger="slt_ctc_personalization"):
        assert compiled.first_call(Kernel()) == 7
    lines = [record.getMessage() for record in caplog.records]
    assert [line.startswith("compiling kernel for this machine, once") for line in lines] == [True] * bool(seconds)


def test_folder_changes_with_the_sources(tmp_path, monkeypatch):
    before = compiled._digest_of_sources()
    folder = Path(compiled.__file__).parent
    for path in folder.rglob("*.py"):
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    assert compiled._digest_of_sources() == before
    changed = tmp_path / "phrases" / "phrases.py"
    changed.write_text(changed.read_text() + "\n# changed\n")
    assert compiled._digest_of_sources() != before


def test_read_only_arrays_are_copied_and_others_are_not():
    array = np.zeros(3)
    assert compiled.writable(array) is array
    array.setflags(write=False)
    copy = compiled.writable(array)
    assert copy.flags.writeable
    assert copy is not array
