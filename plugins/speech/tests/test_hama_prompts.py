"""The bars on recorded prompts: the corpus asterisk-en, fetched, or unpacked in the folder SLT_ASTERISK_EN."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slt_speech.hama.network import HamaConformer
from sltcore.data import fetch

RATE = 16000


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "hama_port.py"))


@pytest.fixture(scope="module")
def prompts(benchmark: dict[str, Any]) -> list[np.ndarray]:
    roots = [Path(os.environ["SLT_ASTERISK_EN"])] if "SLT_ASTERISK_EN" in os.environ else fetch("asterisk-en").roots
    folder = next(root for root in roots if any(root.rglob("*.g722")))
    found: list[np.ndarray] = benchmark["read_prompts"](folder, 1.0, 20.0)
    return found


@pytest.mark.system
def test_twenty_prompts_agree_with_the_engine(benchmark: dict[str, Any], prompts: list[np.ndarray]) -> None:
    with torch.no_grad():
        rows = benchmark["agreement"]([prompt for prompt in prompts if prompt.size >= 3 * RATE][:20])["rows"]
    port = rows["stored kernels, float64 sums (the port)"]
    assert port["mean"] < 1e-4
    assert port["max"] < 0.05
    assert port["same_argmax"] == port["frames"]


@pytest.mark.system
def test_five_minutes_in_windows(benchmark: dict[str, Any], prompts: list[np.ndarray]) -> None:
    with torch.no_grad():
        rows = benchmark["long_recording"](prompts)["rows"]
    assert sum(row.get("joins", 0) for row in rows.values()) > 15
    assert all(row.get("torn_joins", 0) == 0 for row in rows.values())
    default = HamaConformer(weights="random")
    name = f"windows of {default.window_frames * 0.02:g} s, overlap {default.overlap_frames * 0.02:g} s"
    assert rows[name]["joins"] >= 1
    assert rows[name]["edits_full_near_joins"] == 0
    assert rows[name]["same_argmax"] >= 0.99
