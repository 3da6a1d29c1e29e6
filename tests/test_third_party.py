"""A stranger's plugin, installed in a fresh environment beside the core alone, is used from a spec."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]


def call(*words: str, cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.system
@pytest.mark.slow
def test_a_generated_plugin_works_beside_the_core_alone(tmp_path: Path) -> None:
    """Installs from the package index, so it runs with the system tests."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLT_", "PYTHON", "VIRTUAL_ENV"))}
    call(sys.executable, "-m", "venv", str(tmp_path / "venv"), cwd=tmp_path, env=clean)
    python, slt = (str(tmp_path / "venv" / "bin" / name) for name in ("python", "slt"))
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"))
    call(*pip, "torch", cwd=tmp_path, env=clean)
    call(*pip, str(ROOT), cwd=tmp_path, env=clean)
    assert "no plugin announces itself" in call(slt, "plugins", cwd=tmp_path, env=clean)
    call(slt, "new-plugin", "stranger", "--kind", "encoder", cwd=tmp_path, env=clean)
    call(*pip, "./stranger", cwd=tmp_path, env=clean)
    rows = json.loads(call(slt, "plugins", "--json", cwd=tmp_path, env=clean))
    (row,) = rows
    assert (row["distribution"], row["status"]) == ("sltcore-stranger", "ok")
    (component,) = row["components"]
    (tmp_path / "spec.yaml").write_text(f"slt: 1\nkind: pipeline\nencoder: {component['name']}\n")
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    call(slt, "check", "spec.yaml", cwd=tmp_path, env=clean)
    out = call(slt, "run", "spec.yaml", "a.wav", "--json", cwd=tmp_path, env=clean)
    shape = json.loads(out)["shape"]
    assert len(shape) == 2
    assert min(shape) > 0
