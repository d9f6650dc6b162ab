"""Hooks on all modules that come and go after an extractor was made."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.flop_counter import FlopCounterMode

import fxfeat

X = torch.linspace(-1, 1, 12).reshape(3, 4)
MESSAGE = (
    "A hook was put on all modules, or taken off, since the extractor was made: it would not run for those whose code "
    "is written out. Create the extractor again, or set it back."
)
REGISTER = {
    "forward": lambda hook: torch_module.register_module_forward_hook(hook),
    "always": lambda hook: torch_module.register_module_forward_hook(hook, always_call=True),
    "keywords": lambda hook: torch_module.register_module_forward_hook(hook, with_kwargs=True),
    "before": lambda hook: torch_module.register_module_forward_pre_hook(hook),
    "backward": lambda hook: torch_module.register_module_full_backward_hook(hook),
    "before backward": lambda hook: torch_module.register_module_full_backward_pre_hook(hook),
}


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    # Torch leaves them behind when a hook is taken off.
    torch_module._global_forward_hooks_with_kwargs.clear()
    torch_module._global_is_full_backward_hook = None


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) + 1


def build(names=("0.layer", "1"), **options):
    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.Linear(4, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, fxfeat.create_feature_extractor(model, list(names), example_inputs=X, **options)


def same(extractor, model):
    return torch.equal(extractor(X)["1"], model(X))


@pytest.mark.parametrize("name", REGISTER)
def test_a_hook_that_comes_later_is_named(name):
    model, extractor = build()
    handle = REGISTER[name](lambda *details: None)
    try:
        with pytest.raises(fxfeat.GuardError) as error:
            extractor(X)
    finally:
        handle.remove()
    assert str(error.value) == MESSAGE
    assert same(extractor, model)


class Doubling:
    def __call__(self, module, args, result):
        return result * 2 if isinstance(module, Block) else None

    def hook(self, module, args, result):
        return self(module, args, result)


@pytest.mark.parametrize("hook", [Doubling(), Doubling().hook])
def test_a_hook_that_goes_is_named_and_one_that_stays_is_followed(hook):
    handle = torch_module.register_module_forward_hook(hook)
    try:
        model, extractor = build()
        assert same(extractor, model)
    finally:
        handle.remove()
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(X)
    assert str(error.value) == MESSAGE


def test_one_hook_in_place_of_another_is_named():
    first = torch_module.register_module_forward_hook(Doubling())
    _, extractor = build()
    first.remove()
    second = torch_module.register_module_forward_hook(Doubling())
    try:
        with pytest.raises(fxfeat.GuardError, match=r"^A hook was put on all modules"):
            extractor(X)
    finally:
        second.remove()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_looks_too(copied):
    _, extractor = build()
    twin = copied(extractor)
    handle = torch_module.register_module_forward_hook(Doubling())
    try:
        with pytest.raises(fxfeat.GuardError, match=r"^A hook was put on all modules"):
            twin(X)
    finally:
        handle.remove()


def test_modules_that_run_whole_run_their_hooks():
    model, extractor = build(engine="tap")
    handle = torch_module.register_module_forward_hook(Doubling())
    try:
        assert same(extractor, model)
    finally:
        handle.remove()


def test_torch_may_count():
    model, extractor = build()
    with FlopCounterMode(display=False) as counter:
        assert same(extractor, model)
    assert counter.get_total_flops() > 0


def test_backward_hooks_on_all_modules_are_refused_or_run():
    handle = torch_module.register_module_full_backward_hook(lambda module, before, after: None)
    try:
        with pytest.raises(fxfeat.TraceError, match="a backward hook sits on all modules"):
            build(engine="code")
        model, extractor = build()
        assert extractor.tapped
        assert same(extractor, model)
    finally:
        handle.remove()
