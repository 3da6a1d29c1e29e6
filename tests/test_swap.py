"""One bundle, four searches: each swapped in by one `--set`, no retraining, the head's weights untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import sltcore
from sltcore.bundle import load_bundle, save_bundle
from sltcore.types import NBest

PHONES = {"slt": 1, "kind": "pipeline", "encoder": "hama-conformer", "decoder": "ctc-greedy"}
LETTERS = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {"use": "lstm", "hidden": 16, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}},
    "decoder": {"use": "ctc-greedy", "characters": "abcdefgh"},
}
SEARCHES = [
    "decoder=ctc-greedy",
    "decoder=ctc-beam",
    "decoder={use: ctc-beam, lexicon: english}",
    "decoder=ctc-spotter",
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return save_bundle(sltcore.load(PHONES), tmp_path_factory.mktemp("swap") / "phones")


def babble(seconds: float = 2.0) -> np.ndarray:
    """Vowel-like sounds: a pulse train through two resonances that change every 0.2 s."""
    random = np.random.default_rng(0)
    time = np.arange(int(seconds * 16000)) / 16000
    first, second = (
        np.repeat(random.uniform(*r, int(seconds * 5)), 3200)[: len(time)] for r in ((300, 800), (900, 2300))
    )
    voice = (np.sin(2 * np.pi * 120 * time) > 0.95).astype(np.float32)
    sound = (
        voice * 0.3
        + 0.1 * np.sin(2 * np.pi * np.cumsum(first) / 16000)
        + 0.05 * np.sin(2 * np.pi * np.cumsum(second) / 16000)
    )
    return (sound * 0.5).astype(np.float32)


@pytest.mark.slow
def test_greedy_beam_lexicon_beam_and_spotter_swap_on_one_bundle(bundle: Path):
    heads = []
    for setting in SEARCHES:
        pipeline = load_bundle(bundle, overrides=[setting])
        assert isinstance(pipeline(babble()), NBest)
        heads.append(pipeline.model.state_dict()["decoder.head.weight"])
    assert all(torch.equal(heads[0], head) for head in heads[1:])


def test_a_head_of_its_own_swaps_too(tmp_path: Path):
    folder = save_bundle(sltcore.load(LETTERS), tmp_path / "letters")
    greedy = load_bundle(folder)
    beam = load_bundle(folder, overrides=["decoder=ctc-beam"])
    assert torch.equal(greedy.model.state_dict()["decoder.head.weight"], beam.model.state_dict()["decoder.head.weight"])
    assert beam.parts["decoder"].vocabulary == greedy.parts["decoder"].vocabulary
    assert isinstance(beam(babble()), NBest)
    spotter = load_bundle(folder, overrides=["decoder=ctc-spotter"])
    assert torch.equal(greedy.model.state_dict()["decoder.head.weight"], spotter.parts["decoder"].head.weight)
    assert spotter(babble()).text == greedy(babble()).text
    assert "had" in spotter(babble(), phrases=[{"text": "had", "bonus": 10_000}]).text.split()


def test_a_head_of_its_own_beside_an_offered_one_swaps_too(tmp_path: Path):
    """The bundle's labels say whose head it is, not the encoder's offer."""
    own = {**PHONES, "decoder": {"use": "ctc-greedy", "characters": "ab"}}
    folder = save_bundle(sltcore.load(own), tmp_path / "own")
    greedy, beam = load_bundle(folder), load_bundle(folder, overrides=["decoder=ctc-beam"])
    assert torch.equal(greedy.parts["decoder"].head.weight, beam.parts["decoder"].head.weight)
    assert beam.parts["decoder"].vocabulary == greedy.parts["decoder"].vocabulary


def test_a_reference_to_the_encoders_head_is_the_default(bundle: Path):
    implicit = sltcore.load(PHONES)
    explicit = sltcore.load({**PHONES, "decoder": {"use": "ctc-greedy", "head": {"ref": "encoder.head"}}})
    for pipeline in (implicit, explicit, load_bundle(bundle)):
        assert pipeline.parts["decoder"].head is pipeline.parts["encoder"].offers()["head"]


def test_the_best_path_of_greedy_never_beats_the_beams_text(bundle: Path):
    """The beam's text has at least the probability of greedy's text: ln P(text) summed over all its paths."""
    greedy, beam = (load_bundle(bundle, overrides=[setting]) for setting in SEARCHES[:2])
    heard = babble()
    texts = [greedy(heard), beam(heard)]
    from sltcore.types import Waveform

    with torch.inference_mode():
        encoded = greedy.parts["encoder"](
            Waveform(torch.from_numpy(heard)[None], torch.tensor([len(heard)]), 16000), {}
        )
        scores = [float(greedy.parts["decoder"].score(encoded, [text])[0, 0]) for text in texts]
    assert scores[1] >= scores[0] - 1e-4
