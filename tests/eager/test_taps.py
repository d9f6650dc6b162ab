"""Modules whose code cannot be written out run whole, and hooks copy the features out of them."""

from __future__ import annotations

import copy
import io
import pickle
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxfeat
from tests.oracle import eager, pick, same_value

ENGINES = ("auto", "tap")
each_engine = pytest.mark.parametrize("engine", ENGINES)
pytestmark = pytest.mark.filterwarnings("ignore:.*runs whole:UserWarning")
X = torch.linspace(-1, 1, 8).reshape(2, 4)


# -- small models, each with one module whose code cannot be written out -----------------------------------------------


class Drawing(nn.Module):
    """Goes by a number that NumPy draws."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        if np.random.uniform() < 2:
            x = self.second(x) * 2
        return self.last(torch.relu_(x))


class Model(nn.Module):
    def __init__(self, block=None):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 4), block or Drawing(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(self.stem(x)))


NAMES = ["stem", "block.first", "block.second", "block.last", "block", "output"]


def make(model, names, engine="auto", example=X, **options):
    return fxfeat.create_feature_extractor(model, names, example_inputs=example, engine=engine, **options)


def seen_by_hooks(model, names, inputs=X, grad=False):
    seen = eager(model, inputs, grad)
    return {name: pick(model, seen, name) for name in names}


def assert_as_hooks(model, extractor, names, inputs=X):
    expected = seen_by_hooks(copy.deepcopy(model), names, inputs)
    torch.manual_seed(0)
    values = extractor(copy.deepcopy(inputs))
    assert list(values) == list(names)
    for name in names:
        assert same_value(values[name], expected[name]), name


def hooks_on(model):
    return [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


# -- values ------------------------------------------------------------------------------------------------------------


@each_engine
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("names", [[name] for name in NAMES] + [NAMES, NAMES[::-1]], ids=",".join)
def test_values_are_those_of_hooks(engine, training, names):
    model = Model().train(training)
    extractor = make(copy.deepcopy(model), names, engine)
    for _ in range(2):
        assert_as_hooks(model, extractor, names)


@each_engine
def test_gradients_flow_through_every_feature(engine):
    for name in NAMES:
        model = Model()
        reference = copy.deepcopy(model)
        make(model, NAMES, engine)(X)[name].square().sum().backward()
        seen_by_hooks(reference, NAMES, grad=True)[name].square().sum().backward()
        for (path, mine), (_, theirs) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
            assert (mine.grad is None) == (theirs.grad is None), (name, path)
            assert mine.grad is None or torch.equal(mine.grad, theirs.grad), (name, path)


def test_only_the_smallest_module_runs_whole():
    model = Model()
    model.outer = nn.Sequential(model.block)
    del model.block
    model.forward = lambda x: model.head(model.outer(model.stem(x)))
    extractor = make(model, ["outer.0.second"])
    assert [path for path, _ in extractor.tapped] == ["outer.0"]
    assert "self.stem(x)" in extractor.code and "run_tapped(self, 'outer.0'" in extractor.code


def test_code_says_in_a_comment_what_runs_whole():
    lines = make(Model(), ["block.first", "head"]).code.splitlines()
    assert any("# block runs whole: random numbers are drawn from Python or NumPy." in line for line in lines)
    assert "    block, taps = run_tapped(self, 'block', x)" in lines
    assert "    return {'block.first': taps['block.first'], 'head': head}" in lines


def test_operations_are_tapped():
    model = Model().eval()
    names = ["block.mul", "block.relu_"]
    for engine in ENGINES:
        values = make(model, names, engine)(X)
        first = model.block.second(model.block.first(model.stem(X))) * 2
        assert torch.equal(values["block.mul"], first)
        assert torch.equal(values["block.relu_"], torch.relu(first))


class Repeating(nn.Module):
    """Calls one layer several times, and goes by a drawn number."""

    def __init__(self):
        super().__init__()
        self.layer, self.block = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        for _ in range(3 if random.random() < 2 else 2):
            x = self.block(self.layer(x))
        return x + 1


@each_engine
def test_calls_are_counted(engine):
    names = ["block.layer", "block.layer@1", "block.layer_2", "block.block", "block.block@0", "block.block.0@1"]
    model = Model(Repeating())
    extractor = make(copy.deepcopy(model), names, engine)
    expected = seen_by_hooks(model, [name for name in names if name != "block.layer_2"])
    expected["block.layer_2"] = pick(model, eager(model, X), "block.layer@2")
    values = extractor(X)
    for name in names:
        assert torch.equal(values[name], expected[name]), name


class Twice(nn.Module):
    """Calls the module that cannot be written out two times."""

    def __init__(self):
        super().__init__()
        self.block = Drawing()

    def forward(self, x):
        return self.block(self.block(x) + 1)


@each_engine
def test_calls_are_counted_from_the_start_of_each_tapped_call(engine):
    model = Twice()
    names = ["block.first", "block.first@1", "block.last@1", "block.last"]
    extractor = make(copy.deepcopy(model), names, engine)
    assert_as_hooks(model, extractor, names)
    if engine == "auto":
        assert "run_tapped(self, 'block', x)" in extractor.code
        assert "run_tapped(self, 'block@1', " in extractor.code


class Returning(nn.Module):
    """Returns a tuple that holds a dict."""

    def __init__(self):
        super().__init__()
        self.layer, self.inner = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        if np.random.uniform() > 2:
            return x
        y, state = self.inner(self.layer(x)[None])
        return y[0].mul_(2) + state[0].sum()


@each_engine
def test_elements_of_what_a_module_returns(engine):
    names = ["block.inner[0]", "block.inner[1][0]", "block.inner"]
    model = Model(Returning())
    assert_as_hooks(model, make(copy.deepcopy(model), names, engine), names)


# -- the run stops, and what it uses -----------------------------------------------------------------------------------


class Counting(nn.Linear):
    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return super().forward(x)


@each_engine
def test_the_run_stops_behind_the_last_feature(engine):
    model = Model()
    extractor = make(model, ["block.first", "block.second"], engine)
    ran = []
    for path in ("block.first", "block.second", "block.last", "head"):
        model.get_submodule(path).register_forward_hook(lambda *held, path=path: ran.append(path))
    extractor(X)
    assert ran == ["block.first", "block.second"]


@each_engine
def test_parameters_behind_the_last_feature_are_not_kept(engine):
    model = Model()
    keys = set(make(model, ["block.second"], engine).state_dict())
    assert keys < set(model.state_dict())
    assert {key.rpartition(".")[0] for key in keys} == {"stem", "block.first", "block.second"}


class UsesAWeight(nn.Module):
    """Uses the parameters of modules that it does not call."""

    def __init__(self):
        super().__init__()
        self.proj, self.attn, self.late = (
            nn.Linear(4, 4),
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 4),
        )
        self.register_buffer("scale", torch.ones(1))
        self.inner = nn.Identity()

    def forward(self, x):
        if np.random.uniform() < 2:
            x = nn.functional.linear(x, self.proj.weight) * self.scale
        x = self.inner(self.attn(x[None], x[None], x[None])[0][0])
        return self.late(x)


@each_engine
def test_parameters_used_without_a_call_of_their_module_are_kept(engine):
    model = Model(UsesAWeight())
    extractor = make(model, ["block.inner"], engine)
    owners = {key.rpartition(".")[0] for key in extractor.state_dict()}
    assert owners >= {"block.proj", "block.attn", "block.attn.out_proj", "block", "stem"}
    assert "block.late" not in owners and "head" not in owners
    assert_as_hooks(model, extractor, ["block.inner"])


class Caching(nn.Module):
    """Keeps what it computed last, and sets it at its very end."""

    def __init__(self):
        super().__init__()
        self.layer, self.before = nn.Linear(4, 4), None

    def forward(self, x):
        x = self.layer(x if self.before is None else x + self.before)
        self.before = x.detach().clone()
        return x


@each_engine
def test_a_run_does_not_stop_before_state_that_the_next_call_reads(engine):
    model = Model(Caching())
    extractor = make(copy.deepcopy(model), ["block.layer"], engine)
    for _ in range(3):
        assert torch.equal(extractor(X)["block.layer"], seen_by_hooks(model, ["block.layer"])["block.layer"])


class Buffering(nn.Module):
    """Reads a buffer early and writes it late."""

    def __init__(self):
        super().__init__()
        self.layer, self.late = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("before", torch.zeros(4))

    def forward(self, x):
        if np.random.uniform() < 2:
            x = x + self.before
        x = self.layer(x)
        self.before.copy_(self.late(x).mean(0))
        return x


@each_engine
def test_a_run_does_not_stop_before_a_buffer_is_written_that_the_next_call_reads(engine):
    model = Model(Buffering())
    extractor = make(copy.deepcopy(model), ["block.layer"], engine)
    for _ in range(3):
        with torch.no_grad():
            assert torch.equal(extractor(X)["block.layer"], seen_by_hooks(model, ["block.layer"])["block.layer"])


# -- copies and moves --------------------------------------------------------------------------------------------------


def _saved(extractor):
    file = io.BytesIO()
    torch.save(extractor, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@each_engine
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)), _saved])
def test_copies_compute_the_same_and_follow_nothing_of_the_original(engine, duplicate):
    model = Model().eval()
    names = ["block.first", "block.second"]
    extractor = make(model, names, engine)
    twin = duplicate(extractor)
    expected = extractor(X)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.block.second.running_mean):
            tensor.add_(1)
    model.train()
    for name, value in twin(X).items():
        assert torch.equal(value, expected[name])
    twin.train()
    assert all(module.training for module in twin.modules())
    twin(X)
    assert twin.state_dict()["block.second.num_batches_tracked"] == 1
    assert model.block.second.num_batches_tracked == 0
    assert twin.tapped == extractor.tapped and twin.code == extractor.code
    assert "run_tapped" in str(twin.graph)


@each_engine
def test_a_moved_extractor_computes_in_the_other_dtype(engine):
    model = Model().eval()
    names = ["block.first", "block.second"]
    extractor = make(model, names, engine)
    for held in (copy.deepcopy(extractor).double(), extractor.to(torch.float64)):
        assert {value.dtype for value in held(X.double()).values()} == {torch.float64}
        assert held.state_dict()["block.second.running_mean"].dtype == torch.float64


@each_engine
def test_an_extractor_moves_to_meta(engine):
    extractor = make(Model(), ["block.second"], engine).to("meta")
    assert {tensor.device.type for tensor in extractor.state_dict().values()} == {"meta"}
    assert extractor(X.to("meta"))["block.second"].is_meta


@each_engine
def test_parameters_are_replaced_in_the_module_that_runs(engine):
    model = Model().eval()
    extractor = make(model, ["block.second"], engine)
    other = {
        key: torch.randn_like(value.float()).abs().to(value.dtype) for key, value in extractor.state_dict().items()
    }
    extractor.load_state_dict(other, assign=True)
    if engine == "auto":
        model.stem.load_state_dict({"weight": other["stem.weight"], "bias": other["stem.bias"]})
    assert torch.equal(model.block.first.weight, other["block.first.weight"])
    assert_as_hooks(model, extractor, ["block.second"])


class OwnTrain(Drawing):
    """Does more than usual when its mode is set."""

    told = None

    def train(self, mode=True):
        self.told = mode
        return super().train(mode)


@each_engine
def test_the_mode_reaches_the_module_that_runs(engine):
    model = Model(OwnTrain())
    extractor = make(model, ["block.first", "block.second"], engine)
    for training in (False, True):
        extractor.train(training)
        assert model.block.told is training and model.block.second.training is training
        assert_as_hooks(copy.deepcopy(model).train(training), extractor, ["block.first", "block.second"])


@each_engine
def test_flags_set_later_are_followed(engine):
    model = Model(Repeating())
    extractor = make(model, ["block.block.1"], engine)
    model.block.block[1] = nn.ReLU()
    values = extractor(X)["block.block.1"]
    assert torch.equal(values, model.block.block(model.block.layer(model.stem(X))))


# -- hooks see only their own call -------------------------------------------------------------------------------------


@each_engine
def test_no_hook_is_left_behind(engine):
    model = Model()
    extractor = make(model, ["block.first", "block.relu_", "block.last"], engine)
    extractor(X)
    assert not hooks_on(model)
    model.block.second.register_forward_pre_hook(lambda *held: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extractor(X)
    assert len(hooks_on(model)) == 1
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


@each_engine
def test_several_extractors_over_one_model(engine):
    model = Model().eval()
    extractors = [make(model, [name], engine) for name in ("block.first", "block.second", "block.last")]
    expected = seen_by_hooks(model, ["block.first", "block.second", "block.last"])
    for extractor in (*extractors, *extractors):
        for name, value in extractor(X).items():
            assert torch.equal(value, expected[name])


@each_engine
def test_threads_see_only_their_own_call(engine):
    model = Model().eval()
    names = ["block.first", "block.mul", "block.last"]
    extractor = make(model, names, engine)
    inputs = [torch.randn(2, 4) for _ in range(4)]
    expected = [extractor(x) for x in inputs]
    wrong = []

    def work(x, values):
        for _ in range(50):
            found = extractor(x)
            wrong.extend(name for name in names if not torch.equal(found[name], values[name]))

    threads = [threading.Thread(target=work, args=held) for held in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and not hooks_on(model)


class Calling(nn.Module):
    """Calls itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, depth=2):
        x = self.layer(x)
        if depth and np.random.uniform() < 2:
            x = self(x, depth - 1)
        return x * 2


@each_engine
def test_a_module_that_calls_itself(engine):
    model = Model(Calling())
    names = ["block.layer@0", "block.layer@1", "block.layer@2", "output"]
    assert_as_hooks(model, make(copy.deepcopy(model), names, engine), names)


class Within(nn.Module):
    """Calls an extractor over its own layers."""

    def __init__(self):
        super().__init__()
        self.inner, self.layer = Drawing(), nn.Linear(4, 4)

    def forward(self, x):
        if hasattr(self, "taken"):
            x = self.__dict__["taken"](x)["first"]
        return self.layer(x)


def test_an_extractor_inside_the_run_of_another():
    block = Within()
    outer = make(Model(block), ["block.layer"], "tap")
    plain = outer(X)["block.layer"]
    block.__dict__["taken"] = make(block.inner, ["first"], "tap")
    stem = outer.originals.modules[""].stem
    assert torch.equal(outer(X)["block.layer"], block.layer(block.inner.first(stem(X))))
    assert not torch.equal(outer(X)["block.layer"], plain)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 4), reentrant

    def _run(self, x):
        if np.random.uniform() < 2:
            x = torch.tanh(self.first(x))
        return self.second(torch.sigmoid(x))

    def forward(self, x):
        return checkpoint(self._run, x, use_reentrant=self.reentrant)


@each_engine
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("names", [["block.first"], ["block.first", "output"]], ids=["stopped", "to the end"])
def test_values_and_gradients_under_checkpoint(engine, reentrant, names):
    model = Model(Checkpointed(reentrant))
    reference = copy.deepcopy(model)
    extractor = make(model, names, engine)
    assert_as_hooks(model, extractor, names)
    expected = seen_by_hooks(reference, names, grad=True)
    values = extractor(X)
    for name in names:
        assert values[name].requires_grad == expected[name].requires_grad
    for held in (values, expected):
        trained = [value.square().sum() for value in held.values() if value.requires_grad]
        if trained:
            sum(trained).backward()
    for (path, mine), (_, theirs) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), path
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad), path
    # Nothing of autograd's own hooks is left behind by a run that was stopped.
    y = (X.clone().requires_grad_() * 2).exp()
    y.sum().backward()
    assert not torch._C._autograd._top_saved_tensors_default_hooks(True)


@each_engine
@pytest.mark.parametrize("reentrant", [True, False])
def test_an_extractor_under_checkpoint(engine, reentrant):
    model = Model().eval()
    extractor = make(model, ["block.second"], engine)
    gradients = []
    for run in (
        extractor,
        lambda x: {
            "block.second": checkpoint(lambda held: extractor(held)["block.second"], x, use_reentrant=reentrant)
        },
    ):
        x = X.clone().requires_grad_()
        run(x)["block.second"].square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


class Swallowing(nn.Module):
    """Catches every error."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        try:
            x = self.first(x) if np.random.uniform() < 2 else x
        except Exception:
            return x
        return self.second(x)


@each_engine
def test_the_stop_is_no_error_that_a_model_catches(engine):
    model = Model(Swallowing())
    extractor = make(model, ["block.first"], engine)
    assert torch.equal(extractor(X)["block.first"], model.block.first(model.stem(X)))


# -- under torch's own modes -------------------------------------------------------------------------------------------


@each_engine
@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_values_in_modes_of_torch(engine, mode):
    model = Model().eval()
    names = ["block.first", "block.second", "output"]
    extractor = make(copy.deepcopy(model), names, engine)
    with mode():
        expected = seen_by_hooks(model, names, grad=True)
        for name, value in extractor(X).items():
            assert value.dtype == expected[name].dtype and torch.equal(value, expected[name])
            assert value.requires_grad == expected[name].requires_grad
            assert value.is_inference() == expected[name].is_inference()


@each_engine
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_extractors(engine, backend):
    model = Model().eval()
    names = ["block.first", "block.mul", "head"]
    extractor = make(model, names, engine)
    compiled = torch.compile(extractor, backend=backend)
    for x in (X, X + 1):
        expected = extractor(x)
        for name, value in compiled(x).items():
            assert torch.equal(value, expected[name])
    torch._dynamo.reset()


# -- telling -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_a_warning_says_which_module_why_and_what_it_costs():
    with pytest.warns(UserWarning, match=r"'block' of Model runs whole.*drawn from Python or NumPy.*engine='code'"):
        extractor = make(Model(), ["block.second"])
    assert [tuple(held) for held in extractor.tapped] == [("block", "random numbers are drawn from Python or NumPy")]
    assert "runs whole: block" in str(extractor)


def test_engine_code_raises():
    with pytest.raises(fxfeat.TraceError, match="drawn from Python or NumPy"):
        make(Model(), ["block.second"], "code")


def test_what_can_be_written_out_is_not_tapped():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    extractor = make(model, ["0", "1"])
    assert extractor.tapped == () and "run_tapped" not in extractor.code


@pytest.mark.parametrize("function", [fxfeat.create_feature_extractor, fxfeat.features_only, fxfeat.Backbone])
def test_an_unknown_engine_is_refused(function):
    arguments = {"return_nodes": ["0"]} if function is fxfeat.create_feature_extractor else {}
    with pytest.raises(fxfeat.RequestError, match="'auto', 'code', 'tap'"):
        function(nn.Sequential(nn.Linear(4, 4)), **arguments, example_inputs=X, engine="taps")


@each_engine
def test_verify_compares_tapped_extractors(engine):
    model = Model()
    extractor = make(model, [*NAMES, "block.mul"], engine)
    assert fxfeat.verify(model, extractor, X).ok


class Sometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        if float(np.asarray(x.detach()).sum()) < 10:
            x = self.layer(x)
        return x + 1


@each_engine
def test_a_value_that_is_not_produced_is_an_error(engine):
    extractor = make(Model(Sometimes()), ["block.layer"], engine)
    with torch.no_grad():
        extractor.get_submodule("stem").weight.fill_(100)
    with pytest.raises(fxfeat.GuardError, match=r"'block.layer' was not computed: 'block.layer' did not run"):
        extractor(X + 100)


# -- models that cannot be recorded ------------------------------------------------------------------------------------


class Unrecordable(nn.Module):
    """Works on the bytes of its values."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        if torch.overrides._get_current_function_mode_stack():
            raise RuntimeError("no modes here")
        return {"out": self.head(x), "x": x}


@each_engine
@pytest.mark.parametrize("training", [True, False])
def test_models_that_cannot_be_recorded_are_tapped_whole(engine, training):
    model = Unrecordable().train(training)
    names = ["layers.0", "layers.1", "layers", "head.0", "head", "output", "output['x']"]
    extractor = make(model, names, engine)
    assert [path for path, _ in extractor.tapped] == [""]
    seen = eager(copy.deepcopy(model), X)
    values = extractor(X)
    for name in names:
        expected = seen["layers.1"][0] if name == "layers" else pick(model, seen, name)
        assert same_value(values[name], expected), name
    assert {row.name: row.shape for row in extractor.rows}["layers.0"] == (2, 4)
    assert set(make(model, ["layers.0"], engine).state_dict()) == {"layers.0.weight", "layers.0.bias"}


def test_operations_of_models_that_cannot_be_recorded_have_no_names():
    with pytest.raises(fxfeat.NodeNotFoundError, match=r"Operations have no names.*no modes here"):
        make(Unrecordable(), ["head.relu_"])


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x).reshape(7)


def test_a_model_that_fails_on_the_example_is_not_tapped():
    with pytest.raises(fxfeat.TraceError, match="could not be recorded"):
        make(Failing(), ["layer"])


@each_engine
def test_names_that_do_not_exist_stay_errors(engine):
    with pytest.raises(fxfeat.NodeNotFoundError):
        make(Model(), ["block.missing"], engine)


# -- what stays refused ------------------------------------------------------------------------------------------------


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.layer = inner, nn.Linear(4, 4)

    def forward(self, x):
        x = self.inner(x) if np.random.uniform() < 2 else x
        return self.layer(x)


@each_engine
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_what_a_scripted_module_returns_is_tapped_and_its_interior_refused(engine):
    model = Model(Around(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))))
    values = make(model, ["block.inner", "block.layer"], engine)(X)
    assert torch.equal(values["block.inner"], model.block.inner(model.stem(X)))
    with pytest.raises(
        fxfeat.NodeNotFoundError, match=r"inside 'block.inner', which is scripted.*Ask for 'block.inner'"
    ):
        make(model, ["block.inner.0"], engine)


@each_engine
def test_what_a_compiled_module_returns_is_tapped_and_its_interior_refused(engine):
    model = Model(Around(torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager")))
    values = make(model, ["block.inner", "block.layer"], engine)(X)
    assert torch.equal(values["block.inner"], model.block.inner._orig_mod(model.stem(X)))
    with pytest.raises(fxfeat.TraceError, match=r"inside '.*inner', which is compiled: no hook can copy it out"):
        make(model, ["block.inner._orig_mod.0"], engine)


class DrawsInTraining(nn.Module):
    """Goes by a drawn number in train mode alone, and has children that are called by number."""

    def __init__(self):
        super().__init__()
        self.add_module("0", nn.Linear(4, 4))
        self.add_module("1", nn.Linear(4, 4))

    def forward(self, x):
        for module in self.children():
            if not self.training or np.random.uniform() < 2:
                x = module(x)
        return x


def test_a_module_that_runs_whole_in_one_mode_alone():
    model = Model(DrawsInTraining())
    names = ["block.0", "block.1", "block"]
    extractor = make(copy.deepcopy(model), names)
    for training in (True, False, True):
        assert_as_hooks(model.train(training), extractor.train(training), names)
        assert ("run_tapped" in extractor.code) is training


class HoldsAnExtractor(nn.Module):
    def __init__(self, extractor):
        super().__init__()
        self.inner, self.head = extractor, nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.inner(x)["second"])


class DrawsInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x) * random.choice([1.0, 2.0]))


@pytest.mark.filterwarnings("ignore:.*runs whole")
@pytest.mark.parametrize("engine", ["auto", "tap"])
def test_a_tapped_extractor_inside_a_model(engine):
    x = torch.rand(2, 4)
    inner = fxfeat.create_feature_extractor(DrawsInside(), ["second"], example_inputs=x)
    model = HoldsAnExtractor(inner)
    extractor = fxfeat.create_feature_extractor(model, ["inner.second", "head"], example_inputs=x, engine=engine)
    random.seed(0)
    expected = model(x)
    random.seed(0)
    assert torch.equal(extractor(x)["head"], expected)
    with pytest.raises(fxfeat.TraceError, match="an extractor inside the model runs modules whole"):
        fxfeat.create_feature_extractor(model, ["inner.second"], example_inputs=x, engine="code")


@pytest.mark.parametrize("engine", ["auto", "tap"])
def test_a_hook_on_the_gradient_of_the_last_value_is_put_there(engine):
    class Doubling(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.first(x)
            y.register_hook(lambda gradient: gradient * 2)
            return self.last(y)

    model, x, seen = Doubling(), torch.randn(2, 4), {}
    extractor = fxfeat.create_feature_extractor(model, ["first"], example_inputs=x, engine=engine)
    extractor(x)["first"].sum().backward()
    gradient = model.first.weight.grad.clone()
    model.zero_grad()
    handle = model.first.register_forward_hook(lambda _, __, y: seen.update(y=y.clone()))
    model(x)
    handle.remove()
    seen["y"].sum().backward()
    assert torch.equal(gradient, model.first.weight.grad)


# -- calls that raise --------------------------------------------------------------------------------------------------


class Retries(nn.Module):
    """The first call of ``layer`` raises: on fake tensors too by its sizes, not by its dtype."""

    def __init__(self, dtype):
        super().__init__()
        self.layer, self.head, self.dtype = nn.Linear(4, 4), nn.Linear(4, 4), dtype

    def forward(self, x):
        try:
            x = self.layer(x.to(self.dtype) if self.dtype else x[:, :3])
        except RuntimeError:
            x = self.layer(x)
        return self.head(self.layer(x))


@each_engine
@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_a_call_that_raises_does_not_count(engine, dtype):
    torch.manual_seed(0)
    model, returned, given = Retries(dtype).eval(), [], []

    def note(module, args, result):
        given.append(args[0])
        returned.append(result)

    hook = model.layer.register_forward_hook(note)
    model(X)
    hook.remove()
    assert len(returned) == 2
    names = ["layer@0", "layer@1", "layer@*", "layer@0:in", "layer@1:in"]
    values = make(model, names, engine)(X)
    for name, expected in zip(names, [*returned, returned, *given], strict=True):
        assert same_value(values[name], expected), name
    assert torch.equal(make(model, ["layer@0:in"], engine)(X)["layer@0:in"], given[0])
    assert torch.equal(make(model, ["layer"], engine)(X)["layer"], returned[0])
    with pytest.raises(fxfeat.NodeNotFoundError) as caught:
        make(model, ["layer@2"], engine)
    assert str(caught.value) == "'layer@2' was asked for, but 'layer' is called 2 times; the last call is 'layer@1'."


def test_code_alone_does_not_do_what_a_call_that_raises_leaves():
    with pytest.raises(fxfeat.TraceError) as caught:
        make(Retries(None).eval(), ["layer"], "code")
    assert str(caught.value) == (
        "Retries could not be recorded in eval mode with inputs ((2, 4) float32): RuntimeError: its code goes on after "
        "a call of 'layer' that raised an error. The model runs on these inputs as it is: engine='tap' leaves it whole."
    )


class CallsACopy(nn.Module):
    """Copies a module, with the hooks on it, and calls the copy."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.inner(x) - copy.deepcopy(self.inner)(x * 2))


@pytest.mark.filterwarnings("ignore:.*runs whole:UserWarning")
def test_the_call_of_a_copy_is_no_call_of_the_module():
    model, x = CallsACopy().eval(), torch.rand(2, 4)
    values = fxfeat.create_feature_extractor(model, ["inner:in", "inner", "last"], example_inputs=x)(x)
    assert torch.equal(values["inner:in"], x)
    assert torch.equal(values["inner"], model.inner(x)) and torch.equal(values["last"], model(x))


class GivesRowsOfSeveralLengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        rows = self.linear(torch.nested.nested_tensor([x[0, :2], x[1]]))
        return torch.nested.to_padded_tensor(rows, 0.0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_feature_of_rows_of_several_lengths():
    model, x = GivesRowsOfSeveralLengths().eval(), torch.randn(2, 5, 4)
    extractor = fxfeat.create_feature_extractor(model, ["linear"], example_inputs=x, engine="tap")
    rows = model.linear(torch.nested.nested_tensor([x[0, :2], x[1]]))
    assert all(map(torch.equal, extractor(x)["linear"].unbind(), rows.unbind()))
    assert extractor.rows[0].shape == (2,)
