"""The wait for compiled kernels is announced once, and not when they are on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging
logging.basicConfig(format="%(name)s: %(message)s")
import numpy as np
from slt_nna.emulated.compiled import compile_kernel
import slt_nna.tests_of_compiling as made

made.twice(np.ones(3))
made.thrice(np.ones(3))
"""
MODULE = """
from slt_nna.emulated.compiled import compile_kernel

@compile_kernel
def twice(x):
    return x * 2

@compile_kernel
def thrice(x):
    return x * 3
"""


def said(folder: Path) -> list[str]:
    program = PROGRAM.replace(
        "import slt_nna.tests_of_compiling as made",
        f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("slt_nna.tests_of_compiling", {str(folder / "made.py")!r})
made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
""",
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return [line for line in done.stderr.splitlines() if "compiling" in line]


@pytest.mark.slow
def test_compiling_is_announced_once_and_not_for_what_is_on_disk(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(MODULE, encoding="utf-8")
    (line,) = said(tmp_path)
    assert line.startswith("slt_nna.compiling: compiling the arithmetic of chips for this machine, once")
    assert said(tmp_path) == []
