"""Hooks that users put on a model before wrapping it: they run in the extractor, or are refused by name."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, assert_taps_equal_eager, run, same

X = torch.randn(2, 4)
OTHER = torch.randn(5, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.linear(x)) + x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Block()
        self.second = Block()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


INNER = ["first.linear", "second.linear"]
"""Opens the model and both blocks."""


class Watcher:
    """Keeps what a hook saw."""

    def __init__(self):
        self.seen = []

    def after(self, module, args, result):
        self.seen.append((tuple(args[0].shape), result.detach().clone()))

    def before(self, module, args):
        self.seen.append(args[0].detach().clone())


def watched(path, before=False):
    """Make a model with a hook on one of its modules, and a twin without."""
    plain = Model().eval()
    model, watcher = copy.deepcopy(plain), Watcher()
    module = model.get_submodule(path)
    if before:
        module.register_forward_pre_hook(watcher.before)
    else:
        module.register_forward_hook(watcher.after)
    return plain, model, watcher


@pytest.mark.parametrize("path", ["first", "first.act", "second.linear"])
def test_a_hook_that_looks_is_called_with_what_eager_computes(path):
    plain, model, watcher = watched(path)
    extractor = fxfeat.create_feature_extractor(model, INNER, example_inputs=X)
    assert watcher.seen == []
    extractor(OTHER)
    ((shape, result),) = watcher.seen
    theirs = Watcher()
    plain.get_submodule(path).register_forward_hook(theirs.after)
    plain(OTHER)
    assert shape == theirs.seen[0][0]
    assert same(result, theirs.seen[0][1])


@pytest.mark.parametrize("path", ["", "first", "second", "first.linear"])
def test_a_hook_before_that_looks_is_called_with_what_eager_computes(path):
    plain, model, watcher = watched(path, before=True)
    extractor = fxfeat.create_feature_extractor(model, INNER, example_inputs=X)
    assert watcher.seen == []
    extractor(OTHER)
    theirs = Watcher()
    plain.get_submodule(path).register_forward_pre_hook(theirs.before)
    plain(OTHER)
    assert len(watcher.seen) == 1
    assert same(watcher.seen[0], theirs.seen[0])


def test_a_hook_on_the_model_itself_runs_with_its_output():
    plain, model, watcher = watched("")
    extractor = fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=X)
    extractor(OTHER)
    assert same(watcher.seen[0][1], plain(OTHER))


def test_a_hook_on_the_model_itself_whose_output_is_pruned_is_refused():
    _, model, _ = watched("")
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(model, ["first"], example_inputs=X, engine="code")
    assert_taps_equal_eager(model, ["first"], X)
    assert str(caught.value) == (
        "The hook Watcher.after on the model itself would not run: it looks at a result that these features do not "
        "need. Ask for 'output' as well, or take the hook off while the extractor is made."
    )


def test_a_hook_on_an_opened_module_that_is_not_finished_is_refused():
    _, model, _ = watched("second")
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(model, ["second.linear"], example_inputs=X, engine="code")
    assert_taps_equal_eager(model, ["second.linear"], X)
    assert str(caught.value) == (
        "The hook Watcher.after on 'second' would not run: it looks at a result that these features do not "
        "need. Ask for 'second' as well, or take the hook off while the extractor is made."
    )


def test_code_of_a_hook_that_looks():
    _, model, _ = watched("first")
    code = fxfeat.create_feature_extractor(model, ["first.linear", "first"], example_inputs=X).code
    assert code.splitlines()[-2:] == [
        "    _after(self.first, (x,), first)",
        "    return {'first.linear': first_linear, 'first': first}",
    ]


def test_hooks_that_change_values():
    model = Model()
    model.first.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model.first.register_forward_hook(lambda module, args, result: result + 1)
    model.second.register_forward_hook(lambda module, args, kwargs, result: result.mul(3), with_kwargs=True)
    model.register_forward_hook(lambda module, args, result: -result)
    assert_equals_eager(model, ["first.linear", "first", "second.linear", "second", "head", "output"], X, OTHER)


def test_a_hook_that_writes_in_place():
    model = Model()
    model.second.register_forward_hook(_double)
    assert_equals_eager(model, ["second.linear", "second", "head"], X, OTHER)


def _double(module, args, result):
    result.mul_(2)


def test_a_hook_that_leaves_torch_to_look():
    model, means = Model().eval(), []
    model.first.register_forward_hook(lambda module, args, result: means.append(float(result.detach().numpy().mean())))
    extractor = fxfeat.create_feature_extractor(model, INNER, example_inputs=X)
    assert means == []
    extractor(OTHER)
    first = fxfeat.create_feature_extractor(Model().eval(), ["first"], example_inputs=X)
    first.first.load_state_dict(model.first.state_dict())
    assert means == [float(first(OTHER)["first"].detach().numpy().mean())]


def test_a_hook_that_does_two_things_at_once_is_refused():
    model, calls = Model().eval(), []

    def hook(module, args, result):
        calls.append(1)
        return result * len(calls)

    model.first.register_forward_hook(hook)
    with pytest.raises(fxfeat.TraceError, match="changes values and Python state at once"):
        fxfeat.create_feature_extractor(model, INNER, example_inputs=X, engine="code")
    assert_taps_equal_eager(model, INNER, X)
    assert calls == []
    whole = fxfeat.create_feature_extractor(model, ["second.linear"], example_inputs=X)
    whole(X)
    assert calls == [1]


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_backward_hook_on_an_opened_module_is_refused(register):
    model = Model().eval()
    getattr(model.first, register)(lambda *details: None)
    with pytest.raises(fxfeat.TraceError, match="a backward hook sits on 'first'"):
        fxfeat.create_feature_extractor(model, INNER, example_inputs=X, engine="code")
    assert_taps_equal_eager(model, INNER, X)
    fxfeat.create_feature_extractor(model, ["first", "second.linear"], example_inputs=X)


def test_weight_norm_of_the_old_kind_is_computed_at_each_call():
    model = Model()
    model.first.linear = torch.nn.utils.spectral_norm(model.first.linear)
    assert_equals_eager(model, ["first.linear", "second"], X, OTHER)


def test_global_hooks_run_in_whole_modules():
    model, fired = Model().eval(), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *rest: fired.append(module))
    try:
        extractor = fxfeat.create_feature_extractor(model, ["first"], example_inputs=X)
        fired.clear()
        run(extractor, X)
    finally:
        handle.remove()
    assert extractor.first.linear in fired


class Keeper:
    """A hook that is an object, and keeps what a decoder takes later."""

    def __init__(self):
        self.kept = None

    def __call__(self, module, args, result):
        self.kept = result


def keep(keeper, module, args, result):
    keeper.kept = result


class Decoder(nn.Module):
    def __init__(self, keeper):
        super().__init__()
        self.keeper, self.conv = keeper, nn.Conv2d(7, 2, 1)

    def forward(self, x):
        kept = self.keeper.kept
        return self.conv(torch.cat([nn.functional.interpolate(x, kept.shape[-2:]), kept], 1)).relu()


class UNet(nn.Module):
    def __init__(self, hook_of):
        super().__init__()
        keeper = Keeper()
        first = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU())
        self.encoder = nn.Sequential(first, nn.Sequential(nn.Conv2d(4, 3, 3, 2), nn.ReLU(inplace=True)))
        first.register_forward_hook(hook_of(keeper))
        self.decoder = Decoder(keeper)

    def forward(self, x):
        return self.decoder(self.encoder(x))


@pytest.mark.parametrize("hook_of", [lambda keeper: keeper, lambda keeper: functools.partial(keep, keeper)])
@pytest.mark.parametrize("names", [["decoder"], ["encoder.0.0", "decoder.conv"], ["encoder.1.0", "decoder"]])
def test_hooks_without_a_name_that_keep_what_a_decoder_takes(hook_of, names):
    model, image = UNet(hook_of).eval(), torch.rand(2, 3, 17, 17)
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=image)
    assert fxfeat.verify(model, extractor, image).ok
    assert fxfeat.verify(model, extractor, torch.rand(1, 3, 24, 20)).ok
    assert str(extractor.graph)


class KeepsShapes(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.shapes = nn.Linear(4, 4), nn.Linear(4, 4), []

    def forward(self, x):
        return self.second(self.first(x))


def look_at_shape(module, args):
    module.shapes[:] = [args[0].shape]


def test_a_hook_that_uses_what_an_opened_module_keeps():
    model, x = KeepsShapes().eval(), torch.rand(2, 4)
    model.register_forward_pre_hook(look_at_shape)
    with pytest.raises(fxfeat.TraceError):
        fxfeat.create_feature_extractor(model, ["first"], example_inputs=x, engine="code")
    with pytest.warns(UserWarning, match="runs whole"):
        extractor = fxfeat.create_feature_extractor(model, ["first"], example_inputs=x)
    assert torch.equal(extractor(torch.ones(3, 4))["first"], model.first(torch.ones(3, 4)))
    assert model.shapes == [(3, 4)]
