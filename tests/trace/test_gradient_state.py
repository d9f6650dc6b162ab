"""What code does to gradients, and what it asks about them, is as in eager mode, or the code is not written out."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import same

X = torch.rand(2, 4)


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.run(self.first(x)))


def model_of(run):
    torch.manual_seed(0)
    return type("Model", (Layers,), {"run": run})()


# -- what code does ----------------------------------------------------------------------------------------------------


def detaches(self, x):
    x.detach_()
    return x * 2


def detaches_by_function(self, x):
    return torch.detach_(x) * 2


def keeps_gradients(self, x):
    return x.detach().requires_grad_() * 2


def sets_requires_grad(self, x):
    x = x.detach()
    x.requires_grad = True
    return x * 2


def keeps_gradients_without_recording(self, x):
    with torch.no_grad():
        x = x.detach().requires_grad_(True)
        y = x * 2
    return y * 3 if x.requires_grad and not y.requires_grad else y * 5


def keeps_gradients_of_a_view(self, x):
    x = x.detach()
    first = x[:, None]
    first.requires_grad = True
    return first.squeeze(1) * (3 if x.requires_grad else 2)


def keeps_no_gradients(self, x):
    x = torch.ones_like(x).requires_grad_()
    x.requires_grad_(requires_grad=False)
    return x * (2 if x.requires_grad else 3)


def keeps_gradients_if_it_can(self, x):
    try:
        x.requires_grad_(False)
    except RuntimeError:
        x = x * 2
    return x


def freezes_a_parameter(self, x):
    self.second.weight.requires_grad = False
    return x * 2


def freezes_a_module_for_a_while(self, x):
    self.second.requires_grad_(False)
    x = F.linear(x, self.second.weight)
    self.second.requires_grad_(True)
    return x


def changes_a_gradient(self, x):
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient * 3)
    return x * 2


def changes_a_gradient_by_function(self, x):
    if torch.is_grad_enabled():
        torch.Tensor.register_hook(x, lambda gradient: gradient * 3)
    return x * 2


def changes_the_gradient_of_a_parameter(self, x):
    handle = self.second.weight.register_hook(lambda gradient: gradient * 3)
    x = x + self.second(x)
    self.handles = [handle]
    return x


def hooks_several(self, x):
    y = x * 2
    if y.requires_grad:
        torch.autograd.graph.register_multi_grad_hook((x, y), lambda gradients: None)
    return y


def retains(self, x):
    if x.requires_grad:
        x.retain_grad()
    return x * 2


def sets_a_gradient(self, x):
    self.second.bias.grad = torch.ones(4)
    return x * 2


def doubles_what_is_saved(self, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor * 2, lambda tensor: tensor):
        return x * self.second(x)


def takes_derivatives_forward(self, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(torch.tanh(forward_ad.make_dual(x, x))).tangent


def takes_derivatives_by_jvp(self, x):
    return torch.func.jvp(torch.tanh, (x,), (x,))[1]


ACTS = {
    detaches: "takes a tensor off the path of its gradient",
    detaches_by_function: "takes a tensor off the path of its gradient",
    keeps_gradients_if_it_can: "an error that other inputs may raise is caught",
    freezes_a_parameter: "has a tensor keep gradients",
    freezes_a_module_for_a_while: "has a tensor keep gradients",
    changes_a_gradient: "puts a hook on a gradient",
    changes_a_gradient_by_function: "puts a hook on a gradient",
    changes_the_gradient_of_a_parameter: "puts a hook on a gradient",
    hooks_several: "puts a hook on a gradient",
    retains: "has a tensor retain its gradient",
    sets_a_gradient: "sets the gradient of a tensor",
    doubles_what_is_saved: "changes what is kept for gradients",
    takes_derivatives_forward: "takes derivatives forward",
    takes_derivatives_by_jvp: "takes derivatives forward",
}


def gradients(model, output):
    model.zero_grad()
    output.sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same_gradients(model, reference, output, expected):
    assert same(output, expected)
    assert output.requires_grad == expected.requires_grad
    mine, theirs = gradients(model, output), gradients(reference, expected)
    for name in theirs:
        assert (mine[name] is None) == (theirs[name] is None), name
        assert theirs[name] is None or same(mine[name], theirs[name]), name


@pytest.mark.parametrize("run", ACTS, ids=lambda run: run.__name__)
def test_code_that_acts_on_gradients_is_tapped(run):
    model = model_of(run)
    reference = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(runs whole|jit)")
        extractor = fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=X)
    assert [part.path for part in extractor.tapped] == [""]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert_same_gradients(model, reference, extractor(X)["output"], reference(X))


@pytest.mark.filterwarnings("ignore:.*jit")
@pytest.mark.parametrize(("run", "reason"), ACTS.items(), ids=lambda run: getattr(run, "__name__", ""))
def test_code_that_acts_on_gradients_is_not_written_out(run, reason):
    with pytest.raises(fxfeat.TraceError, match=re.escape(reason)):
        fxfeat.create_feature_extractor(model_of(run), ["first", "output"], example_inputs=X, engine="code")


KEEPS = [
    *(keeps_gradients, sets_requires_grad, keeps_gradients_without_recording),
    *(keeps_gradients_of_a_view, keeps_no_gradients),
]


@pytest.mark.parametrize("run", KEEPS, ids=lambda run: run.__name__)
def test_having_a_tensor_keep_gradients_is_written_out(run):
    model = model_of(run)
    reference = copy.deepcopy(model)
    extractor = fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=X, engine="code")
    features = extractor(X)
    assert features["first"].requires_grad
    assert_same_gradients(model, reference, features["output"], reference(X))


def test_a_feature_from_before_does_not_keep_gradients():
    model = nn.Sequential(nn.Flatten(), model_of(sets_requires_grad))
    extractor = fxfeat.create_feature_extractor(model, ["1.detach", "1.second"], example_inputs=X, engine="code")
    assert "_1_detach = torch.clone(input)" in extractor.code
    features = extractor(X)
    assert not features["1.detach"].requires_grad
    assert features["1.second"].requires_grad


def test_an_input_that_is_to_keep_gradients_does():
    model = type("Model", (Layers,), {"forward": lambda self, x: self.first(x.requires_grad_()) * 2})()
    extractor = fxfeat.create_feature_extractor(model, ["first"], example_inputs=X, engine="code")
    x = X.clone()
    extractor(x)["first"].sum().backward()
    assert same(x.grad, torch.ones(2, 4) @ model.first.weight)
    assert not X.requires_grad


@pytest.mark.filterwarnings("ignore:.*jit")
@pytest.mark.parametrize(
    "run", [keeps_gradients, changes_a_gradient, retains, doubles_what_is_saved], ids=lambda run: run.__name__
)
def test_a_module_that_stays_whole_acts_on_gradients(run):
    model = nn.Sequential(nn.Linear(4, 4), model_of(run), nn.Linear(4, 2))
    reference = copy.deepcopy(model)
    extractor = fxfeat.create_feature_extractor(model, ["0", "1", "output"], example_inputs=X)
    assert not extractor.tapped
    assert_same_gradients(model, reference, extractor(X)["output"], reference(X))


# -- what code asks ----------------------------------------------------------------------------------------------------


def without_gradients(function, x):
    with torch.no_grad():
        return function(x)


QUESTIONS = {
    "a parameter is a leaf": lambda self, x: self.second.weight.is_leaf,
    "a parameter has no function": lambda self, x: self.second.weight.grad_fn is None,
    "a parameter is trained": lambda self, x: self.second.weight.requires_grad,
    "a value is a leaf": lambda self, x: x.is_leaf,
    "a value has no function": lambda self, x: x.grad_fn is None,
    "a value has a gradient": lambda self, x: x.requires_grad,
    "a detached value has a gradient": lambda self, x: x.detach().requires_grad,
    "data has a gradient": lambda self, x: x.data.requires_grad,
    "an index has a gradient": lambda self, x: x.argmax(1).requires_grad,
    "a mask has a gradient": lambda self, x: (x > 0).requires_grad,
    "zeros have a gradient": lambda self, x: torch.zeros_like(x).requires_grad,
    "a value without gradients has one": lambda self, x: without_gradients(self.second, x).requires_grad,
    "gradients are on where they are off": lambda self, x: without_gradients(lambda _: torch.is_grad_enabled(), x),
    "gradients are on, and the value has none": lambda self, x: torch.is_grad_enabled() and not x.requires_grad,
    "gradients are off, and a parameter is trained": lambda self, x: (
        self.second.weight.requires_grad and not torch.is_grad_enabled()
    ),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_answers_are_eagers_or_refused(question):
    model = model_of(lambda self, x: x * (2 if question(self, x) else 3))
    extractor = fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=X)
    assert not extractor.tapped
    assert same(extractor(X)["output"], model(X))
    for enabled, trained in ((False, True), (True, False), (False, False)):
        model.requires_grad_(trained)
        with torch.set_grad_enabled(enabled):
            assert_right_or_refused(extractor, model)


def assert_right_or_refused(extractor, model):
    try:
        value = extractor(X)["output"]
    except fxfeat.GuardError:
        return
    assert same(value, model(X))


def test_code_that_is_the_same_for_both_answers_is_not_checked():
    def run(self, x):
        if x.requires_grad and self.second.weight.requires_grad:
            assert torch.is_grad_enabled()
        return x * 2

    extractor = fxfeat.create_feature_extractor(model_of(run), ["first", "output"], example_inputs=X)
    assert not extractor.guards
    with torch.no_grad():
        assert same(extractor(X)["output"], extractor(X)["output"])


def test_code_that_goes_by_gradients_is_checked():
    model = model_of(lambda self, x: x * (2 if x.requires_grad else 3))
    extractor = fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=X)
    with torch.no_grad(), pytest.raises(fxfeat.GuardError, match="the recording saw True, this input gives False"):
        extractor(X)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (lambda self, x: self.second.weight.grad is None, "asks for the gradient of a tensor"),
        (lambda self, x: x.retains_grad, "asks whether a tensor retains its gradient"),
        (lambda self, x: x.relu()._version == 0, "asks how often a tensor was written to"),
        (lambda self, x: x.view(-1)._is_view(), "asks whether a tensor is a view"),
        (lambda self, x: x.view(-1)._base is None, "asks what a tensor is a view of"),
        (lambda self, x: torch.is_inference(x), "asks whether a tensor is of inference mode"),
    ],
)
def test_questions_that_a_graph_cannot_answer(question, reason):
    model = model_of(lambda self, x: x * (2 if question(self, x) else 3))
    with pytest.raises(fxfeat.TraceError, match=reason):
        fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=X, engine="code")


# -- derivatives taken forward, over an extractor ----------------------------------------------------------------------


def test_derivatives_forward_over_an_extractor():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    extractor = fxfeat.create_feature_extractor(model, ["0", "output"], example_inputs=X)
    for name, part in (("0", model[0]), ("output", model)):
        mine = torch.func.jvp(lambda x: extractor(x)[name], (X,), (X,))  # noqa: B023
        assert all(map(same, mine, torch.func.jvp(part, (X,), (X,))))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, X)
        mine, theirs = (forward_ad.unpack_dual(value).tangent for value in (extractor(dual)["output"], model(dual)))
        assert same(mine, theirs)


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("write", ["data", "detached", "view"])
def test_what_is_written_to_memory_that_keeps_gradients(flag, write):
    class Writes(nn.Module):
        def forward(self, x):
            y = (x + 1).requires_grad_(flag)
            with torch.no_grad():
                {"data": y.data, "detached": y.detach(), "view": y.view(-1)}[write].clamp_(max=1.5)
            return y

    x = torch.linspace(0, 1, 8).reshape(2, 4)
    extractor = fxfeat.create_feature_extractor(Writes().eval(), ["output"], example_inputs=x)
    assert torch.equal(extractor(x)["output"], Writes()(x))
