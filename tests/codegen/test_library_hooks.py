"""Hooks that a library puts on its own modules at a later call, and those that others put there."""

from __future__ import annotations

import sysconfig
from typing import Any

import pytest
import torch
from torch import nn

import fxfeat

IMAGE = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
LIBRARY = """
import torch
from torch import nn

seen = []


def look(module, args, output):
    seen.append(output)


def look_or_leave(module, args, output):
    if not seen:
        return
    seen.append(args[0])
    return None


def change(module, args, output):
    return output + 1


def change_or_leave(module, args, output):
    return output * 2 if module.training is False else None


def overwrite(module, args, output):
    output.add_(1)


def put(module, args, output):
    output[0] = 1


def keep(module, args, output):
    module.last = output


class Caller:
    def __call__(self, module, args, output):
        return None


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))) + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x) * 2
"""


def read_library(place: str) -> dict[str, Any]:
    """Read the source of a library as if it stood at a place."""
    names: dict[str, Any] = {"__name__": "somelib.nets"}
    exec(compile(LIBRARY, f"{place}/somelib/nets.py", "exec"), names)
    return names


INSTALLED = read_library(sysconfig.get_path("purelib"))


@pytest.mark.parametrize("hook", ["look", "look_or_leave"])
def test_what_a_library_looks_at_is_let_be(hook):
    model = INSTALLED["Net"]().eval()
    extractor = fxfeat.create_feature_extractor(model, ["block.first", "block"], example_inputs=IMAGE)
    model.block.register_forward_hook(INSTALLED[hook])
    model.register_forward_hook(INSTALLED[hook])
    values = extractor(IMAGE)
    assert torch.equal(values["block.first"], model.block.first(IMAGE))
    assert torch.equal(values["block"], model.block(IMAGE))


@pytest.mark.parametrize("hook", ["change", "change_or_leave", "overwrite", "put", "keep"])
def test_what_changes_a_value_is_refused(hook):
    _refuses(INSTALLED["Net"](), INSTALLED[hook], nn.Module.register_forward_hook)


def _refuses(model: nn.Module, hook: Any, register: Any) -> None:
    model = model.eval()
    extractor = fxfeat.create_feature_extractor(model, ["block.first"], example_inputs=IMAGE)
    register(model.block, hook)
    with pytest.raises(fxfeat.GuardError) as caught:
        extractor(IMAGE)
    assert str(caught.value) == (
        "A hook was put on 'block' (Block), or taken off, since the extractor was made, whose code is written out: it "
        "would not run. Create the extractor again, or set it back."
    )


def test_an_object_that_is_called_is_refused():
    _refuses(INSTALLED["Net"](), INSTALLED["Caller"](), nn.Module.register_forward_hook)


def test_a_hook_before_is_refused():
    _refuses(INSTALLED["Net"](), lambda module, args: None, nn.Module.register_forward_pre_hook)


def test_the_users_own_hook_is_refused():
    _refuses(INSTALLED["Net"](), lambda module, args, output: None, nn.Module.register_forward_hook)


def test_code_that_is_not_installed_is_the_users():
    own = read_library("/home/user")
    _refuses(own["Net"](), own["look"], nn.Module.register_forward_hook)


def test_a_users_hook_beside_a_librarys_is_refused():
    model = INSTALLED["Net"]()
    extractor = fxfeat.create_feature_extractor(model.eval(), ["block.first"], example_inputs=IMAGE)
    model.block.register_forward_hook(INSTALLED["look"])
    extractor(IMAGE)
    model.block.register_forward_hook(lambda module, args, output: None)
    with pytest.raises(fxfeat.GuardError, match=r"^A hook was put on 'block'"):
        extractor(IMAGE)
