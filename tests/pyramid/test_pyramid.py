"""The pyramid as a module: indices, formats, names of parameters, copies."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torchvision

import fxfeat
from tests.pyramid.test_levels import IMAGE, Functional, Residual


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


@pytest.fixture(scope="module")
def pyramid(resnet):
    return fxfeat.features_only(resnet, example_inputs=IMAGE)


def maps_of(model, image):
    seen = {}
    layers = {name: getattr(model, name) for name in ("relu", "layer1", "layer2", "layer3", "layer4")}
    hooks = [
        layer.register_forward_hook(lambda _, __, result, name=name: seen.setdefault(name, result.clone()))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return [seen[name] for name in layers]


def test_maps_are_those_of_hooks(resnet, pyramid):
    image = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        found = pyramid(image)
    assert all(torch.equal(*pair) for pair in zip(found, maps_of(resnet, image), strict=True))


def test_feature_info_answers_as_timms(pyramid):
    info = pyramid.feature_info
    assert (len(info), info.out_indices) == (5, (0, 1, 2, 3, 4))
    assert info.channels() == pyramid.channels == [64, 64, 128, 256, 512]
    assert (info.channels(1), info.channels([0, -1]), info.reduction((1, 2))) == (64, [64, 512], [4, 8])
    assert info.module_name() == ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert info.get_dicts(["num_chs", "index"], 3) == {"num_chs": 256, "index": 3}
    assert info.get_dicts(["reduction"]) == [{"reduction": 2**k} for k in range(1, 6)]
    assert set(info[0]) == {"num_chs", "reduction", "module", "index", "shape", "why"}
    assert info[4]["shape"] == (1, 512, 2, 2)


@pytest.mark.parametrize(
    ("asked", "found"), [(2, (3, 4)), ((3, 1), (3, 1)), ((-1, 0), (4, 0)), ([2], (2,)), ((1, 1), (1, 1))]
)
def test_out_indices(asked, found):
    from fxfeat.pyramid.out_indices import read_out_indices
    from fxfeat.pyramid.search import search_levels
    from fxfeat.trace.setup import read_setup

    class Five(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3, 2, 1) for _ in range(5)])

        def forward(self, x):
            return self.layers(x).mean((2, 3))

    levels = search_levels(read_setup(Five(), None, None, IMAGE)).levels
    assert read_out_indices(asked, levels, flat=False) == found


def test_order_asked_is_order_returned():
    pyramid = fxfeat.features_only(Residual(), (2, 0), example_inputs=IMAGE)
    assert [held.shape[1] for held in pyramid(IMAGE)] == pyramid.channels == [8, 4]
    assert pyramid.feature_info.reduction() == [8, 2]


def test_default_leaves_out_what_is_not_reduced():
    pyramid = fxfeat.features_only(Functional(), example_inputs=IMAGE)
    assert (pyramid.feature_info.out_indices, pyramid.feature_info.reduction()) == ((1, 2), [2, 4])


LISTED = "The model has 3 levels: 0 (act, reduction 2), 1 (stage1, reduction 4), 2 (stage2, reduction 8)."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_indices": (0, 3)}, f"out_indices=(0, 3) asks for level 3. {LISTED}"),
        ({"out_indices": (-4,)}, f"out_indices=(-4,) asks for level -4. {LISTED}"),
        ({"out_indices": 4}, f"out_indices=4 asks for the last 4 levels. {LISTED}"),
        ({"out_indices": ()}, f"out_indices is empty; ask for at least one level. {LISTED}"),
        ({"out_indices": "2"}, "out_indices is '2'; it must be an int or several, as in (1, 2, 3) or 3."),
        ({"output_fmt": "CHWN"}, "output_fmt is 'CHWN'; it must be one of 'NCHW', 'NHWC', 'NLC'."),
    ],
)
def test_wrong_requests(options, message):
    with pytest.raises(fxfeat.RequestError) as caught:
        fxfeat.features_only(Residual(), example_inputs=IMAGE, **options)
    assert str(caught.value) == message


def test_formats_and_dicts(resnet):
    expected = maps_of(resnet, IMAGE)[-1]
    with torch.no_grad():
        last = fxfeat.features_only(resnet, (-1,), output_fmt="NHWC", return_dict=True, example_inputs=IMAGE)(IMAGE)
        tokens = fxfeat.features_only(resnet, (-1,), output_fmt="NLC", example_inputs=IMAGE)(IMAGE)[0]
    assert list(last) == ["4"]
    assert torch.equal(last["4"], expected.permute(0, 2, 3, 1))
    assert torch.equal(tokens, expected.flatten(2).transpose(1, 2))


def test_parameters_keep_their_names_and_are_shared(resnet):
    pyramid = fxfeat.features_only(resnet, (1, 2), example_inputs=IMAGE)
    names = set(pyramid.state_dict())
    assert names == {name for name in resnet.state_dict() if not name.startswith(("layer3", "layer4", "fc"))}
    assert pyramid.get_parameter("layer1.0.conv1.weight") is resnet.layer1[0].conv1.weight


def test_copies_move_load_and_pickle(resnet, pyramid):
    with torch.no_grad():
        expected = pyramid(IMAGE)[-1]
        double = copy.deepcopy(pyramid).double()
        assert double(IMAGE.double())[-1].dtype == torch.float64
        file = io.BytesIO()
        torch.save(pyramid, file)
        file.seek(0)
        restored = torch.load(file, weights_only=False)
        assert torch.equal(restored(IMAGE)[-1], expected)
        restored.load_state_dict({name: held * 0 for name, held in pyramid.state_dict().items()})
        assert not restored(IMAGE)[-1].any()
        assert torch.equal(pyramid(IMAGE)[-1], expected)


def test_modes_follow():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1))
    pyramid = fxfeat.features_only(model.train(), example_inputs=IMAGE)
    assert pyramid.training and pyramid.extractor.training
    pyramid(IMAGE)
    assert model[1].num_batches_tracked == 1
    pyramid.eval()
    assert not (pyramid.training or pyramid.extractor.training or model[1].training)
    pyramid(IMAGE)
    assert model[1].num_batches_tracked == 1


def test_compiles_whole(pyramid):
    compiled = torch.compile(pyramid, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(IMAGE)[-1], pyramid(IMAGE)[-1])


def test_gradients_reach_the_model(resnet, pyramid):
    resnet.zero_grad()
    pyramid(IMAGE)[1].sum().backward()
    assert resnet.conv1.weight.grad is not None and resnet.layer3[0].conv1.weight.grad is None
    resnet.zero_grad()


def test_backbone_of_transformers(pyramid):
    backbone = pyramid.as_hf_backbone()
    assert (backbone.channels, backbone.out_features[-1]) == ([64, 64, 128, 256, 512], "stage5")
    assert backbone.stage_names == ["stage1", "stage2", "stage3", "stage4", "stage5"]
    assert [backbone.stage_names[index] for index in backbone.out_indices] == backbone.out_features
    with torch.no_grad():
        found = backbone(IMAGE).feature_maps
        assert all(torch.equal(*pair) for pair in zip(found, pyramid(IMAGE), strict=True))


def test_the_model_stays_as_it_was(resnet):
    before = {name: held.clone() for name, held in resnet.state_dict().items()}
    fxfeat.features_only(resnet, 2, example_inputs=IMAGE)
    assert not resnet.training
    assert all(torch.equal(held, before[name]) for name, held in resnet.state_dict().items())


@pytest.mark.parametrize("inside", [False, True])
def test_a_pyramid_takes_the_whole_models_checkpoint(resnet, inside):
    pyramid = fxfeat.features_only(copy.deepcopy(resnet), example_inputs=IMAGE)
    other = torchvision.models.resnet18(weights=None).eval()
    state = {f"body.{name}" if inside else name: value for name, value in other.state_dict().items()}
    taking = torch.nn.ModuleDict({"body": pyramid}) if inside else pyramid
    taking.load_state_dict(state)
    assert all(map(torch.equal, pyramid(IMAGE), maps_of(other, IMAGE)))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        taking.load_state_dict({**state, "body.neck" if inside else "neck": torch.zeros(1)})
