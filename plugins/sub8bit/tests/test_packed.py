"""Finished models: every kind of module computes as its decoded weights do, and holds none of them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

import sltcore
from slt_sub8bit.integer_linear import int8_linear
from slt_sub8bit.kernels import find_kernels
from slt_sub8bit.packed import Compute, pack_model, packed_state, packed_weights, restore_packed
from slt_sub8bit.packing import on_int8_grid, packed_bytes
from slt_sub8bit.scheme import decoded
from sltcore.bundle import load_bundle, save_bundle
from sltcore.errors import BundleError, PluginError
from sltcore.table_weights import origin_of, table_weight
from sltcore.types import Features, TableWeight


class Tied(nn.Module):
    """An embedding whose weight is the output layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.embedding(x))
        return y


class First(nn.Module):
    """A module with several outputs, of which one counts."""

    def __init__(self, module: nn.Module, repeats: int = 1) -> None:
        super().__init__()
        self.module, self.repeats = module, repeats

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(*[x] * self.repeats)[0]
        return y


MODELS = {
    "linear": (lambda: nn.Linear(8, 5), (3, 8)),
    "convolutions": (lambda: nn.Sequential(nn.Conv1d(8, 6, 3), nn.Conv1d(6, 6, 3, groups=6)), (2, 8, 9)),
    "convolution 2d": (lambda: nn.Conv2d(1, 4, 3), (2, 1, 9, 8)),
    "lstm": (lambda: First(nn.LSTM(8, 6, num_layers=2, bidirectional=True)), (4, 2, 8)),
    "projected lstm": (lambda: First(nn.LSTM(8, 6, proj_size=3)), (4, 2, 8)),
    "gru": (lambda: First(nn.GRU(8, 6)), (4, 2, 8)),
    "cell": (lambda: First(nn.LSTMCell(8, 6)), (2, 8)),
    "attention": (lambda: First(nn.MultiheadAttention(8, 2), 3), (4, 2, 8)),
    "cross attention": (lambda: First(nn.MultiheadAttention(8, 2, kdim=8, vdim=8), 3), (4, 2, 8)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 4, 8)),
}


def tables(model: nn.Module, bits: int = 4) -> dict[str, TableWeight]:
    found = {}
    for kernel in find_kernels(model).kernels:
        weight = kernel.parameter.detach()
        table = torch.linspace(-1, 1, 2**bits) * float(weight.abs().max())
        found[kernel.name] = TableWeight(
            torch.bucketize(weight, (table[1:] + table[:-1]) / 2).to(torch.uint8), table, torch.ones(())
        )
    return found


def twins(make: object, compute: Compute, bits: int = 4) -> tuple[nn.Module, nn.Module]:
    """A model packed, and one whose float weights are the decoded ones."""
    torch.manual_seed(0)
    model = make().eval()  # type: ignore[operator]
    plain = copy.deepcopy(model)
    given = tables(model, bits)
    for kernel in find_kernels(plain).kernels:
        with torch.no_grad():
            kernel.parameter.copy_(decoded(given[kernel.name]))
    pack_model(model, find_kernels(model).kernels, given, compute)
    return model, plain


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_every_module_computes_with_its_decoded_weights(name: str, bits: int) -> None:
    make, shape = MODELS[name]
    packed, plain = twins(make, "float", bits)
    x = torch.randn(*shape)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_no_float_weight_is_held_and_the_bytes_are_counted(name: str) -> None:
    packed, plain = twins(MODELS[name][0], "float")
    packed(torch.randn(*MODELS[name][1]))
    quantized = {k.name: k.numel for k in find_kernels(plain).kernels}
    assert not {n for n, _ in packed.named_parameters()} & set(quantized)
    assert not set(packed.state_dict()) & set(quantized)
    held = sum(b.numel() * b.element_size() for b in packed.buffers())
    assert held == sum(packed_bytes(n, 4) + 4 * 16 + 4 for n in quantized.values())
    assert held == sum(w.storage_bytes for w in packed_weights(packed).values())


@pytest.mark.parametrize("name", MODELS)
def test_copies_and_restored_models_give_the_same_bits(name: str) -> None:
    make, shape = MODELS[name]
    for compute in ("float", "int8"):
        packed, plain = twins(make, compute)
        x = torch.randn(*shape)
        wanted = packed(x)
        other = copy.deepcopy(plain)
        restore_packed(other, find_kernels(other).kernels, packed_state(packed), compute)
        assert torch.equal(other(x), wanted)
        assert torch.equal(copy.deepcopy(packed)(x), wanted)
        assert torch.equal(packed.to("cpu")(x), wanted)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("compute", ["float", "int8"])
def test_a_pickled_model_gives_the_same_bits_from_memory_of_its_own(name: str, compute: Compute) -> None:
    packed, _ = twins(MODELS[name][0], compute)
    x = torch.randn(*MODELS[name][1])
    with torch.no_grad():
        wanted = [packed(x) for _ in range(2)][1]
        again = pickle.loads(pickle.dumps(packed))
        for weight in packed_weights(packed).values():
            weight.codes.zero_()  # nobody else may compute from them
        assert all(torch.equal(again(x), wanted) for _ in range(2))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_from_codes_of_its_own(copied: Callable[[nn.Module], nn.Module]) -> None:
    packed, _ = twins(lambda: nn.Linear(70, 9), "int8")
    x = torch.randn(1, 70)
    with torch.no_grad():
        wanted = [packed(x) for _ in range(2)][1]
        other = copied(packed)
        packed_weights(packed)["weight"].codes.zero_()
        assert not torch.equal(packed(x), wanted)
        assert all(torch.equal(other(x), wanted) for _ in range(2))


def test_codes_that_move_are_found_again() -> None:
    model, _ = twins(Tied, "int8")
    x = torch.randn(1, 8)
    with torch.no_grad():
        wanted = [model.out(x) for _ in range(2)][1]
        (weight,) = packed_weights(model).values()
        before = weight.codes.data_ptr()
        model.embedding.share_memory()  # moves the codes of both modules
        assert weight.codes.data_ptr() != before
        assert torch.equal(model.out(x), wanted)
        weight.codes.zero_()
        assert not torch.equal(model.out(x), wanted)


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_a_shape_that_came_before_is_computed_as_at_first(steps: int) -> None:
    packed, _ = twins(lambda: nn.Linear(70, 9), "int8", 3)
    weight = packed_weights(packed)["weight"]
    integers = torch.take(weight.table, weight.table_weight().indices.long()).to(torch.int8)
    x, seen = torch.randn(steps, 70), []

    def expected(x: Tensor) -> Tensor:
        return int8_linear(x, integers, weight.scale, packed.bias.detach())

    with torch.no_grad():
        for given in (x, x, x[None], x[None], x.repeat(1, 2)[:, :70], x.double().float()):
            assert torch.equal(packed(given), expected(given))
        assert packed(x.double()).dtype == torch.float64
        packed.bias.add_(1)
        assert torch.equal(packed(x), expected(x))
        packed.bias.data = torch.randn(9)
        assert torch.equal(packed(x), expected(x))
        packed.bias = nn.Parameter(torch.randn(9))
        assert torch.equal(packed(x), expected(x))
        handle = packed.register_forward_hook(lambda module, inputs, output: seen.append(output))
        packed(x)
        assert len(seen) == 1
        handle.remove()
    assert packed(x).grad_fn is not None
    with torch.inference_mode():
        assert packed(x).is_inference()
    packed.bias = None
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(packed(x), int8_linear(x, integers, weight.scale))
    with pytest.raises(PluginError, match=r"expected \[... 70\]"):
        packed(x[:, :60])


def test_a_bias_that_is_computed_is_computed_in_each_call() -> None:
    class Grown(nn.Module):
        factor = 1.0

        def forward(self, bias: Tensor) -> Tensor:
            return bias * self.factor

    packed, _ = twins(lambda: nn.Linear(70, 9), "int8", 3)
    x = torch.randn(2, 70)
    with torch.no_grad():
        without = packed(x) - packed.bias
        packed(x)
        grown = Grown()
        parametrize.register_parametrization(packed, "bias", grown)
        for factor in (1.0, 3.0, -2.0):
            grown.factor = factor
            torch.testing.assert_close(packed(x), without + packed.bias)


def test_a_bias_may_be_given_other_memory() -> None:
    packed, _ = twins(lambda: nn.Linear(70, 9), "int8", 3)
    x = torch.randn(1, 70)
    with torch.no_grad():
        wanted = [packed(x) for _ in range(2)][1]
        packed.bias.untyped_storage().resize_(1 << 20)  # moves it
        assert torch.equal(packed(x), wanted)
        packed.bias.data = packed.bias.data.double()
        torch.testing.assert_close(packed(x), wanted)


def test_codes_that_are_sent_to_another_process_are_found_again() -> None:
    packed, _ = twins(lambda: nn.Linear(70, 9), "int8", 3)
    x = torch.randn(1, 70)
    with torch.no_grad():
        wanted = [packed(x) for _ in range(2)][1]
        ForkingPickler.dumps(packed)  # as a queue does: moves tensors into shared memory
        assert all(torch.equal(packed(x), wanted) for _ in range(2))
        packed_weights(packed)["weight"].codes.zero_()
        assert not torch.equal(packed(x), wanted)


@pytest.mark.parametrize("compute", ["int8", "float"])
@pytest.mark.parametrize("grad", [True, False])
def test_functional_transforms_see_the_decoded_weight(compute: Compute, grad: bool) -> None:
    packed, _ = twins(lambda: nn.Linear(8, 5), compute)
    x = torch.randn(4, 3, 8)
    with torch.set_grad_enabled(grad):
        plain = F.linear(x, packed.weight, packed.bias)
        for known in (x[0], x[0, 0]):  # also where a shape came before
            with torch.no_grad():
                packed(known)
        torch.testing.assert_close(torch.func.vmap(packed)(x), plain)
        torch.testing.assert_close(torch.func.jacrev(packed)(x[0, 0]), packed.weight)
        tangent = torch.func.jvp(packed, (x[0],), (x[1],))[1]
        torch.testing.assert_close(tangent, x[1] @ packed.weight.t())
        torch.testing.assert_close(torch.func.functionalize(packed)(x[0]), plain[0])


def test_functional_transforms_see_the_decoded_rows() -> None:
    embedding, plain_embedding = twins(lambda: nn.Embedding(11, 8), "int8")
    rows = torch.tensor([[1, 4], [10, 0]])
    torch.testing.assert_close(torch.func.vmap(embedding)(rows), plain_embedding(rows), rtol=0.1, atol=0.02)
    torch.testing.assert_close(torch.func.vmap(embedding)(rows), embedding(rows))


@pytest.mark.parametrize("compute", ["int8", "float"])
@pytest.mark.parametrize("steps", [1, 3])
def test_forward_derivatives_are_those_of_the_decoded_weight(compute: Compute, steps: int) -> None:
    packed, _ = twins(lambda: nn.Linear(64, 6), compute)
    x, direction = torch.randn(steps, 64), torch.randn(steps, 64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            packed(x)
            packed(x)
            with forward_ad.dual_level():
                found = forward_ad.unpack_dual(packed(forward_ad.make_dual(x, direction))).tangent
            assert found is not None
            torch.testing.assert_close(found, direction @ packed.weight.t())


@pytest.mark.parametrize("name", ["linear", "lstm", "convolutions"])
def test_a_model_of_fake_tensors_finds_the_shapes(name: str) -> None:
    make, shape = MODELS[name]
    packed, plain = twins(make, "int8")
    x = torch.randn(*shape)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = packed(mode.from_tensor(x))
    assert isinstance(found, FakeTensor)
    assert found.shape == plain(x).shape


@pytest.mark.parametrize("compute", ["int8", "float"])
def test_gradients_pass_in_the_type_of_the_activations(compute: Compute) -> None:
    packed, _ = twins(lambda: nn.Linear(8, 5), compute)
    x = torch.randn(3, 8, dtype=torch.bfloat16, requires_grad=True)
    y = packed(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.float(), packed.weight.sum(0).expand(3, 8), rtol=2e-2, atol=2e-2)


def test_integer_layers_follow_the_integer_formula() -> None:
    packed, _ = twins(lambda: nn.Linear(70, 9), "int8", 3)
    torch.manual_seed(0)
    base = nn.Linear(70, 9)
    given = on_int8_grid(tables(base, 3)["weight"])
    integers = torch.take(given.table, given.indices.long()).to(torch.int8)
    x = torch.randn(2, 5, 70)
    assert torch.equal(packed(x), int8_linear(x, integers, given.scale, base.bias.detach()))
    assert torch.equal(packed.weight, decoded(given))


def test_gradients_pass_an_integer_layer_as_they_pass_the_float_layer() -> None:
    packed, _ = twins(lambda: nn.Linear(8, 5), "int8")
    x = torch.randn(3, 8, requires_grad=True)
    packed(x).square().sum().backward()
    with torch.no_grad():
        expected = 2 * packed(x) @ packed.weight
    torch.testing.assert_close(x.grad, expected)


def test_tied_weights_are_packed_once() -> None:
    torch.manual_seed(0)
    model = Tied()
    given = tables(model)
    pack_model(model, find_kernels(model).kernels, given, "float")
    rows = torch.tensor([[1, 4, 10]])
    weight = decoded(given["embedding.weight"])
    assert len(packed_weights(model)) == 1
    assert model.embedding.weight_codes is model.out.weight_codes
    torch.testing.assert_close(model(rows), F.linear(weight[rows], weight))
    copied = copy.deepcopy(model)
    assert copied.embedding.weight_codes is copied.out.weight_codes is not model.out.weight_codes


def test_a_watching_mode_sees_the_decoded_weight_and_whose_it_is() -> None:
    packed, plain = twins(lambda: nn.Linear(8, 5), "int8")
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is F.linear:
                seen.append(origin_of(args[1]))
            return func(*args, **(kwargs or {}))

    with Watch(), torch.no_grad():
        packed(torch.randn(2, 8))
    assert seen == [(packed, "weight")]
    offered = table_weight(packed, "weight")
    assert offered is not None
    assert torch.equal(decoded(offered), packed.weight)


def test_half_precision_is_refused_with_the_reason() -> None:
    packed, _ = twins(lambda: nn.Sequential(nn.Linear(8, 5)), "float")
    with pytest.raises(
        PluginError, match=r"packed 0.weight cannot become torch.float16 on cpu: packed weights compute in float32"
    ):
        packed.half()
    assert packed[0].bias.dtype == torch.float32


def test_a_state_of_another_model_leaves_the_model_as_it_was() -> None:
    packed, _ = twins(lambda: nn.Linear(8, 5), "float")
    other = nn.Linear(8, 200)
    with pytest.raises(PluginError, match=r"packed weight: 32 bytes of codes \(torch.uint8\), expected 800"):
        restore_packed(other, find_kernels(other).kernels, packed_state(packed), "float")
    assert type(other) is nn.Linear
    assert other.weight.shape == (200, 8)


@pytest.mark.parametrize("compute", ["float", "int8"])
def test_a_bundle_reloads_bit_for_bit_and_a_flipped_bit_is_refused(tmp_path: Path, compute: Compute) -> None:
    pytest.importorskip("slt_speech")
    encoder = {"use": "lstm", "frontend": "log-mel", "layers": 1, "hidden": 16}
    quantizer = {"use": "post-training", "bits": 3, "compute": compute}
    decoder = {"use": "ctc-greedy", "characters": "abc"}
    spec = {"slt": 1, "kind": "pipeline", "encoder": encoder, "decoder": decoder, "transforms": [quantizer]}
    pipeline = sltcore.load(spec)
    pipeline.transforms[0].finish()
    save_bundle(pipeline, tmp_path / "bundle")
    again = load_bundle(tmp_path / "bundle")
    for part in (pipeline.parts["encoder"], again.parts["encoder"]):
        part.frontend = None
        part.eval()
    frames = Features(torch.randn(2, 40, 80), torch.tensor([40, 23]), 0.01)
    with torch.inference_mode():
        one, two = (part.parts["encoder"](frames, {}).values for part in (pipeline, again))
    assert torch.equal(one, two)
    states = [p.transforms[0].state() for p in (pipeline, again)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    file = tmp_path / "bundle" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match="weights.safetensors"):
        load_bundle(tmp_path / "bundle")
