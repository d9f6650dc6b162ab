"""Sizes that are made into texts: code may go by a text, or show it to people."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

X, OTHER = torch.rand(2, 3, 4), torch.rand(2, 6, 4)
LOGGER = logging.getLogger(__name__)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.special = nn.Linear(4, 4), nn.Linear(4, 4)
        self.heads = nn.ModuleDict({"n6": nn.Linear(4, 4)})
        self.m_6 = nn.Linear(4, 4)


class KeyOfADict(Base):
    def forward(self, x):
        return self.linear(x) * {"3x4": 2.0, "6x4": 3.0}.get(f"{x.shape[1]}x{x.shape[2]}", 1.0)


class NameOfAModule(Base):
    def forward(self, x):
        name = f"n{x.shape[1]}"
        return self.heads[name](x) if name in self.heads else self.linear(x)


class NameOfAnAttribute(Base):
    def forward(self, x):
        return getattr(self, "m_" + str(x.shape[1]), self.linear)(x)


class PartOfAShape(Base):
    def forward(self, x):
        return self.special(x) if "6" in repr(x.shape) else self.linear(x)


class WholeShape(Base):
    def forward(self, x):
        return self.special(x) if str(x.shape) == "torch.Size([2, 3, 4])" else self.linear(x)


class WholeShapeInAText(Base):
    def forward(self, x):
        return self.special(x) if f"{x.size()}" in {"torch.Size([2, 3, 4])": 1} else self.linear(x)


class EndOfAText(Base):
    def forward(self, x):
        return self.special(x) if "{}".format(x.size(1)).endswith("6") else self.linear(x)  # noqa: UP032


class OnOneLine(Base):
    def forward(self, x):
        # fmt: off
        if f"{x.shape[1]}" == "6": raise ValueError  # noqa: E701
        # fmt: on
        return self.linear(x)


@pytest.mark.parametrize(
    "kind",
    [KeyOfADict, NameOfAModule, NameOfAnAttribute, PartOfAShape, WholeShape, WholeShapeInAText, EndOfAText, OnOneLine],
    ids=lambda k: k.__name__,
)
def test_code_that_goes_by_a_text_is_bound_to_the_size(kind):
    model = kind().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=X)
    assert same(extractor(X)["output"], model(X))
    with pytest.raises(fxfeat.GuardError, match=r"test_texts.py:\d+: `.*` the recording saw 3, this input gives 6"):
        extractor(OTHER)


class Prints(Base):
    def forward(self, x):
        print(f"{x.shape[1]} rows")
        return self.linear(x)


class Logs(Base):
    def forward(self, x):
        LOGGER.info("%s rows", x.shape[1])
        LOGGER.info(
            f"{x.shape[1]} rows of {x.shape}",
        )
        return self.linear(x)


class Warns(Base):
    def forward(self, x):
        warnings.warn(f"{x.shape}", stacklevel=1)
        return self.linear(x)


class Asserts(Base):
    def forward(self, x):
        torch._assert(x.dim() == 3, f"{x.shape[1]} rows")
        assert x.dim() == 3, f"{x.shape[1]} rows"
        if x.dim() != 3:
            raise ValueError(f"{x.shape[1]} rows")
        return self.linear(x)


class NameOfAModuleByData(Base):
    def forward(self, x):
        hit = (x.sum() > 0).int() * 3 + 3
        return self.linear(x) + getattr(self, f"m_{hit}", self.special)(x)


def test_a_text_of_the_number_in_a_tensor_is_bound_to_it():
    model = NameOfAModuleByData().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=X, engine="code")
    assert same(extractor(X)["output"], model(X))
    with pytest.raises(
        fxfeat.GuardError, match=r"getattr\(self, f\"m_{hit}\".*` the recording saw 6, this input gives 3"
    ):
        extractor(-X)


def test_a_text_of_a_whole_tensor_is_not_written_out():
    model = type("Model", (Base,), {"forward": lambda self, x: self.linear(x) * len(f"{x[0, 0]}")})().eval()
    with pytest.raises(fxfeat.TraceError, match="makes a text of a tensor"):
        fxfeat.create_feature_extractor(model, ["output"], example_inputs=X, engine="code")


def compilable_check(condition, message):
    if not condition:
        raise ValueError(message)


class Checks(Base):
    def forward(self, x):
        total = (x > 0).sum()
        compilable_check(x.dim() == 3, f"{x.shape[1]} rows, {total} of them positive")
        return self.linear(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Prints, Logs, Warns, Asserts, Checks])
def test_a_text_for_people_leaves_the_size_free(kind, caplog):
    model = kind().eval()
    with caplog.at_level(logging.INFO):
        extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=X, engine="code")
    assert same(extractor(OTHER)["output"], model(OTHER))


def test_code_without_a_source_is_bound_to_the_size():
    namespace = {"nn": nn}
    exec(
        "class Model(nn.Module):\n    def forward(self, x):\n        print(str(x.shape[1]))\n        return x + 1",
        namespace,
    )
    extractor = fxfeat.create_feature_extractor(namespace["Model"](), ["output"], example_inputs=X)
    with pytest.raises(fxfeat.GuardError):
        extractor(OTHER)


def test_a_check_that_random_numbers_decide_says_so():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            if torch.rand([]) < 0.5:
                x = self.first(x)
            return self.last(x)

    model, x = Dropping(), torch.randn(2, 4)
    extractor = fxfeat.create_feature_extractor(model, ["last"], example_inputs=x)
    with pytest.raises(fxfeat.GuardError, match=r"where random numbers decide \(engine='tap' takes every path\)"):
        for _ in range(100):
            extractor(x)
    tapped = fxfeat.create_feature_extractor(model, ["last"], example_inputs=x, engine="tap")
    for seed in range(8):
        torch.manual_seed(seed)
        expected = model(x)
        torch.manual_seed(seed)
        assert torch.equal(tapped(x)["last"], expected)
