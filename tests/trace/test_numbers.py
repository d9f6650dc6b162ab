"""Numbers read from a tensor's sizes: followed through arithmetic, and never silently taken for constants."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import fx, nn

import fxfeat
from fxfeat.trace.proxies.numbers import OwnFloat, RecordedFloat, RecordedInt, plain, wrap
from tests.oracle import same

EXAMPLE = torch.randn(2, 3, 8, 8)
OTHERS = [(1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 12, 8), (2, 3, 8, 20), (5, 3, 16, 24), (2, 3, 9, 7)]

# What is followed through the graph, at every size.
FOLLOWED = {
    "add": lambda x: x.shape[2] + 1,
    "radd": lambda x: 1 + x.shape[2],
    "rsub": lambda x: 100 - x.shape[2],
    "floordiv": lambda x: x.shape[2] // 3,
    "rfloordiv": lambda x: 100 // x.shape[2],
    "truediv": lambda x: x.shape[2] / x.shape[3],
    "mod": lambda x: x.size(2) % 5,
    "pow": lambda x: x.shape[2] ** 2,
    "rpow": lambda x: 2 ** x.shape[0],
    "root": lambda x: x.shape[3] ** 0.5,
    "neg": lambda x: -x.shape[3],
    "abs": lambda x: abs(3 - x.shape[3]),
    "float": lambda x: x.shape[2] * 0.25 + 1.5,
    "chain": lambda x: (x.shape[2] - 1) * x.shape[3] // 2 + x.size()[0],
    "ceil": lambda x: math.ceil(x.shape[2] / 3),
    "floor": lambda x: math.floor(x.shape[2] / 3),
    "trunc": lambda x: math.trunc(x.shape[2] / 3),
    "round": lambda x: round(x.shape[2] / 3),
    "sqrt": lambda x: math.sqrt(x.shape[2]),
    "numel": lambda x: x.numel(),
    "numel of a shape": lambda x: x.shape.numel(),
    "negative index": lambda x: x.shape[-1],
    "unpacked": lambda x: (lambda n, c, h, w: h * w + n)(*x.shape),
    "starred": lambda x: (lambda n, *rest: rest[1] * rest[2])(*x.shape),
    "slice of a shape": lambda x: x.shape[-2:][0],
    "sum of a shape": lambda x: sum(x.shape),
    "product of a shape": lambda x: math.prod(x.shape[1:]),
    "list of a shape": lambda x: list(x.shape)[2],
    "joined shape": lambda x: (x.shape[:2] + (7,) + x.shape[2:])[3],  # noqa: RUF005
    "stride": lambda x: x.stride(0),
    "size of a result": lambda x: x[:, :, ::2].flatten(1).shape[1],
    "max": lambda x: max(x.shape[2], x.shape[3]),
    "min": lambda x: min(x.shape[2:]),
    "min of a list": lambda x: min([x.shape[2], 9, x.shape[3]]),
    "max of a number": lambda x: max(x.shape[2] * 0.5, 4.5),
}

# What Python insists on knowing, where another answer may be refused.
DECIDED = {
    "int": lambda x: int(x.shape[2] * 0.4),
    "len": lambda x: len(x),
    "len of a slice": lambda x: len(x[0, 0]),
    "range": lambda x: sum(range(x.shape[0])),
    "sorted": lambda x: sorted(x.shape[2:])[0],
    "divmod": lambda x: divmod(x.shape[2], 3)[1],
    "bit and": lambda x: x.shape[2] & 1,
    "shift": lambda x: x.shape[2] << 1,
    "rshift": lambda x: x.shape[3] >> 1,
    "or": lambda x: x.shape[3] | 16,
    "xor": lambda x: x.shape[3] ^ 3,
    "bit length": lambda x: x.shape[2].bit_length(),
    "is_integer": lambda x: 1.0 if (x.shape[2] / 3).is_integer() else 2.0,
    "text": lambda x: float(str(x.shape[2])),
    "f-string": lambda x: float(f"{x.shape[2]:d}"),
    "repr": lambda x: float(repr(x.shape[2])),
    "repeated list": lambda x: len([0] * x.shape[0]),
    "repeated text": lambda x: len("a" * x.shape[0]),
    "dict key": lambda x: {8: 1.0}.get(x.shape[2], 2.0),
    "in": lambda x: 1.0 if x.shape[2] in (8, 16) else 2.0,
    "in a set": lambda x: 1.0 if x.shape[3] in {8, 16} else 2.0,
    "index": lambda x: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0][x.shape[0]],
    "slice of a list": lambda x: len([1.0, 2.0, 3.0, 4.0, 5.0, 6.0][: x.shape[0]]),
    "equal shapes": lambda x: 1.0 if x.shape[2:] == (8, 8) else 2.0,
    "log": lambda x: math.log2(x.shape[2]),
    "gcd": lambda x: math.gcd(x.shape[2], 12),
    "to a tensor": lambda x: torch.tensor(x.shape[2]).float().item(),
    "truth": lambda x: 1.0 if x.shape[0] - 1 else 2.0,
    "as ratio": lambda x: (x.shape[2] / 3).as_integer_ratio()[0] % 7,
    "enumerate": lambda x: sum(index for index, _ in enumerate(x)),
    "zip": lambda x: float(len(list(zip(x, range(10), strict=False)))),
    "to bytes": lambda x: x.shape[2].to_bytes(2, "little")[0],
    "max of a size and a float": lambda x: max(x.shape[2], 8.5),
    "max by a key": lambda x: max(x.shape[2], x.shape[3], key=lambda size: -size),
    "max of one": lambda x: max([x.shape[2]]),
    "python sum": lambda x: sum(1 for _ in x.unbind(0)),
    "chunks": lambda x: len(x.chunk(4, 2)),
    "splits": lambda x: len(x.split(3, dim=3)),
}

# Tensors whose contents come from sizes.
MADE = {
    "arange": lambda x: torch.arange(x.shape[3]).float(),
    "linspace": lambda x: torch.linspace(0, 1, x.shape[3]),
    "zeros": lambda x: torch.zeros(x.shape[2], 1) + 2,
    "full": lambda x: torch.full((1, x.shape[3]), x.shape[2] * 0.5),
    "tensor": lambda x: torch.tensor([float(x.shape[2])]),
    "tensor of sizes": lambda x: torch.tensor([x.shape[2], x.shape[3]]).float().sum(),
    "tensor of a shape": lambda x: torch.tensor(x.shape).float().prod(),
    "as_tensor": lambda x: torch.as_tensor(x.shape[2]).float(),
    "tril": lambda x: torch.ones(x.shape[2], x.shape[3]).tril(),
    "scalar_tensor": lambda x: torch.scalar_tensor(x.shape[2]),
    "new_tensor": lambda x: x.new_tensor([x.shape[2]]),
    "new_zeros": lambda x: x.new_zeros(x.shape[2:]) + x.size(0),
    "list": lambda x: torch.tensor([float(i) for i in range(x.shape[3])]),
    "eye": lambda x: torch.eye(x.shape[2], x.shape[3]),
    "meshgrid": lambda x: torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")[0].float(),
}


class Model(nn.Module):
    def __init__(self, expression):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.expression = expression

    def forward(self, x):
        return self.conv(x) * self.expression(x)


def compare(expression) -> list[tuple[int, ...]]:
    """Run at every size; assert that nothing wrong comes out; list the sizes that were refused."""
    model = Model(expression).eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=EXAMPLE)
    refused = []
    assert same(extractor(EXAMPLE)["output"], model(EXAMPLE))
    for size in OTHERS:
        x = torch.randn(size)
        try:
            found = extractor(x)["output"]
        except fxfeat.GuardError:
            refused.append(size)
        else:
            assert same(found, model(x)), f"{size}\n{extractor.code}"
    return refused


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed(name):
    assert compare(FOLLOWED[name]) == []


@pytest.mark.parametrize("name", DECIDED)
def test_right_or_refused(name):
    compare(DECIDED[name])


@pytest.mark.parametrize("name", MADE)
def test_tensors_made_of_sizes_are_right_or_refused(name):
    compare(MADE[name])


def test_sizes_of_parameters_are_no_decisions():
    class Reshapes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.table = nn.Parameter(torch.randn(3, 5))

        def forward(self, x):
            y = self.conv(x)
            if self.table.shape[0] == y.shape[1] and self.table.numel() > 2:
                y = y * self.table.mean(1)[:, None, None]
            for row in range(self.table.shape[1]):
                y = y + self.table[:, row, None, None]
            return y

    model = Reshapes().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=EXAMPLE)
    for size in OTHERS:
        x = torch.randn(size)
        assert same(extractor(x)["output"], model(x))


class Left(nn.Module):
    """A ``float`` on the left of a size, which Python asks first."""

    rate = 0.75

    def __init__(self, turn):
        super().__init__()
        self.turn, self.scale, self.rates = turn, 0.25, [0.125]

    def forward(self, x):
        size = x.shape[2]
        if self.turn == "constant":
            return x * (0.5 * size)
        if self.turn == "attribute":
            return x * (self.scale * size - self.scale / size)
        if self.turn == "of the class":
            return x * (self.rate**size)
        if self.turn == "converted":
            return nn.functional.interpolate(x, size=(int(1.5 * size), int(self.scale * x.shape[3])))
        if self.turn == "computed":
            return x * (1.0 / math.sqrt(size * x.shape[3]) - self.scale * math.sqrt(size))
        if self.turn == "comprehension":
            return x * sum([0.5 * each for each in x.shape[2:]])
        return x * (2.0 if 8.5 < size else 3.0)  # noqa: SIM300  that is what is tested


@pytest.mark.parametrize("turn", ["constant", "attribute", "of the class", "converted", "computed", "comprehension"])
def test_floats_leave_arithmetic_to_sizes_on_their_right(turn):
    model = Left(turn).eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=EXAMPLE, engine="code")
    for size in OTHERS:
        x = torch.randn(size)
        assert same(extractor(x)["output"], model(x)), extractor.code


def test_comparisons_of_floats_with_sizes_are_checked():
    extractor = fxfeat.create_feature_extractor(Left("").eval(), ["output"], example_inputs=EXAMPLE)
    assert "check(size > 8.5, False" in extractor.code.replace("x.shape[2]", "size")
    with pytest.raises(fxfeat.GuardError):
        extractor(torch.randn(2, 3, 12, 8))


class Keeps(nn.Module):
    """Sets an attribute to what it is, and another to a float of the code's."""

    def __init__(self):
        super().__init__()
        self.linear, self.scale, self.kept = nn.Linear(8, 8), 0.5, 2.0

    def forward(self, x):
        self.scale = self.scale
        kinds = type(self.scale) is float and type(0.5) is float and {0.5: True}[self.scale]  # noqa: UP003
        return self.linear(x) * (self.scale if kinds and isinstance(0.5, float) else 7.0)


def test_floats_are_plain_to_the_code():
    model = Keeps().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=EXAMPLE, engine="code")
    assert same(extractor(EXAMPLE)["output"], model(EXAMPLE))
    assert type(model.scale) is float and "* 0.5" in extractor.code


def test_own_floats_are_floats():
    half = OwnFloat(0.5)
    assert (hash(half), repr(half), half.__class__) == (hash(0.5), "0.5", float)
    assert [type(each) for each in (pickle.loads(pickle.dumps(half)), copy.deepcopy(half))] == [float] * 2
    assert [type(each) for each in (half * 2, 2 * half, -half, half // 0.1)] == [OwnFloat] * 4
    seven, ledger = number(7)
    assert plain(half * seven) == 3.5 and half < seven
    assert ledger.told == [("compute", "mul", (0.5, 7), 3.5), ("decide", "gt", (7, 0.5), True)]


class Ledger:
    """Keeps what numbers tell it."""

    active = True

    def __init__(self):
        self.told = []

    def compute(self, function, operands, result):
        self.told.append(("compute", function.__name__, tuple(map(plain, operands)), result))
        return wrap(result, None, self)

    def decide(self, function, operands, result):
        self.told.append(("decide", function.__name__, tuple(map(plain, operands)), result))
        return result

    def pin(self, number, exact):
        self.told.append(("pin", exact))

    def tell(self, number, exact, frame):
        self.told.append(("tell", exact, frame.f_code.co_name))


def number(value):
    ledger = Ledger()
    return (RecordedInt if isinstance(value, int) else RecordedFloat)(
        value, fx.Graph().placeholder("n"), ledger
    ), ledger


def test_arithmetic_is_told():
    seven, ledger = number(7)
    half = (3 - seven) / 2
    assert type(half) is RecordedFloat
    assert plain(half) == -2.0
    assert ledger.told == [("compute", "sub", (3, 7), -4), ("compute", "truediv", (-4, 2), -2.0)]


def test_comparisons_are_told():
    seven, ledger = number(7)
    assert seven > 3
    assert not seven == 8  # noqa: SIM201
    assert ledger.told == [("decide", "gt", (7, 3), True), ("decide", "eq", (7, 8), False)]


def test_exact_answers_are_told():
    seven, ledger = number(7)
    assert type(int(seven)) is int
    assert type(float(seven)) is float
    assert bool(seven)
    assert hash(seven) == hash(7)
    assert ledger.told == [("pin", 7), ("pin", 7), ("decide", "bool", (7,), True), ("pin", 7)]


def test_texts_are_told_with_the_code_that_makes_them():
    seven, ledger = number(7)
    assert (str(seven), repr(seven), f"{seven:03d}") == ("7", "7", "007")
    assert ledger.told == [("tell", 7, "test_texts_are_told_with_the_code_that_makes_them")] * 3


def test_copies_are_numbers():
    seven, _ = number(7)
    assert isinstance(seven, int)
    assert pickle.loads(pickle.dumps(seven)) == 7
    assert type(pickle.loads(pickle.dumps(seven))) is int
    assert copy.deepcopy(seven) is seven
    assert copy.copy(seven) is seven


def test_not_a_number():
    seven, _ = number(7)
    with pytest.raises(TypeError):
        seven + "a"
    with pytest.raises(TypeError):
        seven < "a"  # noqa: B015
    assert seven != "a"
    assert [1] * seven == [1] * 7
