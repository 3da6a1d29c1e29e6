"""Copies of models that hold what Python cannot copy."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from slt_nna.duplicate import duplicate
from slt_nna.nna import Nna


class Search:
    """A decoder that is no module: it holds a lock, and the head that it shares with the model."""

    def __init__(self, head: nn.Module) -> None:
        self.lock = threading.RLock()
        self.head = head
        self.parts: dict[str, Any] = {"heads": [head], "lock": self.lock}


class Recognizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.search = Search(self.head)
        self.stages = (self.encoder, self.search)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.search.head(self.stages[0](x)[0])  # type: ignore[operator]
        return result


def test_references_to_modules_point_into_the_copy_and_locks_are_shared() -> None:
    model = Recognizer()
    copied = duplicate(model)
    assert copied.search.lock is model.search.lock is copied.search.parts["lock"]
    assert copied.search.head is copied.head is copied.search.parts["heads"][0]
    assert copied.head is not model.head
    assert copied.stages == (copied.encoder, copied.search)
    assert {id(each) for each in copied.parameters()}.isdisjoint(id(each) for each in model.parameters())
    x = torch.randn(2, 5, 4)
    expected = model(x)
    with torch.no_grad():
        for each in model.parameters():
            each.zero_()
    assert torch.equal(copied(x), expected)


def test_what_can_be_copied_is_copied_as_python_does() -> None:
    values = {"a": [1, (2, {3})]}
    copied = duplicate(values)
    assert copied == values
    assert copied["a"] is not values["a"]


def test_a_model_with_a_lock_is_lowered() -> None:
    torch.manual_seed(0)
    model, x = Recognizer().eval(), torch.randn(2, 9, 4)
    transform = Nna("harsh")
    transform.attach(model, iter([x]))
    with torch.no_grad():
        lowered = transform.lower(model)
        assert torch.equal(lowered(x), model(x))
        assert lowered.reference.constants.entries("weight"), "it computed in integers"
