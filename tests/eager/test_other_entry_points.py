"""Extractors of other methods than forward, any mapping as inputs, and verify on all that example_inputs takes."""

import collections
import copy

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import frozen, same

IMAGE = torch.rand(2, 3, 8, 8)
WORDS = torch.randint(0, 10, (2, 5))


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.text = nn.Embedding(10, 4)
        self.norm = nn.BatchNorm1d(4)
        self.scale = 2

    def encode_image(self, image):
        return self.norm(self.vision(image)) * self.scale

    def encode_text(self, ids, mask=None):
        words = self.text(ids)
        return {"words": words, "pooled": (words if mask is None else words * mask[..., None]).sum(1)}

    def similar(self, image, ids):
        """Runs the model itself."""
        return self(image, ids).softmax(-1)

    def forward(self, image, ids):
        return self.encode_image(image) @ self.encode_text(ids)["pooled"].T


@pytest.mark.parametrize("training", [False, True])
def test_image_encoder(training):
    model = Clip().train(training)
    with frozen(model):
        extractor = fxfeat.create_feature_extractor(
            model, ["vision.0", "vision", "output"], example_inputs=IMAGE, method="encode_image"
        )
    reference = copy.deepcopy(model)
    assert fxfeat.verify(model, extractor, IMAGE).ok
    found = extractor(IMAGE)
    assert same(found["output"], reference.encode_image(IMAGE))
    assert same(found["vision.0"], reference.vision[0](IMAGE))
    assert "text" not in extractor.code and "text.weight" not in extractor.state_dict()


def test_inputs_are_worked_out_by_the_methods_signature():
    extractor = fxfeat.create_feature_extractor(Clip(), ["text", "output['pooled']"], method="encode_text")
    assert extractor(WORDS)["output['pooled']"].shape == (2, 4)
    assert list(fxfeat.create_feature_extractor(Clip(), ["vision.1"], method="encode_image")(IMAGE)) == ["vision.1"]


def test_names_are_those_of_the_methods_run():
    _, names = fxfeat.get_graph_node_names(Clip().eval(), method="encode_image")
    assert names == ["image", "vision.0", "vision.1", "vision.2", "vision.3", "norm", "mul"]
    with pytest.raises(fxfeat.NodeNotFoundError, match=r"^'text' is a module of Clip, but its forward does not run"):
        fxfeat.create_feature_extractor(Clip(), ["text"], example_inputs=IMAGE, method="encode_image")


def test_a_method_that_runs_the_model_itself():
    model = Clip().eval()
    extractor = fxfeat.create_feature_extractor(
        model, ["vision", "output"], example_inputs=(IMAGE, WORDS), method="similar"
    )
    assert same(extractor(IMAGE, WORDS)["output"], model.similar(IMAGE, WORDS))
    assert fxfeat.verify(model, extractor, IMAGE, WORDS).ok


def test_hooks_of_the_model_do_not_run_where_the_method_does_not_run_them():
    model = Clip().eval()
    model.register_forward_hook(lambda module, args, result: result * 100)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=IMAGE, method="encode_image")
    assert same(extractor(IMAGE)["output"], model.encode_image(IMAGE))
    assert len(model._forward_hooks) == 1


def test_values_are_replaced_in_methods_too():
    model = Clip().eval()
    extractor = fxfeat.create_feature_extractor(
        model, ["output"], example_inputs=IMAGE, method="encode_image", replace={"vision": torch.neg}
    )
    assert same(extractor(IMAGE)["output"], model.norm(-model.vision(IMAGE)) * 2)
    assert fxfeat.verify(model, extractor, IMAGE).ok


def test_copies_compile_and_export():
    model = Clip().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=IMAGE, method="encode_image")
    expected = model.encode_image(IMAGE)
    assert same(copy.deepcopy(extractor)(IMAGE)["output"], expected)
    assert same(torch.compile(extractor, fullgraph=True, backend="eager")(IMAGE)["output"], expected)
    assert same(torch.export.export(extractor, (IMAGE,)).module()(IMAGE)["output"], expected)


def test_what_is_set_later_is_noticed():
    model = Clip().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=IMAGE, method="encode_image")
    model.scale = 3
    with pytest.raises(fxfeat.GuardError, match="scale"):
        extractor(IMAGE)


@pytest.mark.parametrize("method", ["encode_imag", "scale", "text", 3, "__init__"])
def test_no_such_method(method):
    with pytest.raises(fxfeat.RequestError) as raised:
        fxfeat.create_feature_extractor(Clip(), ["output"], method=method)
    assert str(raised.value) == (
        f"Clip has no method {method!r} that could be run. It has encode_image, encode_text, forward, similar."
    )


def test_a_method_of_a_model_that_runs_whole():
    with pytest.raises(fxfeat.TraceError) as raised:
        fxfeat.create_feature_extractor(Clip(), ["output"], example_inputs=IMAGE, method="encode_image", engine="tap")
    assert str(raised.value) == (
        "Clip runs whole, which only its forward can: engine='tap' was asked for. So there is no extractor of "
        "'encode_image' here; ask for features outside of what cannot be written out."
    )


@pytest.mark.parametrize("kind", [dict, collections.UserDict, collections.OrderedDict, collections.ChainMap])
def test_any_mapping_of_inputs(kind):
    model = Clip().eval()
    given = kind({"image": IMAGE, "ids": WORDS})
    extractor = fxfeat.create_feature_extractor(model, ["vision", "output"], example_inputs=given)
    assert same(extractor(**given)["output"], model(IMAGE, WORDS))
    assert fxfeat.verify(model, extractor, given).ok
    assert fxfeat.verify(model, extractor, (IMAGE, WORDS)).ok


def test_a_batch_of_transformers():
    transformers = pytest.importorskip("transformers")
    model = Clip().eval()
    batch = transformers.BatchEncoding({"ids": WORDS, "mask": torch.ones(2, 5)})
    extractor = fxfeat.create_feature_extractor(
        model, ["text", "output['pooled']"], example_inputs=batch, method="encode_text"
    )
    assert fxfeat.verify(model, extractor, batch).ok


def test_verify_leaves_a_tuple_and_a_dict_that_are_one_argument():
    class Takes(nn.Module):
        def forward(self, given):
            return sum(given.values()) if isinstance(given, dict) else given[0] + given[1]

    for given in ((IMAGE, IMAGE), {"a": IMAGE, "b": IMAGE}):
        extractor = fxfeat.create_feature_extractor(Takes(), ["output"], example_inputs=(given,))
        assert fxfeat.verify(Takes(), extractor, given).ok


def test_verify_sees_what_other_values_show():
    class Clamps(nn.Module):
        def __init__(self, least):
            super().__init__()
            self.least = least

        def forward(self, x):
            return x.clamp(min=self.least)

    extractor = fxfeat.create_feature_extractor(Clamps(-1.0), ["output"], example_inputs=IMAGE)
    (row,) = fxfeat.verify(Clamps(-0.5), extractor, IMAGE).rows
    assert (row.equal, row.note) == (False, "on other values")
    assert row.max_abs_diff == pytest.approx(0.5)


def test_verify_takes_it_where_other_values_are_refused():
    class Draws(nn.Module):
        def forward(self, x):
            return torch.bernoulli(x) + 1

    extractor = fxfeat.create_feature_extractor(Draws(), ["output"], example_inputs=IMAGE)
    assert fxfeat.verify(Draws(), extractor, IMAGE).ok


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_verify_nested_tensors(layout):
    class Scales(nn.Module):
        def forward(self, x):
            return (x * 2).relu()

    nested = torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(4, 3)], layout=layout)
    extractor = fxfeat.create_feature_extractor(Scales(), ["mul", "output"], example_inputs=torch.rand(2, 3))
    try:
        extractor(nested)
    except fxfeat.GuardError:
        pytest.skip("the extractor refuses nested tensors, which is as right")
    assert fxfeat.verify(Scales(), extractor, nested).ok
