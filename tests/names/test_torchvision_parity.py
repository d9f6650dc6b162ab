"""The names of torchvision's own models are torchvision's."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from torch import fx
from torchvision.models.feature_extraction import NodePathTracer, _set_default_tracer_kwargs
from torchvision.models.feature_extraction import get_graph_node_names as torchvisions_names

import fxfeat

IMAGE = (1, 3, 224, 224)
MODELS = {
    "resnet18": IMAGE,
    "vgg11": IMAGE,
    "densenet121": IMAGE,
    "googlenet": IMAGE,
    "shufflenet_v2_x0_5": IMAGE,
    "mobilenet_v3_small": IMAGE,
    "efficientnet_b0": IMAGE,
    "squeezenet1_0": IMAGE,
    "swin_t": IMAGE,
    "r3d_18": (1, 3, 8, 112, 112),
    "regnet_y_400mf": IMAGE,
    "mnasnet0_5": IMAGE,
}


class Keeper(fx.Interpreter):
    """Runs a graph on meta tensors and notes which nodes give tensors."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.kept: set[fx.Node] = set()

    def run_node(self, n: fx.Node):
        result = super().run_node(n)
        parts = result if isinstance(result, (tuple, list)) else [result]
        if any(isinstance(part, torch.Tensor) for part in parts):
            self.kept.add(n)
        return result


def tensor_names(model: torch.nn.Module, size: tuple[int, ...]) -> list[str]:
    """List torchvision's names of the nodes that give tensors in the model's current mode."""
    tracer = NodePathTracer(**_set_default_tracer_kwargs(None))
    graph = tracer.trace(model)
    keeper = Keeper(fx.GraphModule(model, graph))
    with torch.no_grad():
        keeper.run(torch.zeros(size, device="meta"))
    names = tracer.node_to_qualname
    return [names[node] for node in graph.nodes if node.op != "output" and node in names and node in keeper.kept]


@pytest.mark.parametrize("name", MODELS)
def test_names_are_torchvisions(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    size = MODELS[name]
    model = torchvision.models.get_model(name, **options).to("meta")
    train, evaluation = fxfeat.get_graph_node_names(
        model, suppress_diff_warning=True, example_inputs=torch.zeros((2, *size[1:]), device="meta")
    )
    assert evaluation == tensor_names(model.eval(), size)
    assert train == tensor_names(model.train(), (2, *size[1:]))


def test_the_oracle_agrees_with_torchvisions_public_function():
    model = torchvision.models.resnet18()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, evaluation = torchvisions_names(model)
    assert tensor_names(model.eval().to("meta"), IMAGE) == evaluation


@pytest.mark.parametrize("names", [["layer1", "layer2.0.relu_1", "flatten"], ["x", "fc"]])
def test_features_are_torchvisions(names):
    from torchvision.models.feature_extraction import create_feature_extractor as torchvisions

    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    image = torch.randn(2, 3, 32, 32)
    theirs = torchvisions(model, list(names))(image)
    mine = fxfeat.create_feature_extractor(model, list(names), example_inputs=image)(image)
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in names if name != "layer1")
    assert all(mine[name].shape == theirs[name].shape for name in names)
