"""Speech encoders of transformers: the model's own frames, whatever the batch; loaded without the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_speech import build_encoders
from slt_speech.config_encoders import HfSpeechConfig
from slt_speech.hf_files import FILE, Description, Source, describe, load, read_vocabulary, rebuild
from slt_speech.hf_models import ALONE_TYPES, MASKED_TYPES, MaskedGroupNorm
from slt_speech.hf_speech import HfSpeech
from sltcore.errors import DataError, PortError, ShapeError, SpecError, StreamError
from sltcore.plugin import Ports
from sltcore.types import Waveform

TOLERANCE = 1e-4
CONVOLUTIONS = {
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [8, 8, 5],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
LAYERS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 12,
}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "max_source_positions": 25,
    "num_mel_bins": 20,
    "vocab_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
LABELS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6, "C": 7, "'": 8, "D": 9, "E": 10, "F": 11}

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # within transformers' WavLM


def architecture(kind: str, **changes: Any) -> dict[str, Any]:
    if kind == "whisper":
        return {"model_type": kind, **WHISPER, **changes}
    if kind == "wav2vec2-bert":
        return {"model_type": kind, **LAYERS, "feature_projection_input_dim": 40, **changes}
    special = {"squeeze_factor": 2} if kind == "sew" else {}
    return {"model_type": kind, **LAYERS, **CONVOLUTIONS, **special, **changes}


def fresh(kind: str, *, return_layers: Any = (), **changes: Any) -> HfSpeech:
    torch.manual_seed(0)
    model = rebuild(describe(architecture(kind, **changes)), return_layers=return_layers).eval()
    with torch.no_grad():  # nothing stays at a special value, such as a statistic of zero
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not name.endswith("original0"):
                value += 0.05 * torch.rand(value.shape)
    return model


def sound(lengths: list[int]) -> Waveform:
    samples = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0)) + 0.02
    return Waveform(samples, torch.tensor(lengths), 16000)


def saved(folder: Path, model: nn.Module, *, vocabulary: dict[str, Any] | None = None, **processor: Any) -> Path:
    """A checkpoint as save_pretrained writes it, with its processor and labels."""
    model.save_pretrained(folder)  # type: ignore[operator]
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if vocabulary:
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


def ctc(folder: Path, **processor: Any) -> tuple[Any, Path]:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**LAYERS, **CONVOLUTIONS, pad_token_id=0)).eval()
    return model, saved(
        folder, model, vocabulary=LABELS, **(processor or {"do_normalize": True, "sampling_rate": 16000})
    )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in (*MASKED_TYPES, *ALONE_TYPES, "whisper", "wav2vec2-bert")),
        ("wav2vec2", LAYER_NORM),
        ("hubert", LAYER_NORM),
        ("wav2vec2", {"add_adapter": True}),
        ("hubert", {"conv_pos_batch_norm": True}),
    ],
)
def test_padding_never_leaks(kind: str, changes: dict[str, Any]) -> None:
    model, lengths = fresh(kind, **changes), [9000, 5111, 5111, 420, 30, 0]
    x = sound(lengths)
    with torch.no_grad():
        together = model(x, {})
        loud = model(Waveform(torch.nn.functional.pad(x.samples, (0, 4000), value=5.0), x.lengths, 16000), {})
        assert together.lengths.tolist() == model.output_lengths(x.lengths).tolist()
        assert torch.allclose(loud.values, together.values, atol=TOLERANCE)
        for row, length in enumerate(lengths):
            alone = model(Waveform(x.samples[row : row + 1, :length], x.lengths[row : row + 1], 16000), {})
            count = int(together.lengths[row])
            assert int(alone.lengths[0]) == count
            assert torch.allclose(alone.values[0, :count], together.values[row, :count], atol=TOLERANCE)
            assert together.values[row, count:].abs().sum() == 0


@pytest.mark.parametrize("kind", [*MASKED_TYPES, *ALONE_TYPES, "whisper", "wav2vec2-bert"])
def test_gradient_reaches_every_parameter(kind: str) -> None:
    model = fresh(kind).train()
    out = model(sound([6000, 4111, 10]), {}).values
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("changes", [{}, LAYER_NORM], ids=["group norm", "layer norm"])
@pytest.mark.parametrize("do_normalize", [True, False])
def test_frames_equal_the_model_called_by_hand(tmp_path: Path, changes: dict[str, Any], do_normalize: bool) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    theirs = Wav2Vec2Model(Wav2Vec2Config(**LAYERS, **CONVOLUTIONS, **changes)).eval()
    ours = load(Source(str(saved(tmp_path, theirs, do_normalize=do_normalize, sampling_rate=16000)))).eval()
    extract = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    for length in (9000, 4321):
        x = sound([length])
        values = extract(x.samples[0].numpy(), sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            expected = theirs(values).last_hidden_state
            found = ours(x, {})
        assert found.values.shape == expected.shape
        assert torch.allclose(found.values, expected, atol=TOLERANCE)


def test_whisper_equals_the_encoder_called_by_hand(tmp_path: Path) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    torch.manual_seed(0)
    theirs = WhisperForConditionalGeneration(WhisperConfig(**WHISPER)).eval()
    ours = load(Source(str(saved(tmp_path, theirs)))).eval()
    extract = WhisperFeatureExtractor(feature_size=20, chunk_length=1)  # 25 positions of 20 ms are half a second
    x = sound([20000])  # two whole windows and a half
    windows = [x.samples[0, start : start + 8000].numpy() for start in (0, 8000, 16000)]
    mel = extract(
        windows, sampling_rate=16000, padding="max_length", max_length=8000, return_tensors="pt"
    ).input_features
    with torch.no_grad():
        expected = theirs.get_encoder()(mel).last_hidden_state.flatten(0, 1)[: -(-20000 // 320)]
        found = ours(x, {})
    assert found.lengths.tolist() == [63]
    assert torch.allclose(found.values[0], expected, atol=TOLERANCE)


def test_wav2vec2_bert_equals_the_model_called_by_hand(tmp_path: Path) -> None:
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    torch.manual_seed(0)
    theirs = Wav2Vec2BertModel(Wav2Vec2BertConfig(**LAYERS, feature_projection_input_dim=40)).eval()
    ours = load(Source(str(saved(tmp_path, theirs)))).eval()
    x = sound([12000])
    inputs = SeamlessM4TFeatureExtractor(feature_size=20, num_mel_bins=20)(
        x.samples[0].numpy(), sampling_rate=16000, return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state
        found = ours(x, {})
    assert found.values.shape[1] == int(inputs.attention_mask.sum())
    assert torch.allclose(found.values, expected[:, : found.values.shape[1]], atol=1e-3)  # their fbank is float64


def test_ctc_model_offers_its_head_and_labels(tmp_path: Path) -> None:
    theirs, folder = ctc(tmp_path)
    ours = load(Source(str(folder))).eval()
    x = sound([7000])
    normal = (x.samples - x.samples.mean()) / (x.samples.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        assert torch.allclose(ours.offers()["head"](ours(x, {}).values), theirs(normal).logits, atol=TOLERANCE)
    labels = ours.offers()["vocabulary"]
    assert (len(labels), labels.kind, labels.blank, labels.boundary) == (12, "characters", 0, 4)
    assert labels.decode(labels.encode("CAB BED")) == "CAB BED"
    assert labels.special == {1, 2, 3}
    assert fresh("wav2vec2").offers() == {}


def test_labels_of_phones_subwords_and_gaps() -> None:
    phones = read_vocabulary(
        {"<pad>": 0, "aɪ": 1, "t": 2}, {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}, count=4, blank=0
    )
    assert (phones.kind, phones.labels[3], phones.special) == ("phones", "<unused 3>", {3})
    pieces = read_vocabulary({"[PAD]": 2, "▁he": 0, "llo": 1}, {"pad_token": {"content": "[PAD]"}}, count=3, blank=None)
    assert (pieces.kind, pieces.blank, pieces.decode([0, 1])) == ("subwords", 2, "hello")
    with pytest.raises(DataError, match=r"vocab.json gives 'x' the id 7, but the head has 3 outputs"):
        read_vocabulary({"x": 7}, {}, count=3, blank=0)


def test_labels_by_language_need_the_language(tmp_path: Path) -> None:
    _, folder = ctc(tmp_path)
    (folder / "vocab.json").write_text(json.dumps({"eng": LABELS, "deu": LABELS}))
    with pytest.raises(DataError, match=r"has labels for deu, eng…, and tokenizer_config.json names target_lang None"):
        load(Source(str(folder)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"target_lang": "eng"}))
    assert load(Source(str(folder))).offers()["vocabulary"].labels[5] == "A"


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm", "whisper"])
def test_bundle_files_rebuild_the_model_without_the_checkpoint(tmp_path: Path, kind: str) -> None:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    fields = architecture(kind)
    theirs = AutoModel.from_config(AutoConfig.for_model(**fields))
    folder = saved(tmp_path / "model", theirs, do_normalize=False, sampling_rate=16000)
    config = HfSpeechConfig(model=str(folder), return_layers=(1,))
    first = build_encoders.hf_speech(config, Ports()).eval()
    bundle = tmp_path / "files"
    bundle.mkdir()
    for name, content in first.save_files().items():
        (bundle / name).write_bytes(content)
    for path in folder.iterdir():
        path.unlink()
    second = build_encoders.hf_speech(config, Ports(folder=bundle)).eval()
    second.load_state_dict(first.state_dict())
    x = sound([6000, 3000])
    with torch.no_grad():
        one, other = first(x, {}), second(x, {})
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.layers[1], other.layers[1])
    assert second.save_files() == first.save_files()


def test_bundle_keeps_the_labels(tmp_path: Path) -> None:
    _, folder = ctc(tmp_path)
    first = load(Source(str(folder)))
    again = rebuild(Description.from_bytes(first.save_files()[FILE]))
    assert again.vocabulary == first.vocabulary
    assert again.head is not None
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in first.named_parameters()]


def test_masked_group_norm_equals_torch_without_padding() -> None:
    torch.manual_seed(0)
    theirs = nn.GroupNorm(4, 4)
    with torch.no_grad():
        theirs.weight.normal_()
        theirs.bias.normal_()
    ours, x = MaskedGroupNorm(theirs), torch.randn(2, 4, 9)
    ours.lengths = torch.tensor([9, 6])
    found: Tensor = ours(x)
    assert torch.allclose(found[0], theirs(x[:1])[0], atol=1e-5)
    assert torch.allclose(found[1, :, :6], theirs(x[1:, :, :6])[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec2", "data2vec-audio", "whisper", "wav2vec2-bert"])
def test_layers_are_returned_on_request(kind: str) -> None:
    out = fresh(kind, return_layers=[0, 1])(sound([8000, 3000]), {})
    assert list(out.layers) == [0, 1]
    for layer in out.layers.values():
        assert layer.shape == out.values.shape
        assert layer[1, int(out.lengths[1]) :].abs().sum() == 0
        assert not torch.equal(layer, out.values)


@pytest.mark.parametrize("kind", ["wav2vec2", "data2vec-audio", "whisper", "wav2vec2-bert"])
def test_a_wrapper_may_ask_for_layers_later(kind: str) -> None:
    model = fresh(kind)
    assert model.depths == 2
    model.keep_layers([1, 2])
    out = model(sound([8000, 3000]), {})
    assert list(out.layers) == [1, 2]
    assert torch.allclose(out.layers[2], out.values, atol=1e-6)  # the last depth is the output
    with pytest.raises(PortError, match="hf-speech: layer 3 is asked for; depths run from 0 to 2"):
        model.keep_layers([3])


def test_a_model_whose_layers_have_another_rate_gives_none() -> None:
    model = fresh("sew")
    assert model.depths is None
    model.keep_layers([])
    with pytest.raises(PortError, match="another frame rate"):
        model.keep_layers([1])


def test_lengths_are_those_of_the_model_for_every_length() -> None:
    model = fresh("wav2vec2")
    for length in (0, 1, 121, 122, 123, 377, 378, 400, 699, 1017, 1018):
        out = model(sound([max(length, 1)])._replace(lengths=torch.tensor([length])), {})
        n = length
        for kernel, stride in ((10, 8), (8, 8), (4, 5)):
            n = (n - kernel) // stride + 1 if n >= kernel else 0
        assert out.lengths.tolist() == [n] == model.output_lengths(torch.tensor([length])).tolist()
        assert out.values.shape[1] == n


def test_training_draws_nothing_but_dropout() -> None:
    """SpecAugment and layer drop of the checkpoint are off, so without dropout training equals evaluation."""
    none = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
    model = fresh("wav2vec2", layerdrop=0.9, mask_time_prob=0.9, mask_time_length=2, **none)
    x = sound([9000])
    assert torch.allclose(model(x, {}).values, model.train()(x, {}).values, atol=1e-5)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["model.base.masked_spec_embed"]


def test_missing_model_is_one_clear_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError) as caught:
        load(Source("someone/no-such-model-here"))
    assert str(caught.value) == (
        "hf-speech: model 'someone/no-such-model-here' is not on this machine; fetch it once with "
        "`hf download someone/no-such-model-here`, or set download: true, or give a folder"
    )
    with pytest.raises(DataError, match=r"there is no folder './nowhere'; give the folder that save_pretrained wrote"):
        load(Source("./nowhere"))
    with pytest.raises(DataError, match=r"folder '.*' has no config\.json"):
        load(Source(str(tmp_path)))


def test_broken_checkpoints_are_refused(tmp_path: Path) -> None:
    _, folder = ctc(tmp_path / "ctc")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="holds no complete model"):
        load(Source(str(folder)))
    other = fresh("wav2vec2", num_hidden_layers=1)
    folder = saved(tmp_path / "half", other.model.base)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(DataError, match=r"lack \d+ of the model's tensors, such as encoder.layers.1"):
        load(Source(str(folder)))
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(DataError, match=r"preprocessor_config.json of .* is not JSON"):
        load(Source(str(folder)))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(SpecError, match="has model type 'bert', which is not supported; supported: wav2vec2, hubert"):
        load(Source(str(folder)))
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.C"}}))
    with pytest.raises(DataError, match="code that a checkpoint brings along is never run"):
        load(Source(str(folder)))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"give either model .* or architecture"):
        HfSpeechConfig()
    with pytest.raises(ValueError, match="revision and download are about a model on the hub"):
        HfSpeechConfig(architecture=architecture("wav2vec2"), download=True)
    with pytest.raises(SpecError, match="architecture has model_type 'bert'; supported: wav2vec2"):
        rebuild(describe({"model_type": "bert"}))
    with pytest.raises(SpecError, match="return_layers names 3; depths run from 0 to 2"):
        fresh("wav2vec2", return_layers=[3])
    with pytest.raises(SpecError, match="inner layers of this model have another frame rate"):
        fresh("sew", return_layers=[1])
    with pytest.raises(SpecError, match="refused by transformers"):
        rebuild(describe(architecture("wav2vec2", num_feat_extract_layers=2)))
    with pytest.raises(SpecError, match="refused by transformers"):
        rebuild(describe(architecture("wav2vec2", num_attention_heads=5)))
    with pytest.raises(SpecError, match=r"field 'hiden_size', which models of type .* Did you mean 'hidden_size'\?"):
        describe(architecture("wav2vec2", hiden_size=5))
    with pytest.raises(ShapeError, match="hf-speech consumes 16000 Hz, but the waveform has 8000 Hz"):
        fresh("wav2vec2")(Waveform(torch.zeros(1, 4000), torch.tensor([4000]), 8000), {})
    with pytest.raises(StreamError, match="HfSpeech cannot stream"):
        fresh("wav2vec2").open({})


def test_model_folder_is_found_beside_the_spec(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    near = HfSpeechConfig.model_validate({"model": "mine"}, context={"folder": tmp_path})
    assert near.model == str(tmp_path / "mine")
    hub = HfSpeechConfig.model_validate({"model": "someone/model"}, context={"folder": tmp_path})
    assert hub.model == "someone/model"
