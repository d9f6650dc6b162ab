"""Gradient checkpointing reaches features and intermediates."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from fxfeat import Backbone, RequestError
from tests.backbone import models
from tests.backbone.models import IMAGE


class Checkpointed(models.Tokens):
    """A model that checkpoints its blocks when told to, as timm's do."""

    grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = (
                torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
                if self.grad_checkpointing
                else block(x)
            )
        return self.head(self.norm(x)[:, 0])


def features(backbone, image):
    return (backbone.forward_features(image),)


def intermediates(backbone, image):
    result, maps = backbone.forward_intermediates(image)
    return (result, *maps)


def maps_alone(backbone, image):
    return tuple(backbone.forward_intermediates(image, [0, 1], intermediates_only=True))


def layers(backbone, image):
    return tuple(backbone.get_intermediate_layers(image, 2, reshape=True))


def scores(backbone, image):
    return (backbone(image),)


def to_map(tokens):
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, 4, 4)


def hooked(*names):
    """Return what runs the model itself, and copies values out of it by hooks."""

    def ask(model, image):
        seen: dict[str, torch.Tensor] = {}

        def copy(name):
            def hook(_, args, value):
                seen.setdefault(name, value.clone())

            return hook

        hooks = [model.get_submodule(name).register_forward_hook(copy(name)) for name in names if name]
        seen[""] = model(image)
        for hook in hooks:
            hook.remove()
        return tuple(to_map(seen[name]) if name.startswith("blocks") else seen[name] for name in names)

    return ask


def run(model, ran, ask):
    """Return the values, the gradients and how often the first block ran."""
    runs: list[int] = []
    hook = ran.blocks[0].norm.register_forward_hook(lambda *_: runs.append(1))
    model.zero_grad()
    image = IMAGE.clone().requires_grad_()
    values = ask(ran, image)
    sum(value.square().sum() for value in values).backward()
    hook.remove()
    return values, [image.grad, *(p.grad for p in model.parameters() if p.grad is not None)], len(runs)


@pytest.mark.parametrize(
    ("ask", "names"),
    (
        (features, ("norm",)),
        (intermediates, ("norm", "blocks.0", "blocks.1", "blocks.2")),
        (maps_alone, ("blocks.0", "blocks.1")),
        (layers, ("blocks.1", "blocks.2")),
        (scores, ("",)),
    ),
)
def test_blocks_run_again_in_the_backward_pass(ask, names):
    torch.manual_seed(0)
    model = Checkpointed().train()
    backbone = Backbone(model, example_inputs=IMAGE)
    assert run(model, backbone, ask)[2] == 1
    backbone.set_grad_checkpointing()
    model.set_grad_checkpointing()
    values, gradients, runs = run(model, backbone, ask)
    expected = run(model, model, hooked(*names))
    assert (runs, expected[2]) == (2, 2)
    assert all(map(torch.equal, values, expected[0]))
    assert all(map(torch.equal, gradients, expected[1]))
    backbone.set_grad_checkpointing(False)
    assert run(model, backbone, ask)[2] == 1


def test_a_model_that_checkpoints_already():
    model = Checkpointed().train()
    model.set_grad_checkpointing()
    assert run(model, Backbone(model, example_inputs=IMAGE), features)[2] == 2


def test_checkpointing_and_pruning_exclude_each_other():
    message = (
        "Gradient checkpointing runs the model's own code, which needs the layers that prune_intermediate_layers takes "
        "out; use one or the other."
    )
    backbone = Backbone(Checkpointed().eval(), example_inputs=IMAGE)
    backbone.set_grad_checkpointing()
    with pytest.raises(RequestError) as caught:
        backbone.prune_intermediate_layers()
    assert str(caught.value) == message
    backbone.set_grad_checkpointing(False)
    backbone.prune_intermediate_layers()
    with pytest.raises(RequestError) as caught:
        backbone.set_grad_checkpointing()
    assert str(caught.value) == message


def test_a_model_that_cannot_checkpoint():
    backbone = Backbone(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), example_inputs=IMAGE)
    with pytest.raises(RequestError) as caught:
        backbone.set_grad_checkpointing()
    assert str(caught.value) == (
        "Sequential has no set_grad_checkpointing; wrap its blocks in torch.utils.checkpoint.checkpoint in the model's "
        "own code."
    )
