"""The types of sizes, numbers and tensors are those of eager mode, however code asks for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.oracle import assert_equals_eager

X = torch.rand(2, 4)
kind_of = type

QUESTIONS = {
    "a size is an int": lambda x: type(x.shape[1]) is int,
    "a size is an int, by another name": lambda x: kind_of(x.shape[1]) is int,
    "the class of a size": lambda x: x.shape[1].__class__ is int,
    "the class of what is computed from a size": lambda x: (x.shape[1] * 2 + 1).__class__ is int,
    "the class of a quotient of sizes": lambda x: (x.shape[1] / 2).__class__ is float,
    "a length is an int": lambda x: type(len(x)) is int,
    "an item is a float": lambda x: type(x.sum().item()) is float,
    "the class of an item": lambda x: x.sum().item().__class__ is float,
    "an index is an int": lambda x: kind_of(x.argmax().item()) is int,
    "a shape": lambda x: type(x.shape) is torch.Size and x.shape.__class__ is torch.Size,
    "a key of a table": lambda x: {int: True}.get(kind_of(x.shape[0]), False),
    "types that are mapped": lambda x: list(map(type, x.shape)) == [int, int],
    "an instance": lambda x: isinstance(x.shape[0], int) and isinstance(x.sum().item(), float),
    "a tensor that was computed": lambda x: isinstance(x + 1, torch.FloatTensor),
    "a tensor of several types": lambda x: isinstance(x * 2, (int, (torch.cuda.FloatTensor, torch.FloatTensor))),
    "a tensor of another type": lambda x: not isinstance(x * 2, (torch.LongTensor, torch.cuda.FloatTensor)),
    "a class with another name makes classes": lambda x: kind_of("Made", (), {}).__name__ == "Made",
    "an instance of another name": lambda x: isinstance(int, kind_of),
}


class Asks(nn.Module):
    def __init__(self, question):
        super().__init__()
        self.linear, self.question = nn.Linear(4, 4), question

    def forward(self, x):
        return self.linear(x) * (2 if self.question(x) else 3)


@pytest.mark.filterwarnings("ignore:.*runs whole")
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_types(question):
    model = Asks(question)
    assert question(X)
    assert_equals_eager(model, ["linear", "output"], X)
