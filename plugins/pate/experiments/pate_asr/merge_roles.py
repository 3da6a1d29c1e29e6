"""Which dialogue files of the game sound as if one voice spoke them: writes `units.json`.

    python merge_roles.py --weights resemblyzer/pretrained.pt

The weights are those of the package resemblyzer 0.1.4 (Apache-2.0; `pip download --no-deps`, unpack). Nothing else of it is
needed, and the experiment reads the table alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from roles import TABLE, lines_by_dialogue
from torch import Tensor, nn

from slt_speech.mel_filters import filter_bank
from slt_speech.mel_settings import MelSettings
from sltcore.audio import read_audio
from sltcore.data.examples import Example

HERO = "hero"
RATE_HZ, WINDOW, HOP, BANDS = 16000, 400, 160, 40
PART, STEP = 160, 123
"""Frames of a part that is embedded, and between the beginnings of two: 1.6 s and 1.23 s."""
LOUDNESS_DB = -30.0
SPOKEN_S = 40.0
"""Of each file, its longest lines up to so many seconds."""
THRESHOLD = 0.94
"""Cosine of the mean voices of two groups from which on they are one unit. Files that the game names alike (tam1, tam2) have
a median of 0.97, others one of 0.78 and 99 of 100 below 0.93."""


class VoiceEncoder(nn.Module):
    """Mel power [b 160 40] to unit vectors [b 256]: three LSTM layers, the last state, a linear layer, rectified.

    **Source**: Wan et al. 2018, arXiv:1710.10467; weights of resemblyzer 0.1.4.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        self.load_state_dict({name: value for name, value in state.items() if not name.startswith("similarity")})

    def forward(self, mel: Tensor) -> Tensor:
        """Embeddings of parts."""
        _, (hidden, _) = self.lstm(mel)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)


def mel_power(samples: NDArray[np.float32], filters: Tensor) -> Tensor:
    """[t 40] power in Slaney bands, of samples that are brought up to the loudness of the training data."""
    level = 20 * np.log10(np.sqrt(np.mean(samples.astype(np.float64) ** 2)) + 1e-9)
    louder = torch.from_numpy(samples) * float(10 ** (max(0.0, LOUDNESS_DB - level) / 20))
    spectrum = torch.stft(
        louder, WINDOW, HOP, window=torch.hann_window(WINDOW), pad_mode="constant", return_complex=True
    )
    return (filters @ spectrum.abs().square()).T


def voice(encoder: VoiceEncoder, examples: Sequence[Example], filters: Tensor) -> tuple[NDArray[np.float64], int]:
    """The mean embedding [256] of a file's longest lines, of length 1, and how many parts it stands on."""
    parts: list[Tensor] = []
    heard = 0.0
    for example in sorted(examples, key=lambda one: (-one.seconds, one.item.id)):
        if heard >= SPOKEN_S:
            break
        mel = mel_power(read_audio(example.item.source, RATE_HZ).samples, filters)
        starts = range(0, max(1, len(mel) - PART + 1), STEP)
        parts += [nn.functional.pad(mel[at : at + PART], (0, 0, 0, PART - len(mel[at : at + PART]))) for at in starts]
        heard += example.seconds
    with torch.inference_mode():
        mean = encoder(torch.stack(parts)).double().mean(0).numpy()
    return mean / np.linalg.norm(mean), len(parts)


def merged(voices: Mapping[str, NDArray[np.float64]], sizes: Mapping[str, int], threshold: float) -> list[list[str]]:
    """Groups of names: the two groups whose mean voices are nearest become one, while their cosine reaches the threshold."""
    groups = [[name] for name in sorted(voices)]
    while len(groups) > 1:
        sums = np.stack([sum(sizes[name] * voices[name] for name in group) for group in groups])
        means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        cosines = means @ means.T - 2 * np.eye(len(groups))
        i, j = np.unravel_index(int(cosines.argmax()), cosines.shape)
        if cosines[i, j] < threshold:
            break
        groups[i] = sorted([*groups[i], *groups[j]])
        del groups[j]
    return groups


def table(weights: Path) -> dict[str, Any]:
    """The units, and the cosines that they were made from."""
    encoder = VoiceEncoder(torch.load(weights, map_location="cpu", weights_only=True)["model_state"]).eval()
    settings = MelSettings(
        n_mels=BANDS,
        n_fft=WINDOW,
        mel_scale="slaney",
        mel_norm="slaney",
        triangularize_in_mel_space=False,
        low_freq_hz=0.0,
    )
    filters = filter_bank(settings)
    spoken = {HERO if dialogue is None else dialogue: found for dialogue, found in lines_by_dialogue().items()}
    found = {name: voice(encoder, examples, filters) for name, examples in spoken.items()}
    voices = {name: mean for name, (mean, _) in found.items()}
    groups = merged(voices, {name: parts for name, (_, parts) in found.items()}, THRESHOLD)
    return {
        "command": "python merge_roles.py --weights resemblyzer/pretrained.pt",
        "embedder": "resemblyzer 0.1.4",
        "threshold": THRESHOLD,
        "seconds_heard": SPOKEN_S,
        "units": [[name for name in group if name != HERO] for group in groups if HERO not in group],
        "sounds_like_the_hero": [name for group in groups if HERO in group for name in group if name != HERO],
    }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    found = table(parser.parse_args().weights)
    TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{TABLE.name}: {len(found['units'])} units")


if __name__ == "__main__":
    main()
