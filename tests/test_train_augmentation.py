"""Promises of augmentation in training: keyed by utterance, at its place, and only while it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from training_data import SMALL, small_pipeline

import sltcore
from sltcore.errors import PluginError, PortError, SpecError
from sltcore.interfaces import Augmentation
from sltcore.pipeline import Pipeline, build_component
from sltcore.train.augmentation import augmented_input, check_augmentations, features_augmented, front_end
from sltcore.types import Features, Port, Waveform

LENGTHS = [8000, 5200, 6400]
HAMA = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {"use": "hama-conformer", "weights": "random"},
    "decoder": {"use": "ctc-greedy"},
}
CONFORMER = {
    **SMALL,
    "encoder": {
        "use": "conformer",
        "frontend": {"use": "log-mel", "n_mels": 20},
        "d_model": 8,
        "layers": 1,
        "heads": 2,
        "ffn": 8,
        "kernel": 3,
        "dropout": 0.0,
    },
}


class Blend(Augmentation):
    """Adds noise under the generator to every frame of an utterance."""

    consumes = produces = Port("Features")

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, x: Features, context: Mapping[str, Any], generator: torch.Generator) -> Features:
        self.calls.append(tuple(x.values.shape))
        return x._replace(values=x.values + 3 * torch.randn(x.values.shape, generator=generator))


class Shorter(Blend):
    """Drops every utterance's last frames."""

    def __call__(self, x: Features, context: Mapping[str, Any], generator: torch.Generator) -> Features:
        return x._replace(values=x.values[:, :-5], lengths=x.lengths - 5)


def sound(rows: list[int]) -> Waveform:
    samples = torch.zeros(len(rows), max(LENGTHS[row] for row in rows))
    for place, row in enumerate(rows):
        source = torch.Generator().manual_seed(row)
        samples[place, : LENGTHS[row]] = 0.1 * torch.randn(LENGTHS[row], generator=source)
    return Waveform(samples, torch.tensor([LENGTHS[row] for row in rows]), 16000)


@pytest.fixture(params=["lstm", "conformer", "hama"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    made = sltcore.load({"lstm": SMALL, "conformer": CONFORMER, "hama": HAMA}[request.param])
    made.model.train()
    return made


def encoded(pipeline: Pipeline, rows: list[int], augment: list[Augmentation], *, seeds: list[int] | None = None) -> Any:
    with torch.no_grad(), features_augmented(pipeline, augment, seeds or [100 + row for row in rows]):
        return pipeline.parts["encoder"](sound(rows), {})


def hooks(pipeline: Pipeline) -> int:
    return sum(len(module._forward_hooks) for module in pipeline.model.modules())


def test_features_are_changed_by_utterance_and_not_by_batch(pipeline: Pipeline) -> None:
    blend = Blend()
    together = encoded(pipeline, [0, 1, 2], [blend])
    assert [shape[0] for shape in blend.calls] == [1, 1, 1]
    for row in range(3):
        alone = encoded(pipeline, [row], [Blend()])
        length = int(alone.lengths[0])
        assert int(together.lengths[row]) == length
        torch.testing.assert_close(together.values[row, :length], alone.values[0, :length], atol=2e-4, rtol=1e-3)
    plain = encoded(pipeline, [0, 1, 2], [])
    assert not torch.allclose(plain.values, together.values, atol=1e-2)
    other = encoded(pipeline, [0, 1, 2], [Blend()], seeds=[1, 2, 3])
    assert not torch.allclose(other.values, together.values, atol=1e-2)


def test_two_calls_change_alike(pipeline: Pipeline) -> None:
    """As gradient checkpointing needs, which computes a block twice."""
    encoder = pipeline.parts["encoder"]
    with torch.no_grad(), features_augmented(pipeline, [Blend()], [1]):
        assert torch.equal(encoder(sound([0]), {}).values, encoder(sound([0]), {}).values)


def test_hooks_go_and_evaluation_is_untouched(pipeline: Pipeline) -> None:
    plain = encoded(pipeline, [0, 1], [])
    before = hooks(pipeline)

    def fail() -> None:
        with features_augmented(pipeline, [Blend()], [1, 2]):
            assert hooks(pipeline) == before + 1
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert hooks(pipeline) == before
    pipeline.model.eval()
    assert torch.equal(encoded(pipeline, [0, 1], [Blend()]).values, plain.values)
    assert hooks(pipeline) == before


def test_a_number_of_seeds_that_is_wrong_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(PluginError, match="called with 2 utterances for 1 seeds"):
        encoded(pipeline, [0, 1], [Blend()], seeds=[1])


def test_a_front_end_that_is_never_called_is_told() -> None:
    pipeline = small_pipeline()
    pipeline.model.train()
    never = r"augment Blend acts on the features .* did not call it as a module"
    with pytest.raises(PluginError, match=never), features_augmented(pipeline, [Blend()], [1]):
        pass


def test_gradients_pass_through(pipeline: Pipeline) -> None:
    part = build_component("augmentation", "spec-augment", {})
    with features_augmented(pipeline, [part], [1, 2]):
        out = pipeline.parts["encoder"](sound([0, 1]), {})
    out.values.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in pipeline.parts["encoder"].parameters())


def test_frames_may_go_where_the_front_end_says_lengths() -> None:
    for spec in (SMALL, CONFORMER):
        pipeline = sltcore.load(spec)
        pipeline.model.train()
        plain, shorter = encoded(pipeline, [0, 1], []), encoded(pipeline, [0, 1], [Shorter()])
        assert (plain.lengths - shorter.lengths).tolist() in ([1, 1], [1, 2], [2, 1], [2, 2])
    pipeline = sltcore.load(HAMA)
    pipeline.model.train()
    with pytest.raises(PluginError, match="FrontEnd gives a plain tensor, whose number of frames cannot change"):
        encoded(pipeline, [0, 1], [Shorter()])


def test_padding_stays_silent_behind_the_front_end() -> None:
    """What follows an utterance is zero after augmentation as before, or a longer neighbour would change it."""
    pipeline = sltcore.load(HAMA)
    pipeline.model.train()
    module = front_end(pipeline)
    assert module is not None
    seen: list[torch.Tensor] = []
    with features_augmented(pipeline, [Blend()], [1, 2]), torch.no_grad():
        handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output))
        pipeline.parts["encoder"](sound([0, 1]), {})
        handle.remove()
    assert seen[0][1, 5200 // 160 + 1 :].abs().max() == 0


@pytest.mark.slow  # transformers is imported
def test_an_encoder_without_a_front_end_is_refused() -> None:
    pipeline = sltcore.load(
        {
            **SMALL,
            "encoder": {
                "use": "hf-speech",
                "architecture": {
                    "model_type": "wav2vec2",
                    "hidden_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 16,
                    "conv_dim": [16, 16],
                    "conv_kernel": [10, 8],
                    "conv_stride": [8, 8],
                    "num_feat_extract_layers": 2,
                    "num_conv_pos_embeddings": 8,
                    "num_conv_pos_embedding_groups": 2,
                },
            },
        }
    )
    with pytest.raises(
        SpecError, match="augment Blend acts on Features, but the pipeline reads .* offers no front end"
    ):
        check_augmentations(pipeline, [Blend()])


def test_features_of_another_size_are_refused() -> None:
    class Wide(Blend):
        consumes = produces = Port("Features", {"f": 80})

    with pytest.raises(PortError, match="front end produces Features with f=20, but augment Wide consumes f=80"):
        check_augmentations(small_pipeline(), [Wide()])


def test_augmentations_of_the_input_share_one_generator_in_order() -> None:
    class Add(Blend):
        consumes = produces = Port("Waveform")

        def __call__(self, x: Waveform, context: Mapping[str, Any], generator: torch.Generator) -> Waveform:
            return x._replace(samples=x.samples + torch.rand((), generator=generator))

    first, second = Add(), Add()
    once = augmented_input(sound([0]), [first], {}, 9).samples - sound([0]).samples
    twice = augmented_input(sound([0]), [first, second], {}, 9).samples - sound([0]).samples
    assert not torch.allclose(twice, 2 * once)
    assert torch.equal(twice, augmented_input(sound([0]), [second, first], {}, 9).samples - sound([0]).samples)


def test_another_type_is_refused() -> None:
    class Wrong(Blend):
        consumes = produces = Port("Waveform")

        def __call__(self, x: Any, context: Mapping[str, Any], generator: torch.Generator) -> Any:
            return x.samples

    with pytest.raises(PluginError, match="augment Wrong made a Tensor of a Waveform, expected the same type"):
        augmented_input(sound([0]), [Wrong()], {}, 0)
