"""How much memory does loading a bundle with packed weights take, beside what the quantizer's report says?

    python benchmarks/packed_memory.py [--check] [--json FILE] [--bits 1 4 8]

A Conformer of 12 blocks of width 512 with a CTC head is packed after training, saved, and loaded in a process of its own,
which has loaded a small bundle of the same kind before, so that code is in memory already. Its resident memory after the
load less that before (VmRSS), beside the bytes that the report counts; the bar: within 5 % and 4 MB. Also the bytes of the
weights' file beside bits / 8 for each weight, tables and 1 %. The resident memory is also read after one second of sound,
when kernels hold their tables. --check takes 4 bits alone. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import sltcore
from slt_sub8bit.lookup_kernels import return_memory
from sltcore.bundle import load_bundle, save_bundle
from sltcore.types import Features

SHARE, ROOM = 1.05, 4 << 20


def make_bundle(folder: Path, bits: int, *, layers: int, width: int) -> dict[str, int]:
    """A packed Conformer, and what it should take."""
    encoder = {
        "use": "conformer",
        "frontend": "log-mel",
        "d_model": width,
        "layers": layers,
        "heads": 8,
        "ffn": 4 * width,
    }
    quantizer = {"use": "post-training", "bits": bits, "levels": "mse", "compute": "int8"}
    decoder = {"use": "ctc-greedy", "characters": "abcdefgh"}
    spec = {"slt": 1, "kind": "pipeline", "encoder": encoder, "decoder": decoder, "transforms": [quantizer]}
    pipeline = sltcore.load(spec)
    (transform,) = pipeline.transforms
    weights = sum(kernel.numel for kernel in transform.kernels.values())
    transform.finish()
    save_bundle(pipeline, folder)
    tensors = transform.state()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    tables = sum(t.numel() * 4 for name, t in tensors.items() if not name.endswith("codes"))
    return {"weights": weights, "packed": size, "allowed": int(1.01 * weights * bits / 8 + tables)}


def resident() -> int:
    """Bytes of this process that are in memory, without what the C library keeps for later."""
    return_memory()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def compute(pipeline: Any, frames: Features) -> None:
    encoder = pipeline.parts["encoder"]
    encoder.frontend = None
    with torch.inference_mode():
        encoder(frames, {})


def loaded(small: Path, large: Path) -> dict[str, int]:
    """In a process of its own: what loading takes."""
    torch.set_num_threads(1)
    frames = Features(torch.randn(1, 100, 80), torch.tensor([100]), 0.01)
    first = load_bundle(small)
    compute(first, frames)
    before = resident()
    pipeline = load_bundle(large)
    after = resident()
    size = pipeline.transforms[0].report(pipeline.model)
    compute(pipeline, frames)
    used = pipeline.transforms[0].report(pipeline.model)
    return {
        "grown": after - before,
        "reported": size.memory_bytes,
        "used": resident() - before,
        "then": used.memory_bytes,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="4 bits alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 4, 8], help="widths")
    parser.add_argument("--load", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(loaded(*options.load)))
        return 0
    figures: dict[str, Any] = {}
    met = True
    for bits in (4,) if options.check else options.bits:
        with tempfile.TemporaryDirectory() as name:
            small, large = Path(name) / "small", Path(name) / "large"
            make_bundle(small, bits, layers=1, width=64)
            facts = make_bundle(large, bits, layers=12, width=512)
            facts["file"] = (large / "weights.safetensors").stat().st_size
            command = [sys.executable, __file__, "--load", str(small), str(large)]
            facts |= json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
        figures[f"{bits} bits"] = facts
        fine = facts["grown"] <= SHARE * facts["reported"] + ROOM and facts["packed"] <= facts["allowed"]
        met = met and fine
        mb = {key: f"{value / 1e6:.2f}" for key, value in facts.items()}
        print(
            f"{bits} bits, {mb['weights']} M weights: quantized tensors {mb['packed']} MB (allowed {mb['allowed']}), file "
            f"{mb['file']}; report {mb['reported']}, resident memory grew by {mb['grown']}; after use {mb['then']} and "
            f"{mb['used']}: {'met' if fine else 'missed'}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
