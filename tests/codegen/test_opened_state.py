"""What is set after wrapping on modules that are written out: followed, or an error that names it."""

import copy
import functools
import gc
import pickle
import types
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat

X = torch.linspace(-1, 1, 16).reshape(2, 8)


class Configuration:
    def __init__(self):
        self.doubles, self.title, self._way = True, "", "plain"

    @property
    def way(self):
        return self._way


class Scaled(nn.Module):
    factor = 2.0

    def __init__(self):
        super().__init__()
        self.w, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)
        self.on, self.scale, self.kind, self.extra, self.pair = True, 1.0, "a", None, (1, 2)
        self.steps, self.scaling, self.config, self.act = [1, 2], {"one": 1.0}, Configuration(), torch.tanh
        self.unrelated = 3
        self.register_parameter("shift", None)

    def forward(self, x):
        y = self.w(x) * self.scale * self.pair[0] * self.factor * self.scaling["one"]
        y = y if self.on else -y
        y = y if self.kind == "a" else y * 2
        y = y if self.extra is None else y * 3
        y = y if self.shift is None else y + self.shift
        y = y + sum(self.steps)
        y = y * 2 if self.config.doubles else y
        y = y * 5 if self.config.way == "plain" else y
        y = y * 7 if hasattr(self, "adapter") else y * getattr(self, "late", 1.0)
        return F.dropout(self.act(y), self.drop.p, self.training)


def build():
    torch.manual_seed(0)
    model = nn.Sequential(Scaled(), nn.Linear(8, 8)).eval()
    return model, fxfeat.create_feature_extractor(model, ["0.w", "1"], example_inputs=X)


def again(about):
    return f"{about} now, and its code is written out as it was. Create the extractor again, or set it back."


CHANGES = {
    "flag": (
        lambda scaled: setattr(scaled, "on", False),
        "'on' of '0' (Scaled) was True when the extractor was made and is False",
    ),
    "number": (
        lambda scaled: setattr(scaled, "scale", 1),
        "'scale' of '0' (Scaled) was 1.0 when the extractor was made and is 1",
    ),
    "text": (
        lambda scaled: setattr(scaled, "kind", "b"),
        "'kind' of '0' (Scaled) was 'a' when the extractor was made and is 'b'",
    ),
    "none": (
        lambda scaled: setattr(scaled, "extra", nn.Identity()),
        "'extra' of '0' (Scaled) was None when the extractor was made and is a tensor or a module",
    ),
    "parameter": (
        lambda scaled: setattr(scaled, "shift", nn.Parameter(torch.ones(8))),
        "'shift' of '0' (Scaled) was None when the extractor was made and is a tensor or a module",
    ),
    "tuple": (
        lambda scaled: setattr(scaled, "pair", (2, 2)),
        "'pair' of '0' (Scaled) was (1, 2) when the extractor was made and is (2, 2)",
    ),
    "list": (
        lambda scaled: scaled.steps.append(3),
        "'steps' of '0' (Scaled) was [1, 2] when the extractor was made and is [1, 2, 3]",
    ),
    "dict": (
        lambda scaled: scaled.scaling.update(one=2.0),
        "'scaling' of '0' (Scaled) was {'one': 1.0} when the extractor was made and is {'one': 2.0}",
    ),
    "object": (
        lambda scaled: setattr(scaled.config, "doubles", False),
        "'config' of '0' (Scaled) was Configuration(doubles=True, _way='plain') when the extractor was made and is "
        "Configuration(doubles=False, _way='plain')",
    ),
    "property": (
        lambda scaled: setattr(scaled.config, "_way", "other"),
        "'config' of '0' (Scaled) was Configuration(doubles=True, _way='plain') when the extractor was made and is "
        "Configuration(doubles=True, _way='other')",
    ),
    "module that was not there": (
        lambda scaled: setattr(scaled, "adapter", nn.Identity()),
        "'adapter' of '0' (Scaled) was not set when the extractor was made and is a tensor or a module",
    ),
    "number that was not there": (
        lambda scaled: setattr(scaled, "late", 2.0),
        "'late' of '0' (Scaled) was not set when the extractor was made and is 2.0",
    ),
    "attribute of the class": (
        lambda scaled: setattr(scaled, "factor", 3.0),
        "'factor' of '0' (Scaled) was 2.0 when the extractor was made and is 3.0",
    ),
    "attribute of a child": (
        lambda scaled: setattr(scaled.drop, "p", 0.9),
        "'p' of '0.drop' (Dropout) was 0.5 when the extractor was made and is 0.9",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_set_after_wrapping_is_named(name):
    model, extractor = build()
    change, about = CHANGES[name]
    change(model[0])
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(X)
    assert str(error.value) == again(about)


def test_what_was_set_may_be_set_back():
    model, extractor = build()
    model[0].on = False
    model[0].on = True
    assert torch.equal(extractor(X)["1"], model(X))


@pytest.mark.parametrize(
    "change",
    [
        lambda scaled: setattr(scaled, "unrelated", 4),
        lambda scaled: setattr(scaled, "new", 4),
        lambda scaled: setattr(scaled.config, "title", "other"),
        lambda scaled: setattr(scaled, "pair", (1, 2)),
        lambda scaled: setattr(scaled, "steps", [1, 2]),
        lambda scaled: setattr(scaled.w, "bias", None),
        lambda scaled: scaled.w.register_forward_hook(lambda module, args, result: result * 2),
    ],
)
def test_what_no_opened_code_read_is_followed_or_of_no_matter(change):
    model, extractor = build()
    change(model[0])
    assert torch.equal(extractor(X)["1"], model(X))


class Lora(nn.Module):
    def __init__(self):
        super().__init__()
        self.base_layer = nn.Linear(8, 8)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 8)})
        self.scaling, self.merged_adapters, self._disable_adapters, self.active = (
            {"default": 2.0},
            [],
            False,
            ["default"],
        )

    @property
    def merged(self):
        return bool(self.merged_adapters)

    def merge(self):
        with torch.no_grad():
            delta = self.lora_B["default"].weight @ self.lora_A["default"].weight
            self.base_layer.weight += self.scaling["default"] * delta
        self.merged_adapters.append("default")

    def forward(self, x):
        result = self.base_layer(x)
        if self._disable_adapters or self.merged:
            return result
        for name in self.active:
            result = result + self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
        return result


@pytest.mark.parametrize(
    "change",
    [
        lambda lora: lora.merge(),
        lambda lora: setattr(lora, "_disable_adapters", True),
        lambda lora: lora.active.clear(),
        lambda lora: lora.scaling.update(default=4.0),
    ],
)
def test_adapters_that_are_merged_or_switched_off(change):
    model = nn.Sequential(Lora(), nn.Linear(8, 8)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["0.base_layer", "1"], example_inputs=X)
    assert torch.equal(extractor(X)["1"], model(X))
    change(model[0])
    with pytest.raises(
        fxfeat.GuardError, match=r"^'(merged_adapters|_disable_adapters|active|scaling)' of '0' \(Lora\)"
    ):
        extractor(X)


@pytest.mark.parametrize(
    ("change", "where", "now", "then"),
    [
        (lambda model, extractor: model[0].train(), "'0' (Scaled)", "train", "eval"),
        (lambda model, extractor: model.train(), "'0' (Scaled)", "train", "eval"),
        (lambda model, extractor: extractor.get_submodule("0").train(), "'0' (OpenedScaled)", "train", "eval"),
        (lambda model, extractor: (model.train(), extractor.train(), model.eval()), "'0' (Scaled)", "eval", "train"),
    ],
)
def test_a_mode_that_opened_code_went_by_is_named(change, where, now, then):
    model, extractor = build()
    change(model, extractor)
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(X)
    assert str(error.value) == (
        f"{where} is in {now} mode, and the extractor runs what was written out of it in {then} mode. Set the mode of "
        f"the extractor by {now}(), or create it again."
    )


def test_modes_are_set_on_the_extractor_and_the_model_in_any_order():
    model, extractor = build()
    for training in (True, False, True):
        extractor.train(training)(X)
        model.train(training)
        extractor(X)
    for training in (False, True, False):
        model.train(training)
        extractor.train(training)(X)
    assert torch.equal(extractor(X)["1"], model(X))


@pytest.mark.parametrize("path", ["", "0"])
@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_hooks_that_are_put_on_opened_modules_later(path, register):
    model, extractor = build()
    handle = getattr(model.get_submodule(path), register)(lambda *details: None)
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(X)
    where = "'0' (Scaled)" if path else "the Sequential"
    assert str(error.value) == (
        f"A hook was put on {where}, or taken off, since the extractor was made, whose code is written out: it would "
        "not run. Create the extractor again, or set it back."
    )
    handle.remove()
    assert torch.equal(extractor(X)["1"], model(X))


def test_a_forward_that_is_replaced():
    model, extractor = build()
    model[0].forward = types.MethodType(lambda self, x: self.w(x), model[0])
    with pytest.raises(fxfeat.GuardError, match=r"^'forward' of '0' \(Scaled\) was <function "):
        extractor(X)


@pytest.mark.parametrize("name", ["scale", "steps", "forward", "late"])
def test_what_stands_for_an_opened_module_is_not_given_what_is_written_out(name):
    _, extractor = build()
    with pytest.raises(fxfeat.GuardError) as error:
        setattr(extractor.get_submodule("0"), name, 2)
    assert str(error.value) == (
        f"{name!r} was written into the extractor's code as it was, so setting it here would change nothing. Set it on "
        "the model, and create the extractor again."
    )
    extractor.get_submodule("0").unrelated = 4


def test_an_extractor_is_not_given_what_is_written_out():
    extractor = fxfeat.create_feature_extractor(Scaled().eval(), ["w", "output"], example_inputs=X)
    with pytest.raises(fxfeat.GuardError, match=r"^'on' was written into the extractor's code as it was"):
        extractor.on = False


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_follows_nothing_of_the_original(copied):
    model, extractor = build()
    expected, twin = model(X), copied(extractor)
    model[0].on = False
    model[0].train()
    assert torch.equal(twin(X)["1"], expected)
    with pytest.raises(fxfeat.GuardError, match=r"^'on' was written into"):
        twin.get_submodule("0").on = False
    twin.get_submodule("0").train()
    with pytest.raises(fxfeat.GuardError, match=r"^'0' \(OpenedScaled\) is in train mode"):
        twin(X)


def test_the_original_is_not_kept_alive():
    model, extractor = build()
    outer, inner = weakref.ref(model), weakref.ref(model[0])
    del model
    gc.collect()
    assert outer() is None and inner() is None
    extractor(X)


@pytest.mark.parametrize("strict", [False, True])
def test_compiled_and_exported_code_has_no_check(strict):
    model, extractor = build()
    assert torch.equal(torch.compile(extractor, backend="eager", fullgraph=True)(X)["1"], model(X))
    exported = torch.export.export(extractor, (X,), strict=strict)
    assert torch.equal(exported.module()(X)["1"], model(X))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.calls, self.seen = nn.Linear(8, 8), 0, {}

    def forward(self, x):
        self.calls += 1
        self.seen[x.shape] = self.calls
        return self.w(x) * 2


def test_what_the_model_counts_by_itself_is_its_own():
    model = nn.Sequential(Counting(), nn.Linear(8, 8)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["0.w", "1"], example_inputs=X)
    for _ in range(3):
        assert torch.equal(extractor(X)["1"], model(X))


class HoldsValues(nn.Module):
    """Opened code reads an array of NumPy's, and tensors in a list, in a dict and of an object."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.weights, self.bag = np.array([1.0, 2.0]), [torch.ones(4)]
        self.table, self.box = {"shift": torch.ones(4)}, types.SimpleNamespace(shift=torch.ones(4))

    def forward(self, x):
        y = self.last(self.first(x)) * float(self.weights.sum())
        return y + self.bag[0] + self.table["shift"] + self.box.shift


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weights", lambda model: model.weights.__setitem__(0, 5.0)),
        ("weights", lambda model: setattr(model, "weights", np.array([9.0, 9.0]))),
        ("weights", lambda model: setattr(model, "weights", np.array([1.0, 2.0], dtype=np.float32))),
        ("bag", lambda model: model.bag.__setitem__(0, torch.zeros(4))),
        ("table", lambda model: model.table.update(shift=torch.zeros(4))),
        ("box", lambda model: setattr(model.box, "shift", torch.zeros(4))),
    ],
)
def test_what_arrays_and_containers_hold_is_looked_at(name, change):
    model, x = HoldsValues().eval(), torch.rand(2, 4)
    extractor = fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=x)
    assert torch.equal(extractor(x)["output"], model(x))
    change(model)
    with pytest.raises(fxfeat.GuardError, match=rf"^'{name}' of the HoldsValues was .* and its code is written out as"):
        extractor(x)


def test_equal_arrays_and_tensors_that_are_written_to_stay():
    model, x = HoldsValues().eval(), torch.rand(2, 4)
    extractor = fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=x)
    model.weights = np.array([1.0, 2.0])
    model.bag[0].mul_(2)
    model.table["shift"].mul_(3)
    assert torch.equal(extractor(x)["output"], model(x))
    again = copy.deepcopy(extractor)
    assert torch.equal(again(x)["output"], model(x))


class ReadsItsTable(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.first, self.last, self.scale, self.by = nn.Linear(8, 8), nn.Linear(8, 8), 2.0, by

    def forward(self, x):
        table = self.__dict__ if self.by == "name" else vars(self)
        return self.last(self.first(x) * table["scale"])


@pytest.mark.parametrize("by", ["name", "vars"])
def test_settings_read_from_a_modules_table_are_watched(by):
    model = ReadsItsTable(by).eval()
    extractor = fxfeat.create_feature_extractor(model, ["last"], example_inputs=X)
    assert torch.equal(extractor(X)["last"], model(X))
    model.scale = 3.0
    with pytest.raises(
        fxfeat.GuardError, match=r"'scale' of the ReadsItsTable was 2.0 when the extractor was made and"
    ):
        extractor(X)


class Looked:
    """Finds what is asked for in a table of its own, as configurations do."""

    def __init__(self, **content):
        self.__dict__["_content"] = content

    def __getattr__(self, name):
        return self._content[name]

    def __setattr__(self, name, value):
        self._content[name] = value


class Configured(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.config, self.act = Looked(scale=2.0), functools.partial(F.leaky_relu, negative_slope=0.5)

    def forward(self, x):
        return self.last(self.act(self.first(x)) * self.config.scale)


LATER = {
    "config": lambda model: setattr(model.config, "scale", 3.0),
    "act": lambda model: model.act.keywords.update(negative_slope=0.1),
}


@pytest.mark.parametrize("name", LATER)
def test_settings_that_objects_find_themselves_are_watched(name):
    model = Configured().eval()
    extractor = fxfeat.create_feature_extractor(model, ["last"], example_inputs=X)
    assert torch.equal(extractor(X)["last"], model(X))
    LATER[name](model)
    with pytest.raises(
        fxfeat.GuardError, match=f"'{name}' of the Configured was .* when the extractor was made and is"
    ):
        extractor(X)
