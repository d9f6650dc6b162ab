"""Classes that change a checkpoint before it is loaded: opened, they cannot, and the error says so."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import MLPBlock

import fxfeat

X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.new = nn.Linear(4, 4)

    def forward(self, x):
        return self.new(x) + 1


def rename(state, prefix):
    for key in [key for key in state if key.startswith(f"{prefix}old.")]:
        state[key.replace("old.", "new.")] = state.pop(key)


class PrivateHook(Block):
    def __init__(self):
        super().__init__()
        self._register_load_state_dict_pre_hook(self.renamed)

    def renamed(self, state, prefix, *others):
        rename(state, prefix)


class PublicHook(Block):
    def __init__(self):
        super().__init__()
        self.register_load_state_dict_pre_hook(lambda module, state, prefix, *others: rename(state, prefix))


class WithModule(Block):
    def __init__(self):
        super().__init__()
        hook = lambda module, state, prefix, *others: rename(state, prefix)  # noqa: E731
        self._register_load_state_dict_pre_hook(hook, with_module=True)


class Overridden(Block):
    def _load_from_state_dict(self, state_dict, prefix, *others):
        rename(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)


class Versioned(Block):
    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
        if local_metadata.get("version", 1) < 2:
            rename(state_dict, prefix)
            weight = f"{prefix}new.weight"
            state_dict[weight] = state_dict[weight].T
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


CLASSES = [PrivateHook, PublicHook, WithModule, Overridden, Versioned]
PLACES = {
    "root": (lambda block: block, ["new", "output"]),
    "child": (lambda block: nn.Sequential(block, nn.Linear(4, 2)), ["0.new", "output"]),
    "deep": (lambda block: nn.Sequential(nn.Sequential(block), nn.Linear(4, 2)), ["0.0.new", "output"]),
}


def build(cls, place="child"):
    torch.manual_seed(0)
    around, names = PLACES[place]
    model = around(cls()).eval()
    return model, fxfeat.create_feature_extractor(model, names, example_inputs=X)


def message(name):
    return (
        f"{name} changes what is loaded into it, as for names in older checkpoints, and its code is written out, so "
        "that this would not run. Load the checkpoint into the model, then create the extractor again."
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("cls", CLASSES)
def test_old_names_are_explained(cls, place, strict):
    model, extractor = build(cls, place)
    state = {key.replace("new", "old"): torch.ones_like(value) for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError) as error:
        extractor.load_state_dict(state, strict=strict)
    assert message(cls.__name__) in str(error.value)
    assert not model.load_state_dict(state).missing_keys


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("cls", CLASSES)
def test_what_an_extractor_saved_is_loaded(cls, place):
    _, extractor = build(cls, place)
    model, other = build(cls, place)
    state = {key: torch.full_like(value, 0.5) for key, value in extractor.state_dict().items()}
    saved = extractor.state_dict()
    saved.update(state)
    for given in (state, saved):
        assert str(other.load_state_dict(given)) == "<All keys matched successfully>"
    assert torch.equal(other(X)["output"], model(X))
    model.load_state_dict(saved)
    assert torch.equal(other(X)["output"], model(X))


def test_an_older_version_is_told_by_what_is_saved_with_it():
    model, extractor = build(Versioned)
    state = model.state_dict()
    state._metadata["0"] = {"version": 1}
    with pytest.raises(RuntimeError) as error:
        extractor.load_state_dict(state)
    assert message("Versioned") in str(error.value)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_and_modules_around_say_so_too(copied):
    _, extractor = build(Overridden)
    with pytest.raises(RuntimeError, match="Overridden changes what is loaded"):
        nn.Sequential(copied(extractor)).load_state_dict({})


def test_a_module_that_stays_whole_renames():
    model = nn.Sequential(Overridden(), nn.Linear(4, 2)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["0", "1"], example_inputs=X)
    state = {key.replace("new", "old"): torch.ones_like(value) for key, value in model.state_dict().items()}
    extractor.load_state_dict(state)
    assert torch.equal(extractor(X)["1"], model(X))


def test_torchvisions_older_names():
    model = nn.Sequential(MLPBlock(4, 8, 0.0), nn.Linear(4, 2)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["0.1", "1"], example_inputs=X)
    assert extractor.state_dict()._metadata["0"] == {"version": 2}
    old = {key.replace("0.0.", "0.linear_1."): value for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="MLPBlock changes what is loaded into it"):
        extractor.load_state_dict(old)


def test_other_classes_are_loaded_as_ever():
    _, extractor = build(Block)
    assert extractor.load_state_dict({}, strict=False).missing_keys
    with pytest.raises(RuntimeError) as error:
        extractor.load_state_dict({})
    assert "changes what is loaded" not in str(error.value)
