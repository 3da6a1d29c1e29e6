"""Promises of encoder `phone-head`: the base's output bit for bit, and phones beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slt_ctc_personalization.lexicon.confusions import load_confusions
from slt_ctc_personalization.lexicon.lexicon_trie import map_labels
from slt_ctc_personalization.phones.build_phones import phone_head, phone_set
from slt_ctc_personalization.phones.config_phones import PhoneHeadConfig
from slt_ctc_personalization.phones.phone_head import (
    PHONES_FILE,
    PhoneHead,
    PhoneReader,
    phone_vocabulary_of,
    read_phones,
)
from sltcore.errors import PortError, StreamError, VocabularyError
from sltcore.interfaces import Encoder
from sltcore.pipeline import build_component
from sltcore.plugin import Ports
from sltcore.testing import inputs
from sltcore.testing.toys import ToyEncoder
from sltcore.types import Port, Waveform
from sltcore.vocabulary import Vocabulary

FEATURES = Port("Features", {"f": 20})


def lstm(**options: Any) -> Any:
    torch.manual_seed(1)
    settings = {"frontend": {"use": "log-mel", "n_mels": 20}, "hidden": 12, "layers": 3, **options}
    return build_component("encoder", "lstm", settings).eval()


@pytest.fixture(scope="module")
def hama() -> Any:
    return build_component("encoder", "hama-conformer", {}).eval()


def built(base: Encoder, folder: Path | None = None, **fields: Any) -> PhoneHead:
    config = PhoneHeadConfig.model_construct(
        **{**PhoneHeadConfig.model_construct().__dict__, "encoder": None, **fields}
    )
    return phone_head(config, Ports(slots={"encoder": base}, folder=folder)).eval()


def reader(base: Any, layers: tuple[int, ...] = (-1,), **options: Any) -> PhoneHead:
    phones = phone_set("cmu")
    torch.manual_seed(2)
    found = PhoneReader(base.produces.attributes["d"], len(phones), layers=len(layers))
    return PhoneHead(base, phones, reader=found, layers=layers, **options).eval()


def sound(seed: int = 0) -> Waveform:
    return inputs.sound([9000, 5000, 3100], 16000, seed=seed)


def test_the_bases_output_passes_through_bit_for_bit() -> None:
    x = sound()
    with torch.no_grad():
        plain, wrapped = lstm(return_layers=[1])(x, {}), reader(lstm(return_layers=[1]), (-1, 2))(x, {})
    assert torch.equal(plain.values, wrapped.values)
    assert torch.equal(plain.lengths, wrapped.lengths)
    assert torch.equal(plain.layers[1], wrapped.layers[1])
    assert (plain.frame_shift_s, plain.offset_s) == (wrapped.frame_shift_s, wrapped.offset_s)


def test_phones_are_a_distribution_from_a_linear_layer_over_mixed_layers() -> None:
    head = reader(lstm(), (1, -1))
    assert head.phone_head is not None
    with torch.no_grad():
        head.phone_head.mixture.copy_(torch.tensor([0.3, -1.1]))  # type: ignore[union-attr]
        out = head(sound(), {})
        found = out.extra["phone_log_probs"]
        share = 1 / (1 + np.exp(-1.4))
        mixed = share * out.layers[1][1] + (1 - share) * out.values[1]
        linear = head.phone_head.linear
        expected = (mixed @ linear.weight.T + linear.bias).log_softmax(-1)
    assert found.dtype == torch.float32
    assert found.shape == (*out.values.shape[:2], 41)
    length = int(out.lengths[1])
    torch.testing.assert_close(found[1, :length], expected[:length], atol=1e-5, rtol=0)


def test_a_pretrained_phone_recogniser_needs_no_training(hama: Any) -> None:
    head = built(hama)
    x = sound()
    with torch.no_grad():
        base = hama(x, {})
        out = head(x, {})
    length = int(base.lengths[0])
    own = hama.head(base.values[0, :length]).log_softmax(-1)
    torch.testing.assert_close(out.extra["phone_log_probs"][0, :length], own, atol=1e-5, rtol=0)
    assert torch.equal(out.values, base.values)
    assert head.vocabulary == hama.vocabulary
    assert head.offers()["phone_head"] is hama.head
    assert not [name for name, parameter in head.named_parameters() if parameter.requires_grad]
    assert set(hama.state_dict()) == {name.removeprefix("encoder.") for name in head.state_dict()}


def test_another_language_reads_the_recogniser_as_english_phones(hama: Any) -> None:
    head = built(hama, language="cs")
    confusions = load_confusions(hama.vocabulary.labels)
    assert head.vocabulary.labels == confusions.labels
    with torch.no_grad():
        out = head(sound(), {})
        own = hama.head(out.values).log_softmax(-1)[:1, : int(out.lengths[0])].numpy()
    found = out.extra["phone_log_probs"][0, : int(out.lengths[0])].numpy()
    mapped = map_labels(own, confusions.log_map)[0]
    expected = mapped - np.log(np.exp(mapped.astype(np.float64)).sum(-1, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, atol=1e-5)
    assert "phone_head" not in head.offers()


def test_streamed_phones_equal_offline_ones() -> None:
    head = reader(lstm(), (1, -1))
    x = inputs.alone(sound(), 0)
    with torch.no_grad():
        offline = head(x, {})
        session = head.open({})
        pieces = [session.push(chunk) for chunk in inputs.chunks(x, [1700, 300, 901])] + [session.finish()]
    found = torch.cat([piece.extra["phone_log_probs"] for piece in pieces if piece is not None], 1)
    torch.testing.assert_close(found, offline.extra["phone_log_probs"][:, : found.shape[1]], atol=1e-5, rtol=0)
    assert found.shape[1] == int(offline.lengths[0])
    with pytest.raises(StreamError, match="cannot stream"):
        reader(lstm(bidirectional=True)).open({})


def test_a_frozen_base_is_left_alone_and_only_the_head_learns() -> None:
    head = reader(lstm()).train()
    assert not head.encoder.training
    head(sound(), {}).extra["phone_log_probs"].sum().backward()
    assert {name.partition(".")[0] for name, p in head.named_parameters() if p.grad is not None} == {"phone_head"}
    free = reader(lstm(), frozen=False).train()
    assert free.encoder.training
    assert all(parameter.requires_grad for parameter in free.parameters())


def test_an_adapter_attached_to_a_frozen_base_gets_its_gradient() -> None:
    head = reader(lstm())
    added = nn.Parameter(torch.zeros(12))
    head.encoder.norms[-1].register_forward_hook(lambda module, args, output: output + added)
    head.train()(sound(), {}).extra["phone_log_probs"][..., 3].sum().backward()
    assert added.grad is not None
    assert bool(added.grad.abs().sum() > 0)


def test_a_replaced_head_of_the_base_is_the_one_that_is_read(hama: Any) -> None:
    import copy

    head = built(copy.deepcopy(hama))
    before = head(sound(), {}).extra["phone_log_probs"]
    head.encoder.network.head = nn.Linear(144, 191)
    after = head(sound(), {}).extra["phone_log_probs"]
    assert not torch.equal(before, after)
    assert head.offers()["phone_head"] is head.encoder.network.head


def test_the_phones_stay_with_the_bundle(tmp_path: Path) -> None:
    labels = Vocabulary(["<b>", "a", "t"], kind="phones", blank=0)
    path = tmp_path / "own.json"
    path.write_text(json.dumps(labels.to_dict()), encoding="utf-8")
    head = built(lstm(), phones_file=path)
    assert head.vocabulary == labels
    for name, content in head.save_files().items():
        (tmp_path / name).write_bytes(content)
    path.unlink()
    assert built(lstm(), tmp_path, phones_file=path).vocabulary == labels
    with pytest.raises(VocabularyError, match=f"{PHONES_FILE} is no JSON"):
        read_phones(b"{")


def test_a_base_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="phones: offered, but Lstm offers no head over phones; choose phones: cmu"):
        built(lstm(), phones="offered")
    with pytest.raises(PortError, match="layers names 7, but the depths of Lstm run from 0 to 3"):
        built(lstm(), layers=(7,))
    inside = lstm()
    with pytest.raises(PortError, match=r"layers are \[1\], but a head that the base brings reads its own"):
        PhoneHead(inside, Vocabulary(["<b>", "a"], kind="phones"), shared=nn.Linear(12, 2), layers=(1,))
    with pytest.raises(PortError, match="layers names 1, but ToyEncoder gives out no inner layers"):
        reader(ToyEncoder(FEATURES), (1,))
    with pytest.raises(PortError, match="names a depth twice"):
        reader(lstm(), (-1, 3))
    with pytest.raises(PortError, match="does not stand in its encoder"):
        PhoneHead(lstm(), phone_set("cmu"), shared=nn.Linear(12, 41))
    with pytest.raises(PortError, match="its head scores 5 labels, but the phone vocabulary has 41"):
        PhoneHead(lstm(), phone_set("cmu"), reader=PhoneReader(12, 5))
    letters = tmp_path / "letters.json"
    letters.write_text(json.dumps(Vocabulary(["_", "a"]).to_dict()), encoding="utf-8")
    with pytest.raises(VocabularyError, match="is a vocabulary of characters, expected phones"):
        built(lstm(), phones_file=letters)


def test_the_phones_of_a_wrapped_phone_head_are_found() -> None:
    class Around(ToyEncoder):
        def __init__(self, inner: Encoder) -> None:
            super().__init__(FEATURES)
            self.inner = inner

    inner = reader(ToyEncoder(FEATURES))
    assert phone_vocabulary_of(Around(inner)) is inner.vocabulary
    assert phone_vocabulary_of(ToyEncoder(FEATURES)) is None


@pytest.mark.slow
@pytest.mark.skipif("SLT_DATA" not in os.environ, reason="SLT_DATA names no folder of corpora")
def test_rare_words_of_real_prompts_are_heard_without_training(hama: Any) -> None:
    """Held-out prompts: each rare word is spotted where it is said, and seldom elsewhere."""
    from slt_ctc_personalization.language_model.english import english_lm, frequent_words
    from slt_ctc_personalization.lexicon.lexicon import cmu_dictionary
    from slt_ctc_personalization.phones.g2p import Phonemes
    from slt_ctc_personalization.phrases.spelling import entries
    from slt_ctc_personalization.spotter.spotter import Spotter
    from sltcore.audio import read_audio
    from sltcore.data import rows
    from sltcore.errors import SltError

    try:
        prompts = [row for row in rows("asterisk-en") if row.split == "test"]
    except SltError as error:
        pytest.skip(f"the corpus is not at hand: {error}")
    common = set(frequent_words(english_lm(), cmu_dictionary(), size=3000))
    said = [set(row.text.split()) for row in prompts]
    rare = sorted({word for words in said for word in words if len(word) > 3 and word.isalpha()} - common)[:50]
    head = built(hama)
    phonemes = Phonemes.of("en", head.vocabulary)
    spotter = Spotter(
        head.vocabulary.labels, blank=head.vocabulary.blank, word_boundary=head.vocabulary.boundary, threshold=0.0
    )
    table = spotter.prepare([phonemes.phone_paths(entry) for entry in entries(rare)])
    expected = {(row, place) for row, words in enumerate(said) for place, word in enumerate(rare) if word in words}
    heard = set()
    for place, row in enumerate(prompts):
        samples = torch.from_numpy(np.asarray(read_audio(row.path).samples))[None]
        with torch.inference_mode():
            out = head(Waveform(samples, torch.tensor([samples.shape[1]]), 16000), {})
        heard |= {(place, hit.phrase) for hit in spotter.spot(out.extra["phone_log_probs"][0].numpy(), table)}
    assert len(heard & expected) >= 0.75 * len(expected)
    assert len(heard & expected) >= 0.75 * len(heard)
