"""The embedded weights: the package's recogniser after it went on learning on English prompts and dialogues.

Made, as the report in `reports/english-words` of this plugin tells, by

    slt reproduce speech/english-words --out runs/english-words
    python -m slt_speech.hama.adapted runs/english-words/units/adapted--seed-0--*/bundle

Matrices are float16, as in the package; what the front end holds stays float32.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sltcore.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "english.safetensors"
_PREFIX = "encoder.network."
_FRONT_END = "front_end."


def adapted_state() -> dict[str, Tensor]:
    """The state dict of `HamaConformer`, float32, from the file in this package.

    Raises:
        DataError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        stored = load((files("slt_speech.hama") / NAME).read_bytes())
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"hama-conformer reads weights: english from {NAME} in slt_speech/hama, which cannot be read ({error}): "
            f"pip install --force-reinstall sltcore-speech"
        ) from None
    return {name: tensor.float() for name, tensor in stored.items()}


def embed(bundle: Path, target: Path) -> Path:
    """Write the encoder's weights of `bundle`, whose encoder is a `hama-conformer`, to `target`.

    Raises:
        DataError: the bundle holds another encoder.
    """
    from safetensors.torch import save_file

    import sltcore

    tensors = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in sltcore.load(bundle).model.state_dict().items()
        if name.startswith(_PREFIX)
    }
    if "head.weight" not in tensors:
        raise DataError(f"{bundle} holds no hama-conformer; give the bundle of a spec whose encoder is one")
    halves = {
        name: (tensor if name.startswith(_FRONT_END) else tensor.half()).contiguous()
        for name, tensor in tensors.items()
    }
    save_file(halves, target)
    return target


if __name__ == "__main__":
    print(embed(Path(sys.argv[1]), Path(__file__).with_name(NAME)))
