"""The emitted module is an ordinary one: it copies, saves, moves, casts, compiles, exports, and keeps its parts."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxfeat
from tests.oracle import assert_gradients_equal, eager, run, same

IMAGE = torch.randn(2, 3, 8, 8)
LARGER = torch.randn(3, 3, 12, 12)
NAMES = ["stem", "layer1", "layer2.0.conv", "layer2", "output"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.norm(self.conv(x)) + x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layer1 = nn.Sequential(Block(), Block())
        self.layer2 = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(4, 2)
        self.token = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("passing", torch.tensor(1.0), persistent=False)

    def forward(self, x, gain=None, *, flag: bool = True):
        x = self.stem(x) + self.token
        y = self.layer1(x) * self.scale + self.passing
        y = self.layer2(y)
        return self.fc(y.mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(self.block(self.embed(x)))


def build(training: bool = False):
    torch.manual_seed(0)
    model = Model().train(training)
    return model, fxfeat.create_feature_extractor(model, NAMES, example_inputs=IMAGE)


def assert_same_features(left, right, inputs=IMAGE):
    first, second = run(left, inputs), run(right, inputs)
    assert list(first) == list(second)
    for name in first:
        assert same(first[name], second[name]), name


# -- copies ------------------------------------------------------------------------------------------------------------


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(module):
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved_and_loaded, copy.copy])
@pytest.mark.parametrize("training", [False, True])
def test_copies(copied, training):
    _, extractor = build(training)
    twin = copied(extractor)
    assert twin.training is training
    assert twin.code == extractor.code
    assert type(twin).__name__ == type(extractor).__name__
    assert_same_features(copy.deepcopy(extractor), copy.deepcopy(twin), LARGER)
    assert (twin.stem.weight is extractor.stem.weight) is (copied is copy.copy)
    twin.train(not training)
    extractor.train(not training)
    assert_same_features(copy.deepcopy(extractor), copy.deepcopy(twin), LARGER)


def test_a_copy_of_a_copy():
    _, extractor = build()
    assert_same_features(extractor, pickled(copy.deepcopy(saved_and_loaded(extractor))))


def test_a_copy_has_a_graph():
    _, extractor = build()
    twin = pickled(extractor)
    assert len(list(twin.graph.nodes)) > 3
    assert twin.guards == extractor.guards


def test_loads_in_another_process(tmp_path):
    _, extractor = build()
    torch.save((extractor, IMAGE, run(extractor, IMAGE)), tmp_path / "extractor.pt")
    script = (
        "import torch\n"
        f"extractor, image, expected = torch.load({str(tmp_path / 'extractor.pt')!r}, weights_only=False)\n"
        "found = extractor(image)\n"
        "assert list(found) == list(expected)\n"
        "assert all(torch.equal(found[name], expected[name]) for name in found)\n"
        "print('the same')\n"
    )
    root = Path(fxfeat.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stderr


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved_and_loaded])
def test_tied_weights_stay_tied(copied):
    model, tokens = Tied(), torch.tensor([[1, 2, 3]])
    extractor = fxfeat.create_feature_extractor(model, ["embed", "block.0", "out"], example_inputs=tokens)
    assert extractor.out.weight is extractor.embed.weight
    assert extractor.out.weight is model.embed.weight
    twin = copied(extractor)
    assert twin.out.weight is twin.embed.weight
    assert len(list(twin.parameters())) == len(list(model.parameters()))
    assert_same_features(extractor, twin, tokens)


# -- parameters and state ----------------------------------------------------------------------------------------------


def test_parameters_are_shared():
    model, extractor = build()
    theirs = dict(model.named_parameters())
    for path, parameter in extractor.named_parameters():
        assert parameter is theirs[path]


@pytest.mark.parametrize("names", [["stem"], ["layer1.0.norm"], ["layer2"], ["output"], NAMES], ids="+".join)
def test_state_dict_keys_are_a_subset_and_load_strictly(names):
    model = Model()
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=IMAGE)
    keys = list(extractor.state_dict())
    everything = model.state_dict()
    assert set(keys) <= set(everything)
    other = Model().state_dict()
    extractor.load_state_dict({key: other[key] for key in keys}, strict=True)
    assert all(same(value, other[key]) for key, value in extractor.state_dict().items())


def test_nothing_of_the_head_is_kept():
    extractor = fxfeat.create_feature_extractor(Model(), ["layer1"], example_inputs=IMAGE)
    assert {key.split(".")[0] for key in extractor.state_dict()} == {"stem", "token", "layer1"}


def test_a_non_persistent_buffer_stays_one():
    _, extractor = build()
    assert "passing" not in extractor.state_dict()
    assert "passing" in dict(extractor.named_buffers())


# -- devices and dtypes ------------------------------------------------------------------------------------------------


def test_to_meta():
    _, extractor = build()
    found = copy.deepcopy(extractor).to("meta")(IMAGE.to("meta"))
    assert {name: held.shape for name, held in found.items()} == {n: h.shape for n, h in extractor(IMAGE).items()}
    assert all(held.is_meta for held in found.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_to_another_dtype(dtype):
    model, extractor = build()
    model = copy.deepcopy(model).to(dtype)
    extractor = copy.deepcopy(extractor).to(dtype)
    seen, found = eager(model, IMAGE.to(dtype)), run(extractor, IMAGE.to(dtype))
    for name in NAMES:
        assert found[name].dtype == dtype
        assert same(found[name], seen[name][-1]), name


def test_half_of_the_model_converted_before_wrapping():
    model = Model().eval().to(torch.bfloat16)
    image = IMAGE.bfloat16()
    extractor = fxfeat.create_feature_extractor(model, NAMES, example_inputs=image)
    seen, found = eager(model, image), run(extractor, image)
    assert all(same(found[name], seen[name][-1]) for name in NAMES)


def test_autocast():
    model, extractor = build()
    with torch.autocast("cpu", torch.bfloat16):
        seen, found = eager(model, IMAGE), run(extractor, IMAGE)
    assert found["stem"].dtype == torch.bfloat16
    assert all(same(found[name], seen[name][-1]) for name in NAMES)


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_gradients_through_every_feature(training):
    assert_gradients_equal(Model().train(training), NAMES, IMAGE)


def test_gradients_reach_the_input():
    model, extractor = build()
    mine, theirs = IMAGE.clone().requires_grad_(), IMAGE.clone().requires_grad_()
    extractor(mine)["layer2"].sum().backward()
    model.layer2(model.layer1(model.stem(theirs) + model.token) * model.scale + model.passing).sum().backward()
    assert same(mine.grad, theirs.grad)


def test_checkpoint():
    model, extractor = build(training=True)
    extractor = fxfeat.create_feature_extractor(model, ["layer2"], example_inputs=IMAGE)
    plain = copy.deepcopy(extractor)
    image = IMAGE.clone().requires_grad_()
    checkpoint(extractor, image, use_reentrant=False)["layer2"].sum().backward()
    plain(IMAGE)["layer2"].sum().backward()
    for (path, left), right in zip(extractor.named_parameters(), plain.parameters(), strict=True):
        assert same(left.grad, right.grad), path


def test_no_grad_and_inference_mode():
    _, extractor = build()
    with torch.no_grad():
        plain = extractor(IMAGE)
    with torch.inference_mode():
        inferred = extractor(IMAGE)
    for name in NAMES:
        assert not plain[name].requires_grad
        assert torch.equal(plain[name], inferred[name])


# -- compilers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("training", [False, True])
def test_compiles_in_one_graph(backend, training):
    torch._dynamo.reset()
    _, extractor = build(training)
    twin = copy.deepcopy(extractor)
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    assert_same_features(extractor, compiled)


def test_exports():
    _, extractor = build()
    exported = torch.export.export(extractor, (IMAGE,))
    assert_same_features(extractor, exported.module())


def test_exports_with_a_dynamic_batch():
    _, extractor = build()
    exported = torch.export.export(extractor, (IMAGE,), dynamic_shapes=({0: torch.export.Dim("n")},))
    larger = torch.randn(5, 3, 8, 8)
    assert_same_features(extractor, exported.module(), larger)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_parts_keep_their_classes():
    model, extractor = build()
    assert isinstance(extractor.layer1[0], Block)
    assert extractor.layer1 is model.layer1
    assert isinstance(extractor.layer2[1], Block)
    assert extractor.layer2[0].conv is model.layer2[0].conv


def test_hooks_on_whole_modules_fire():
    _, extractor = build()
    fired = []
    for module, name in (
        (extractor.layer1, "layer1"),
        (extractor.layer1[0], "layer1.0"),
        (extractor.layer2[1], "layer2.1"),
    ):
        module.register_forward_hook(lambda *details, name=name: fired.append(name))
    extractor(IMAGE)
    assert fired == ["layer1.0", "layer1", "layer2.1"]


def test_hooks_on_a_whole_stage_fire():
    extractor = fxfeat.create_feature_extractor(Model(), ["layer2"], example_inputs=IMAGE)
    fired = []
    extractor.layer2.register_forward_hook(lambda *details: fired.append("layer2"))
    extractor.layer2[1].conv.register_forward_hook(lambda *details: fired.append("layer2.1.conv"))
    extractor(IMAGE)
    assert fired == ["layer2.1.conv", "layer2"]


def test_a_hook_that_was_there_changes_the_result():
    model = Model().eval()
    model.layer1.register_forward_hook(lambda module, args, result: result + 1)
    extractor = fxfeat.create_feature_extractor(model, ["layer1", "layer2"], example_inputs=IMAGE)
    seen, found = eager(model, IMAGE), run(extractor, IMAGE)
    assert same(found["layer1"], seen["layer1"][0])
    assert same(found["layer2"], seen["layer2"][0])


def test_a_swapped_layer_is_the_one_that_runs():
    _, extractor = build()
    extractor.layer1[0] = nn.Identity()
    assert same(extractor(IMAGE)["layer1"], extractor.layer1(extractor(IMAGE)["stem"] + extractor.token))


# -- the signature and the rest ----------------------------------------------------------------------------------------


class Signatures:
    class Positional(nn.Linear):
        def forward(self, a, /, b, c=3, *d, e, f=None, **g):
            return super().forward(a + b)

    class Stars(nn.Linear):
        def forward(self, *tensors, **options):
            return super().forward(tensors[0])

    class Odd(nn.Linear):
        def forward(self, input, torch=None, F=(1, "two"), check=1.5):
            return super().forward(input).relu()


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        (Signatures.Positional, (torch.zeros(2, 4), torch.zeros(2, 4))),
        (Signatures.Stars, (torch.zeros(2, 4),)),
        (Signatures.Odd, (torch.zeros(2, 4),)),
    ],
    ids=["positional", "stars", "odd"],
)
@pytest.mark.parametrize("training", [False, True])
def test_the_signature_is_the_originals(kind, example, training):
    model = kind(4, 4).train(training)
    options = {"concrete_args": {"e": 1}} if kind is Signatures.Positional else {}
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=example, **options)
    theirs = inspect.signature(model.forward).parameters.values()
    mine = inspect.signature(extractor.forward).parameters.values()
    assert [(p.name, p.kind, p.default) for p in mine] == [(p.name, p.kind, p.default) for p in theirs]
    arguments = {"e": 1} if options else {}
    assert same(extractor(*example, **arguments)["output"], model(*example, **arguments))


def test_the_signature_where_modes_differ():
    class Differs(nn.Linear):
        def forward(self, input, scale=2.0):
            return super().forward(input) * scale if self.training else super().forward(input)

    model = Differs(4, 4)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=torch.zeros(2, 4))
    assert str(inspect.signature(extractor.forward)) == "(input, scale=2.0)"
    x = torch.randn(2, 4)
    for training in (True, False):
        assert same(extractor.train(training)(x)["output"], model.train(training)(x))


def test_train_and_eval_reach_every_part():
    _, extractor = build()
    extractor.train()
    assert all(module.training for module in extractor.modules())
    extractor.eval()
    assert not any(module.training for module in extractor.modules())


def test_it_starts_in_the_models_mode():
    assert build(True)[1].training
    assert not build(False)[1].training


def test_repr_and_rows():
    _, extractor = build()
    assert [(row.key, row.name, row.shape) for row in extractor.rows] == [
        ("stem", "stem", (2, 4, 8, 8)),
        ("layer1", "layer1", (2, 4, 8, 8)),
        ("layer2.0.conv", "layer2.0.conv", (2, 4, 8, 8)),
        ("layer2", "layer2", (2, 4, 8, 8)),
        ("output", "output", (2, 2)),
    ]
    assert all(row.dtype == torch.float32 for row in extractor.rows)
    assert repr(extractor).startswith(
        "FeatureExtractor(\n  'stem': (2, 4, 8, 8) float32\n  'layer1': (2, 4, 8, 8) float32\n"
    )


def test_the_graph_computes_the_same():
    _, extractor = build()
    module = torch.fx.GraphModule(extractor, extractor.graph)
    assert_same_features(extractor, module)


def test_code_is_the_source_that_runs():
    _, extractor = build()
    source = inspect.getsource(type(extractor).forward)
    assert source.startswith("def forward(self, x, gain=None, *, flag=True):\n")
    assert extractor.code.endswith(source)


def test_an_extractor_of_an_extractor():
    _, extractor = build()
    again = fxfeat.create_feature_extractor(extractor, ["layer2.0.conv", "layer1"], example_inputs=IMAGE)
    first, second = extractor(IMAGE), again(IMAGE)
    assert same(second["layer2.0.conv"], first["layer2.0.conv"])
    assert same(second["layer1"], first["layer1"])
