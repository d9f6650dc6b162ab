"""``on_guard="retrace"``: an input that takes another path is recorded too."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import eager, run, same

WIDE, THIN = torch.rand(2, 3, 40, 40), torch.rand(2, 3, 16, 16)


class Gate(nn.Module):
    """Has parameters on one path only."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.wide, self.thin = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)
        self.register_buffer("shift", torch.ones(1))

    def forward(self, x):
        x = torch.dropout(self.norm(x) + self.shift, 0.5, self.training)
        if x.shape[-1] > 32:
            return self.wide(x)
        return self.thin(x)


class Steps(nn.Module):
    """Does something else for each length of a list."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, xs):
        total = self.fc(xs[0])
        for index, x in enumerate(xs[1:]):
            total = total + x * index
        return total


def make(model, names=("norm", "output"), example=WIDE, **options):
    return fxfeat.create_feature_extractor(model, list(names), example_inputs=example, on_guard="retrace", **options)


@pytest.mark.parametrize("training", [False, True])
def test_both_paths(training):
    model = Gate().train(training)
    reference = copy.deepcopy(model)
    extractor = make(model)
    keys = list(extractor.state_dict())
    assert sorted(keys) == sorted(model.state_dict())
    for image in (WIDE, THIN, WIDE, THIN, torch.rand(1, 3, 33, 50), torch.rand(1, 3, 50, 3)):
        expected, found = eager(reference, image), run(extractor, image)
        assert same(found["output"], expected["output"][0])
        assert same(found["norm"], expected["norm"][0])
    assert len(extractor.variants) == 2 and extractor.variants[0] is extractor
    assert list(extractor.state_dict()) == keys
    assert all(same(model.state_dict()[key], reference.state_dict()[key]) for key in keys)
    assert fxfeat.verify(model, extractor, THIN).ok and fxfeat.verify(model, extractor, WIDE).ok


def test_without_it_an_error_is_raised():
    extractor = fxfeat.create_feature_extractor(Gate(), ["output"], example_inputs=WIDE, on_guard="raise")
    with pytest.raises(fxfeat.GuardError):
        extractor(THIN)
    assert extractor.variants == (extractor,)


def test_gradients_reach_the_models_parameters_on_either_path():
    model = Gate().eval()
    extractor = make(model)
    for image, path in ((WIDE, model.wide), (THIN, model.thin)):
        extractor(image)["output"].sum().backward()
        assert path.weight.grad is not None
    assert model.thin.weight is dict(extractor.named_parameters())["thin.weight"]


def test_modes_are_followed():
    model = Gate().eval()
    extractor = make(model)
    extractor(THIN)
    extractor.train()
    reference = copy.deepcopy(model).train()
    assert same(run(extractor, THIN)["output"], eager(reference, THIN)["output"][0])
    extractor.eval()
    assert same(extractor(THIN)["output"], reference.eval()(THIN))


def test_a_move_is_followed():
    model = Gate().eval()
    expected = copy.deepcopy(model).double()
    extractor = make(model)
    extractor(THIN)
    extractor.double()
    for image in (THIN.double(), WIDE.double()):
        assert same(extractor(image)["output"], expected(image))


def test_the_one_not_used_for_longest_is_dropped():
    model = Steps()
    parts = torch.rand(20, 3, 2)
    extractor = make(model, ["output"], ([parts[0], parts[1]],))
    for count in (*range(3, 9), 3, 9, 10):
        assert same(extractor(list(parts[:count]))["output"], model(list(parts[:count])))
        assert len(extractor.variants) <= 8
    lengths = len(extractor.variants)
    before = extractor.variants
    extractor(list(parts[:3]))
    extractor(list(parts[:2]))
    assert lengths == 8 and set(extractor.variants) == set(before)
    extractor(list(parts[:4]))
    assert set(extractor.variants) != set(before)


def test_the_model_is_gone():
    extractor = make(Gate())
    gc.collect()
    with pytest.raises(fxfeat.GuardError) as raised:
        extractor(THIN)
    assert str(raised.value).endswith(
        "Create the extractor again with example_inputs= like this input. on_guard='retrace' cannot do that any more, "
        "for the Gate that the extractor was made from is gone. Keep it."
    )


def test_compiling_and_exporting_are_refused():
    model = Gate().eval()
    extractor = make(model)
    message = "An extractor with on_guard='retrace' records when it runs, which compiled and exported code cannot"
    with pytest.raises(fxfeat.RequestError, match=message):
        torch.export.export(extractor, (WIDE,), strict=False)
    with pytest.raises(Exception, match="on_guard='retrace' records when it runs"):
        torch.compile(extractor, fullgraph=True, backend="eager")(WIDE)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda extractor: pickle.loads(pickle.dumps(extractor))])
def test_a_copy_follows_nothing(copied):
    model = Gate().eval()
    extractor = make(model)
    extractor(THIN)
    other = copied(extractor)
    assert same(other(WIDE)["output"], model(WIDE))
    with pytest.raises(fxfeat.GuardError):
        other(THIN)


def test_hooks_on_the_extractor_run_on_either_path():
    model, seen = Gate().eval(), []
    extractor = make(model)
    extractor.register_forward_hook(lambda module, args, result: seen.append(1))
    extractor(WIDE), extractor(THIN)
    assert seen == [1, 1]


def test_a_flag_that_is_set_later():
    class Flagged(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.doubles = nn.Linear(2, 2), False

        def forward(self, x):
            x = self.inner(x)
            return x * 2 if self.doubles else x + 1

    model, x = Flagged(), torch.rand(3, 2)
    extractor = make(model, ["inner", "output"], x)
    for flag in (False, True, False):
        model.doubles = flag
        assert same(extractor(x)["output"], model(x))


def test_with_replaced_values_and_another_method():
    class Encodes(Gate):
        def encode(self, x):
            return self(x).relu()

    model = Encodes().eval()
    extractor = make(model, ["output"], method="encode", replace={"norm": torch.neg})
    for image in (WIDE, THIN):
        conv = model.wide if image is WIDE else model.thin
        assert same(extractor(image)["output"], conv(model.shift - model.norm(image)).relu())


def test_another_word():
    with pytest.raises(fxfeat.RequestError) as raised:
        fxfeat.create_feature_extractor(Gate(), ["output"], on_guard="record")
    assert str(raised.value) == "on_guard is 'record'; it must be one of 'raise', 'retrace'."


def test_an_input_that_does_not_reach_a_feature():
    class Exits(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            x = self.first(x)
            return x if x.abs().max() > 1e3 else self.second(x)

    extractor = make(Exits().eval(), ["second"], torch.rand(3, 2))
    with pytest.raises(fxfeat.GuardError, match=r"^This input takes a path on which the Exits does not compute all"):
        extractor(torch.full((3, 2), 1e8))


def test_another_child_in_the_model():
    model, x = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval(), torch.rand(3, 2)
    extractor = make(model, ["0"], x)
    extractor(x)
    model[0] = nn.Linear(2, 2)
    with pytest.raises(fxfeat.GuardError) as raised:
        extractor(x)
    assert str(raised.value) == (
        "'0.weight' of the extractor is not the model's own any more: one of the two was exchanged or put elsewhere "
        "since. Create the extractor again from a model that is where it is to run."
    )
