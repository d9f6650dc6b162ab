"""Values that go through functions of the user's: as where a forward hook returns another value."""

import copy
import functools
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import eager, pick, run, same, same_value

IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5


def halve(value):
    return value / 2


def shift_in_place(value):
    return value.add_(1.0)


def clamp_by_value(value):
    return value.clamp(max=0.1) if value.max() > 0.1 else value


def flip_by_size(value):
    return value.flip(1) if value.shape[0] > 2 else value


class Steer(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.direction = nn.Parameter(torch.linspace(-1, 1, width))

    def forward(self, value):
        return value + self.direction.reshape(1, -1, 1, 1)


class Double(nn.Module):
    def forward(self, value):
        return value * 2


FUNCTIONS = [
    halve,
    shift_in_place,
    clamp_by_value,
    flip_by_size,
    torch.zeros_like,
    functools.partial(torch.add, other=2),
]


class Block(nn.Module):
    """A residual block that works in place: what is replaced is written to right behind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.act(self.norm(self.conv(x)))
        y += x
        return self.act(y)


class OutOfPlace(Block):
    def forward(self, x):
        return self.act(self.act(self.norm(self.conv(x))) + x)


class Net(nn.Module):
    def __init__(self, block=Block):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(block(), block())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.head(self.drop(x).mean((2, 3)))


class Pair(nn.Module):
    """Returns a tuple, from a module of its own and from one of torch's."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4)
        self.inner = Splits()

    def forward(self, x):
        y, (h, c) = self.lstm(x)
        low, high = self.inner(y)
        return low * h.sum() + high * c.sum()


class Splits(nn.Module):
    def forward(self, x):
        low, high = x.chunk(2, -1)
        return low, high


class ReturnsADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = GivesADict()

    def forward(self, x):
        found = self.inner(x)
        return found["a"] + found["b"]


class GivesADict(nn.Module):
    def forward(self, x):
        return {"a": x * 2, "b": x - 1}


class InPlaceStatement(nn.Module):
    """Calls a module for what it does to its argument: what a hook returns is not used."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = x + 0
        self.act(x)
        return self.last(x)


class Branches(nn.Module):
    """Goes by a size of what was replaced."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.wide, self.thin = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.first(x)
        return self.wide(x) if x.shape[-1] > 4 else self.thin(x)


class Recursive(nn.Module):
    """Holds one module under two names."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 3, 1)
        self.other = self.one
        self.after = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.after(self.other(F.relu(self.one(x))))


def returning(model: nn.Module, path: str, function: Any, call: int, steps: Any = ()) -> nn.Module:
    """Copy a model with a forward hook that returns another value at one call."""
    hooked = copy.deepcopy(model)
    seen = [0]

    def hook(module, args, result):
        number, seen[0] = seen[0], seen[0] + 1
        if number != call:
            return None
        if not steps:
            return function(result)
        parts = dict(result) if isinstance(result, dict) else list(result)
        parts[steps[0]] = function(parts[steps[0]])
        return parts if isinstance(parts, dict) else tuple(parts)

    module = hooked.get_submodule(path)
    module.register_forward_hook(hook)
    module.register_forward_pre_hook(lambda module, args: None)
    hooked.restart = lambda: seen.__setitem__(0, 0)
    return hooked


def assert_equals_hook(model, name, path, function, names, *inputs, call=0, steps=(), modes=(False, True)):
    for training in modes:
        mine = copy.deepcopy(model).train(training)
        reference = returning(mine, path, function, call, steps)
        extractor = fxfeat.create_feature_extractor(
            mine, list(names), example_inputs=inputs[0], replace={name: function}, engine="code"
        )
        for given in inputs:
            reference.restart()
            expected, actual = eager(reference, given), run(extractor, given)
            for query in names:
                assert same_value(actual[query], pick(reference, expected, query)), f"{query}:\n{extractor.code}"
        fresh = copy.deepcopy(model).train(training)
        assert fxfeat.verify(fresh, extractor, inputs[0]).ok


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: getattr(function, "__name__", "partial"))
@pytest.mark.parametrize(
    ("name", "path", "call"),
    [
        ("blocks.0.conv", "blocks.0.conv", 0),
        ("blocks.0.act", "blocks.0.act", 0),
        ("blocks.1.act_1", "blocks.1.act", 1),
        ("blocks.1.act@1", "blocks.1.act", 1),
        ("blocks.0", "blocks.0", 0),
        ("blocks", "blocks", 0),
        ("drop", "drop", 0),
        ("output", "", 0),
    ],
)
def test_modules_as_by_a_hook(name, path, call, function):
    names = dict.fromkeys([path or "output", "stem", "blocks.0.norm", "blocks.1", "output"])
    names = [query for query in names if query != "blocks.1.act"]
    assert_equals_hook(Net(), name, path, function, names, IMAGE, torch.rand(3, 3, 9, 6), call=call)


@pytest.mark.parametrize(("name", "steps"), [("lstm[0]", (0,)), ("inner[1]", (1,)), ("inner", ())])
def test_parts_of_tuples(name, steps):
    def negate(value):
        return tuple(-part for part in value) if isinstance(value, tuple) else -value

    names = ["lstm[0]", "lstm[1][0]", "inner[0]", "inner[1]", "output"]
    assert_equals_hook(
        Pair(), name, name.partition("[")[0], negate, names, torch.rand(5, 2, 3), torch.rand(4, 1, 3), steps=steps
    )


def test_a_part_of_a_nested_tuple():
    model = Pair()
    x = torch.rand(5, 2, 3)
    extractor = fxfeat.create_feature_extractor(
        model, ["lstm[1][0]", "output"], example_inputs=x, replace={"lstm[1][0]": torch.neg}
    )
    y, (h, c) = model.lstm(x)
    low, high = model.inner(y)
    found = extractor(x)
    assert same(found["lstm[1][0]"], -h)
    assert same(found["output"], low * (-h).sum() + high * c.sum())
    assert fxfeat.verify(model, extractor, x).ok


def test_a_part_of_a_dict():
    assert_equals_hook(
        ReturnsADict(), "inner['a']", "inner", halve, ["inner['a']", "inner['b']", "output"], IMAGE, steps=("a",)
    )


def test_what_a_statement_does_not_use():
    assert_equals_hook(InPlaceStatement(), "act", "act", halve, ["last", "output"], IMAGE)


def test_sizes_are_those_of_the_result():
    def shrink(value):
        return value[..., :3]

    model = Branches()
    extractor = fxfeat.create_feature_extractor(
        model, ["first", "thin", "output"], example_inputs=IMAGE, replace={"first": shrink}
    )
    for image in (IMAGE, torch.rand(1, 3, 9, 9)):
        first = model.first(image)[..., :3]
        found = extractor(image)
        assert same(found["first"], first)
        assert same(found["thin"], model.thin(first)) and same(found["output"], model.thin(first))
    assert fxfeat.verify(model, extractor, IMAGE).ok


def test_calls_are_counted_by_whatever_path():
    assert_equals_hook(Recursive(), "one@0", "one", halve, ["after", "output"], IMAGE, call=0)
    assert_equals_hook(Recursive(), "other@1", "one", halve, ["after", "output"], IMAGE, call=1)


def test_operations():
    class Adds(nn.Module):
        def __init__(self, edit=lambda value: value):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.edit = edit

        def forward(self, x):
            y = self.first(x)
            y = self.edit(y + x)
            y.mul_(2)
            low, high = y.chunk(2, -1)
            return self.last(low.relu() + high)

    plain = Adds()
    edited = copy.deepcopy(plain)
    edited.edit = halve
    extractor = fxfeat.create_feature_extractor(
        plain, ["add", "mul_", "last"], example_inputs=IMAGE, replace={"add": halve}, engine="code"
    )
    y = (plain.first(IMAGE) + IMAGE) / 2
    found = extractor(IMAGE)
    assert same(found["add"], y)
    assert same(found["mul_"], y * 2)
    assert same(found["last"], edited(IMAGE))
    assert fxfeat.verify(plain, extractor, IMAGE).ok


def test_an_element_of_what_an_operation_returns():
    class Chunks(nn.Module):
        def forward(self, x):
            low, high = x.chunk(2, -1)
            return low.relu() + high

    extractor = fxfeat.create_feature_extractor(
        Chunks(), ["getitem", "getitem_1", "output"], example_inputs=IMAGE, replace={"getitem_1": halve}
    )
    low, high = IMAGE.chunk(2, -1)
    found = extractor(IMAGE)
    assert same(found["getitem"], low) and same(found["getitem_1"], high / 2)
    assert same(found["output"], low.relu() + high / 2)
    assert fxfeat.verify(Chunks(), extractor, IMAGE).ok


def test_several_values():
    model = Net().eval()
    extractor = fxfeat.create_feature_extractor(
        model, ["output"], example_inputs=IMAGE, replace={"stem": halve, "blocks.0": torch.neg, "blocks.1.add": halve}
    )
    hooked = copy.deepcopy(model)
    hooked.stem.register_forward_hook(lambda module, args, result: result / 2)
    hooked.blocks[0].register_forward_hook(lambda module, args, result: -result)
    x = hooked.blocks[0](hooked.stem(IMAGE))
    block = hooked.blocks[1]
    y = block.act((block.act(block.norm(block.conv(x))) + x) / 2)
    assert same(extractor(IMAGE)["output"], hooked.head(y.mean((2, 3))))
    assert fxfeat.verify(model, extractor, IMAGE).ok


def test_gradients_are_those_of_a_hook():
    model = Net(OutOfPlace).train()
    model.drop.p = 0.0
    steer = Steer()
    extractor = fxfeat.create_feature_extractor(
        model, ["blocks.0", "output"], example_inputs=IMAGE, replace={"blocks.0.act": steer}
    )
    reference, mine = copy.deepcopy(model), copy.deepcopy(steer)
    calls = []
    reference.blocks[0].act.register_forward_hook(
        lambda module, args, result: mine(result) if calls.append(1) or len(calls) == 1 else None
    )
    for key in ("blocks.0", "output"):
        calls.clear()
        expected = eager(reference, IMAGE, grad=True)
        pick(reference, expected, key).square().sum().backward()
        extractor(IMAGE)[key].square().sum().backward()
        theirs = {path: each.grad for path, each in reference.named_parameters() if each.grad is not None}
        ours = {path: each.grad for path, each in model.named_parameters() if each.grad is not None}
        assert ours.keys() == theirs.keys() and all(same(ours[path], theirs[path]) for path in theirs)
        assert same(steer.direction.grad, mine.direction.grad)


def test_gradients_by_a_replaced_feature():
    model = Net(OutOfPlace).eval()
    extractor = fxfeat.create_feature_extractor(
        model, ["blocks.0.conv", "output"], example_inputs=IMAGE, replace={"blocks.0.conv": halve}
    )
    found = extractor(IMAGE)
    (gradient,) = torch.autograd.grad(found["output"].sum(), found["blocks.0.conv"])
    assert gradient.shape == found["blocks.0.conv"].shape and gradient.abs().sum() > 0


def test_a_module_is_the_extractors_own():
    steer = Steer()
    extractor = fxfeat.create_feature_extractor(
        Net().eval(), ["output"], example_inputs=IMAGE, replace={"stem": halve, "blocks.0": steer}
    )
    assert extractor.replacements[0] is steer
    assert "replacements.0.direction" in extractor.state_dict()
    assert "self.replacements[0]" in extractor.code
    before = extractor(IMAGE)["output"]
    with torch.no_grad():
        steer.direction.mul_(3)
    assert not same(extractor(IMAGE)["output"], before)
    assert extractor.double()(IMAGE.double())["output"].dtype == torch.float64


def test_copies_keep_the_function():
    extractor = fxfeat.create_feature_extractor(
        Net().eval(), ["blocks.1", "output"], example_inputs=IMAGE, replace={"stem": halve, "blocks.0": Steer()}
    )
    expected = extractor(IMAGE)
    for copied in (copy.deepcopy(extractor), pickle.loads(pickle.dumps(extractor))):
        found = copied(IMAGE)
        assert all(same(found[key], expected[key]) for key in expected)
        assert copied.replacements[0] is not extractor.replacements[0]
        assert copied.graph.nodes
    stream = io.BytesIO()
    torch.save(extractor.state_dict(), stream)


def test_compiles_and_exports():
    extractor = fxfeat.create_feature_extractor(
        Net().eval(),
        ["blocks.0.conv", "output"],
        example_inputs=IMAGE,
        replace={"blocks.0.conv": Steer(), "stem": halve},
    )
    expected = extractor(IMAGE)
    compiled = torch.compile(extractor, fullgraph=True, backend="eager")(IMAGE)
    exported = torch.export.export(extractor, (IMAGE,)).module()(IMAGE)
    for found in (compiled, exported):
        assert all(same(found[key], expected[key]) for key in expected)


def test_parts_compile_and_export():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.gate = Splits(), nn.MultiheadAttention(6, 2)

        def forward(self, x):
            low, high = self.inner(x)
            gated, _ = self.gate(x, x, x)
            return gated.sum() + low * high

    x = torch.rand(5, 2, 6)
    replace = {"inner[0]": halve, "gate[0]": Double()}
    extractor = fxfeat.create_feature_extractor(Halves().eval(), ["output"], example_inputs=x, replace=replace)
    assert "replace_part(x, (('item', 0),), self.replacements[0])" in extractor.code
    expected = extractor(x)["output"]
    assert torch.allclose(torch.compile(extractor, fullgraph=True, backend="eager")(x)["output"], expected)
    assert torch.allclose(torch.export.export(extractor, (x,)).module()(x)["output"], expected)


def test_what_comes_before_stays_as_it_is():
    model = Net().eval()
    extractor = fxfeat.create_feature_extractor(model, ["stem"], example_inputs=IMAGE, replace={"blocks.0": halve})
    assert same(extractor(IMAGE)["stem"], model.stem(IMAGE))
    assert "halve" not in extractor.code


def test_a_model_with_a_child_of_that_name():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.replacements = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.replacements(x)

    model, steer = Holds(), Steer()
    extractor = fxfeat.create_feature_extractor(
        model, ["output"], example_inputs=IMAGE, replace={"replacements": steer}
    )
    assert same(extractor(IMAGE)["output"], steer(model.replacements(IMAGE)))
    assert sorted(extractor.state_dict()) == ["replacements.bias", "replacements.weight", "replacements_.0.direction"]


def test_inside_a_leaf_of_torchs():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.rand(2, 3, 8)
    wrapped = nn.Sequential(model)
    extractor = fxfeat.create_feature_extractor(
        wrapped, ["0.layers.0", "output"], example_inputs=x, replace={"0.layers.0": halve}
    )
    hooked = copy.deepcopy(wrapped)
    hooked[0].layers[0].register_forward_hook(lambda module, args, result: result / 2)
    with torch.enable_grad():
        assert same(extractor(x)["output"], hooked(x))


def test_another_shape_that_what_follows_takes():
    model = Net().eval()
    extractor = fxfeat.create_feature_extractor(
        model, ["blocks.0", "output"], example_inputs=IMAGE, replace={"blocks.0": lambda value: value[:1, :, ::2]}
    )
    assert extractor(IMAGE)["output"].shape == (1, 2)


@pytest.mark.parametrize("engine", ["auto", "code"])
def test_another_shape_that_what_follows_does_not_take(engine):
    with pytest.raises(fxfeat.TraceError) as raised:
        fxfeat.create_feature_extractor(
            Net().eval(),
            ["output"],
            example_inputs=IMAGE,
            engine=engine,
            replace={"blocks.0": lambda value: value[:, :2]},
        )
    assert str(raised.value) == (
        "Net runs as it is, but not with replace= for 'blocks.0' (in the model (2, 4, 8, 8) float32): RuntimeError: "
        "Given groups=1, weight of size [4, 4, 3, 3], expected input[2, 2, 8, 8] to have 4 channels, but got 2 "
        "channels instead. A function in replace= must take the value, and return one that what follows takes."
    )


def test_nothing_returned():
    with pytest.raises(fxfeat.RequestError) as raised:
        fxfeat.create_feature_extractor(
            Net().eval(), ["output"], example_inputs=IMAGE, replace={"stem": lambda value: None}
        )
    assert str(raised.value) == (
        "The function in replace={'stem': ...} returned a NoneType; it must return the tensor that the model goes on "
        "with."
    )


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (
            ["stem"],
            "replace is a list; it must be a mapping from name to function, as in replace={'layer3': "
            "torch.zeros_like}.",
        ),
        ({3: halve}, "replace holds 3, a int; names are strings."),
        (
            {"stem": 0},
            "replace gives 'stem' to 0; it must be a function or a module that takes the value and returns another.",
        ),
    ],
)
def test_what_is_no_mapping_to_functions(replace, message):
    with pytest.raises(fxfeat.RequestError) as raised:
        fxfeat.create_feature_extractor(Net(), ["output"], example_inputs=IMAGE, replace=replace)
    assert str(raised.value) == message


def test_names_that_are_no_places():
    for name, message in {
        "stemm": "Net has no node or module 'stemm' in eval mode. Did you mean 'stem'? "
        "fxfeat.get_graph_node_names(model) lists all 15 names.",
        "x": "'x' in replace= is an input. Call the extractor with another one instead.",
    }.items():
        with pytest.raises(fxfeat.NodeNotFoundError) as raised:
            fxfeat.create_feature_extractor(Net().eval(), ["output"], example_inputs=IMAGE, replace={name: halve})
        assert str(raised.value) == message


def test_engine_tap_is_refused():
    with pytest.raises(fxfeat.TraceError) as raised:
        fxfeat.create_feature_extractor(
            Net().eval(), ["output"], example_inputs=IMAGE, engine="tap", replace={"stem": halve}
        )
    assert str(raised.value) == (
        "Net runs whole, and nothing can be replaced inside what does: engine='tap' was asked for. Put a forward hook "
        "that returns the other value on the model before the extractor is made, or replace a value outside."
    )


class Drops(nn.Module):
    """Cannot be written out: it draws from Python."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        import random

        x = self.first(x)
        return self.second(x) if random.random() < 2 else x


def test_inside_a_module_that_runs_whole():
    model = nn.Sequential(nn.Linear(4, 4), Drops(), nn.Linear(4, 2)).eval()
    x = torch.rand(2, 4)
    with pytest.raises(fxfeat.TraceError, match=r"^Sequential runs whole, and nothing can be replaced"):
        fxfeat.create_feature_extractor(model, ["2"], example_inputs=x, replace={"1.first": halve})
    outside = fxfeat.create_feature_extractor(model, ["1", "2"], example_inputs=x, replace={"1": halve})
    assert same(outside(x)["2"], model[2](model[1](model[0](x)) / 2))


def test_the_function_is_left_alone():
    seen: list[Any] = []

    def note(value):
        seen.append(value)
        return value * 2

    extractor = fxfeat.create_feature_extractor(Net().eval(), ["output"], example_inputs=IMAGE, replace={"stem": note})
    assert seen == []
    extractor(IMAGE)
    assert len(seen) == 1


def test_the_output_is_replaced_and_not_what_its_last_part_returned():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.fc = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.stem(x).relu())

    model, x = Last().eval(), torch.rand(2, 3)
    features = fxfeat.create_feature_extractor(
        model, ["fc", "output"], example_inputs=x, replace={"output": torch.neg}
    )(x)
    assert same(features["fc"], model(x))
    assert same(features["output"], -model(x))


@pytest.mark.parametrize("engine", ["auto", "code"])
def test_what_a_module_is_called_with_is_not_replaced(engine):
    with pytest.raises(fxfeat.NodeNotFoundError) as raised:
        fxfeat.create_feature_extractor(
            Net().eval(), ["output"], example_inputs=IMAGE, replace={"stem:in": halve}, engine=engine
        )
    assert str(raised.value) == (
        "'stem:in' in replace= is what a module is called with, which can be read but not replaced. Name what it is "
        "computed from, or wrap the module in one that changes its input first."
    )
