"""The part of a recording behind a value, as code of its own: the text that comes out."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from fxfeat import TraceError
from fxfeat.codegen.emit import emit
from fxfeat.ir.draft import Draft
from fxfeat.ir.recording import Recording
from fxfeat.names.query import NamedValue
from fxfeat.names.request import select_feature
from fxfeat.names.table import name_nodes
from fxfeat.passes.downstream import check_start, start_from
from fxfeat.passes.run_passes import PASSES, rewrite
from fxfeat.trace.setup import read_setup, record_mode

IMAGE = torch.rand(2, 3, 8, 8)


class Net(nn.Module):
    """A module that is under way at the cut, one behind it, and what the test is about in between."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)))
        self.fc = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))

    def pool(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.fc(self.pool(self.inner(x), x)).softmax(1)


def record(model: nn.Module) -> tuple[Recording, dict[str, fx.Node]]:
    recording = record_mode(read_setup(model.eval(), None, None, IMAGE), False)
    return recording, name_nodes(recording).nodes


def write(model: nn.Module, source: str, passed: tuple[str, ...] = ()) -> str:
    recording, nodes = record(model)
    behind = start_from(recording, {"y": nodes[source]}, [nodes[name] for name in passed])
    found = NamedValue("softmax", behind.copies[nodes["softmax"]], None)
    draft = Draft(behind.recording, behind.recording.graph, (select_feature(behind.recording, found, "out"),))
    return emit(rewrite(draft, (*PASSES, check_start))[0]).source.text


def test_behind_a_value_that_a_module_returned():
    assert write(Net(), "inner.1.1") == (
        "def forward(self, y):\n"
        "    y = y.mean((2, 3))\n"
        "    y = self.fc(y)\n"
        "    out = y.softmax(1)\n"
        "    return {'out': out}\n"
    )


def test_a_module_that_was_under_way_is_opened_and_later_ones_stay_whole():
    assert write(Net(), "inner.0") == (
        "def forward(self, y):\n"
        "    y = self.inner[1](y)\n"
        "    y = y.mean((2, 3))\n"
        "    y = self.fc(y)\n"
        "    out = y.softmax(1)\n"
        "    return {'out': out}\n"
    )


def test_passed_nodes_hand_on_what_they_get():
    assert write(Net(), "inner.1.1", ("fc", "softmax")) == (
        "def forward(self, y):\n    out = y.mean((2, 3))\n    return {'out': out}\n"
    )


def test_what_was_done_to_the_models_state_is_not_done_again():
    assert "calls" not in write(Net(), "inner.0")


def test_the_batch_is_read_from_the_new_input():
    class Batch(Net):
        def pool(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return x.reshape(image.shape[0], 4, -1).mean(2)

    assert "y = y.reshape(y.size(0), 4, -1)" in write(Batch(), "inner.1.1")


def test_a_value_that_is_overwritten_is_copied_first():
    class Overwriting(Net):
        def pool(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return x.mul_(2).mean((2, 3))

    assert "    y = torch.clone(y)\n    y = y.mul_(2)\n" in write(Overwriting(), "inner.1.1")


def test_other_uses_of_the_input_are_refused():
    class Skipping(Net):
        def pool(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) + image.mean()

    with pytest.raises(TraceError) as caught:
        write(Skipping(), "inner.1.1")
    assert str(caught.value) == (
        "What follows 'y' in Skipping also reads its own input 'x', so it cannot be run without it."
    )


def test_the_recording_is_not_changed():
    recording, nodes = record(Net())
    before = str(recording.graph)
    start_from(recording, {"y": nodes["inner.0"]}, [nodes["softmax"]])
    assert str(recording.graph) == before
    assert not nodes["softmax"].meta["fxfeat"].passed
