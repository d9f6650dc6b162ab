"""What torch offers around plain calls: scripts, compilers, regions, parametrizations, checkpoints."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import einops
import einops.layers.torch
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import fxfeat
from tests.oracle import assert_equals_eager, assert_gradients_equal, eager, run, same, tap

X = torch.randn(2, 4)
LONGER = torch.randn(5, 4)
IMAGE = torch.randn(2, 4, 6, 6)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).transpose(-1, -2)


@torch.jit.script
def scripted(x: torch.Tensor, scale: float) -> torch.Tensor:
    if x.shape[0] > 3:
        x = x + 1
    return x * scale


class CallsScript(Base):
    def forward(self, x):
        y = scripted(self.linear(x), 2.0)
        tap("scripted", y)
        return self.head(y)


class HasScript(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.script = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y = self.script(self.linear(x))
        tap("script", y)
        return self.head(y)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 7 * x  # wrong on purpose: it tells this backward from autograd's own


class CallsFunction(Base):
    def forward(self, x):
        y = Cube.apply(self.linear(x))
        tap("cube", y)
        return self.head(y)


class NoGrad(Base):
    def forward(self, x):
        with torch.no_grad():
            y = self.linear(x)
            z = y * 2
        tap("mul", z)
        return self.head(z + x)


class Decorated(Base):
    @torch.no_grad()
    def frozen(self, x):
        return self.linear(x).relu()

    def forward(self, x):
        return self.head(self.frozen(x))


class Detaches(Base):
    def forward(self, x):
        y = self.linear(x)
        return self.head(y.detach() + 0.5 * y)


class Autocast(Base):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.linear(x)
            z = y @ y.t()
            tap("matmul", z)
        with torch.autocast(x.device.type, enabled=False):
            w = self.head(x)
        return z.float().sum() + w


class Checkpointed(Base):
    def __init__(self, reentrant: bool = False):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.reentrant = reentrant

    def forward(self, x):
        y = checkpoint(self.block, self.linear(x), use_reentrant=self.reentrant)
        return self.head(y)


class Rearranges(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.patch = einops.layers.torch.Rearrange("b c h w -> b (h w) c")
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y = self.patch(self.conv(x))
        z = einops.rearrange(y, "b (h w) c -> b h w c", h=x.shape[2])
        z = einops.reduce(z, "b h w c -> b h c", "mean")
        z = einops.repeat(z, "b h c -> b h k c", k=2)
        return self.head(z)


class Packs(nn.Module):
    """Keeps the sizes that one function of einops returns for others."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        sizes = einops.parse_shape(x, "b c h w")
        y = self.conv(x)
        z = einops.rearrange(y, "b c h w -> b h w c")
        z, packed = einops.pack([z, z.mean((1, 2))], "b * c")
        z, mean = einops.unpack(self.head(z), packed, "b * c")
        tap("mul", mean * 2)
        return z.reshape(sizes["b"] * sizes["h"], sizes["w"], 2) + packed[0][1]


class UsesMap(Base):
    def forward(self, x):
        y = torch.vmap(lambda row: row * 2 + row.sum())(self.linear(x))
        return self.head(y)


class ManyFunctions(Base):
    """Functions that answer with tuples, and structures that hold them."""

    def forward(self, x):
        y = self.linear(x)
        found = y.topk(2, dim=1)
        tap("topk", found)
        values, indices = found
        low, high = y.min(1).values, y.max(dim=1)[0]
        q, r = torch.linalg.qr(y.t() @ y + torch.eye(4, device=y.device))
        z = y @ q @ r + values.sum(1, keepdim=True) + (high - low)[:, None]
        z = z.scatter(1, indices, 0.0).masked_fill(z > 2, 1.0)
        z = torch.where(z > 0, z, z.exp() - 1)
        z = torch.einsum("bi,ij->bj", z, self.linear.weight)
        a, b = z.split([1, 3], dim=1)
        z = torch.cat([b, a], dim=-1).unbind(0)
        z = torch.stack(tuple(z))
        return self.head(F.normalize(F.layer_norm(z, (4,)), dim=-1))


@pytest.mark.parametrize(
    ("model", "names", "example", "other"),
    [
        (HasScript, ["linear", "script", "head"], X, LONGER),
        (CallsFunction, ["linear", "head"], X, LONGER),
        (NoGrad, ["linear", "mul", "head"], X, LONGER),
        (Decorated, ["linear", "head"], X, LONGER),
        (Detaches, ["linear", "head"], X, LONGER),
        (Autocast, ["linear", "matmul", "head"], X, LONGER),
        (Checkpointed, ["linear", "block", "block.0", "block.1", "head"], X, LONGER),
        (Packs, ["conv", "mul", "head", "output"], IMAGE, torch.rand(3, 4, 5, 7)),
        (Rearranges, ["conv", "patch", "head"], IMAGE, torch.randn(3, 4, 6, 6)),
        (ManyFunctions, ["linear", "topk", "head"], X, X + 1),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_equals_eager(model, names, example, other):
    assert_equals_eager(model(), names, example, other)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (CallsFunction, ["linear", "head"]),
        (NoGrad, ["head"]),
        (Decorated, ["head"]),
        (Detaches, ["linear", "head"]),
        (Checkpointed, ["linear", "block", "block.0", "block.1", "head"]),
        (lambda: Checkpointed(True), ["linear", "head"]),
        (ManyFunctions, ["head"]),
    ],
    ids=["function", "no_grad", "decorated", "detach", "checkpoint", "reentrant", "many"],
)
def test_gradients_equal(model, names):
    assert_gradients_equal(model(), names, X)


def test_scripted_function():
    assert_equals_eager(CallsScript(), ["linear", "head"], X, LONGER)


def test_vmap_is_eagers_or_a_clear_error():
    assert_equals_eager(UsesMap(), ["linear"], X, LONGER)
    try:
        assert_equals_eager(UsesMap(), ["head"], X, LONGER)
    except fxfeat.TraceError as error:
        assert "cannot be written down as code" in str(error)


def test_no_gradient_where_eager_has_none():
    found = fxfeat.create_feature_extractor(NoGrad(), ["mul", "linear", "head"], example_inputs=X)(X)
    assert not found["mul"].requires_grad
    assert not found["linear"].requires_grad
    assert found["head"].requires_grad


def test_parametrized_weights():
    model = Base()
    model.forward = None  # type: ignore[assignment]
    linear = nn.Linear(4, 4)
    parametrize.register_parametrization(linear, "weight", Symmetric())
    sequence = nn.Sequential(linear, nn.ReLU(), nn.Linear(4, 2))
    assert_equals_eager(sequence, ["0", "1", "2"], X, LONGER)
    assert_gradients_equal(sequence, ["0", "2"], X)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "old_weight_norm"])
def test_normed_weights(norm):
    normed: dict[str, Callable[[nn.Module], nn.Module]] = {
        "weight_norm": parametrizations.weight_norm,
        "spectral_norm": parametrizations.spectral_norm,
        "old_weight_norm": nn.utils.weight_norm,
    }

    def build():
        torch.manual_seed(0)
        return nn.Sequential(normed[norm](nn.Linear(4, 4)), nn.ReLU(), normed[norm](nn.Linear(4, 2)))

    for training in (False, True):
        for names in (["0"], ["1"], ["2"], ["0", "1", "2"]):
            reference, mine = build().train(training), build().train(training)
            extractor = fxfeat.create_feature_extractor(mine, names, example_inputs=X)
            for inputs in (X, LONGER):
                seen, found = eager(reference, inputs), run(extractor, inputs)
                assert all(same(found[name], seen[name][0]) for name in names)


def test_an_unregistered_parametrized_weight_is_read_once_for_each_use():
    linear = nn.Linear(4, 4)
    parametrize.register_parametrization(linear, "weight", Symmetric())

    class UsesWeight(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear

        def forward(self, x):
            y = F.linear(x, self.linear.weight) + self.linear.bias
            tap("add", y)
            return y

    assert_equals_eager(UsesWeight(), ["add", "output"], X, LONGER)


def test_the_script_stays_a_script():
    extractor = fxfeat.create_feature_extractor(HasScript(), ["head"], example_inputs=X)
    assert isinstance(extractor.script, torch.jit.ScriptModule)


def test_the_custom_backward_is_the_one_that_runs():
    model = CallsFunction()
    extractor = fxfeat.create_feature_extractor(model, ["linear", "output"], example_inputs=X)
    extractor(X)["output"].sum().backward()
    found = model.linear.weight.grad.clone()
    model.zero_grad()
    model(X).sum().backward()
    assert same(found, model.linear.weight.grad)


def test_compiled_submodule():
    class HasCompiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.block = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager")
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.block(self.linear(x)))

    model = HasCompiled().eval()
    for names in (["linear"], ["block"], ["head"], ["linear", "block", "head"]):
        extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
        for inputs in (X, LONGER):
            seen, found = eager(model, inputs), run(extractor, inputs)
            assert all(same(found[name], seen[name][0]) for name in names)
    assert extractor.block is model.block


def test_compiled_model():
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    compiled = torch.compile(copy.deepcopy(plain), backend="eager")
    extractor = fxfeat.create_feature_extractor(compiled, ["_orig_mod.1", "output"], example_inputs=X)
    found = extractor(X)
    assert same(found["_orig_mod.1"], eager(plain, X)["1"][0])
    assert same(found["output"], plain(X))


def test_autocast_around_the_extractor():
    model = Base()
    model = nn.Sequential(model.linear, nn.ReLU(), model.head)
    extractor = fxfeat.create_feature_extractor(model, ["0", "1", "2"], example_inputs=X)
    with torch.autocast("cpu", torch.bfloat16):
        seen, found = eager(model, X), run(extractor, X)
    assert found["0"].dtype == torch.bfloat16
    assert all(same(found[name], seen[name][0]) for name in ("0", "1", "2"))


def test_code_of_regions():
    extractor = fxfeat.create_feature_extractor(Autocast(), ["head"], example_inputs=X)
    assert "with torch.autocast(device_type=" in extractor.code
    assert "enabled=False" in extractor.code
    extractor = fxfeat.create_feature_extractor(NoGrad(), ["mul"], example_inputs=X)
    assert "    with torch.no_grad():\n        x = self.linear(x)\n        mul = x * 2\n" in extractor.code


class CastsByType(Base):
    def forward(self, x):
        y = self.linear(x).type(torch.float64)
        tap("type", y)
        return self.head(y.type(x.dtype))


class ReturnsADtype(nn.Module):
    def forward(self, x):
        return {"value": x * 2, "dtype": x.dtype}


class UsesADtypeThatABlockReturned(Base):
    def __init__(self):
        super().__init__()
        self.block = ReturnsADtype()

    def forward(self, x):
        found = self.block(self.linear(x))
        y = found["value"] + torch.tensor(1.5, dtype=found["dtype"])
        tap("add", y)
        return self.head(y)


@pytest.mark.parametrize(
    ("kind", "names"),
    [(CastsByType, ["type", "head"]), (UsesADtypeThatABlockReturned, ["add", "block['value']", "head"])],
)
def test_dtypes_that_are_handed_on(kind, names):
    assert_equals_eager(kind(), names, X, LONGER)


class NormsUnderCheckpoint(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.block, self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)), nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("names", [["head"], ["block.1", "head"]])
@pytest.mark.filterwarnings("ignore:.*runs whole:UserWarning")
def test_what_a_checkpoint_updates_is_updated_again_in_the_backward_pass(names, reentrant):
    torch.manual_seed(0)
    model, seen = NormsUnderCheckpoint(reentrant), {}
    reference, x = copy.deepcopy(model), torch.randn(8, 4, requires_grad=True)

    def keep(name):
        def hook(module, args, result):
            seen.setdefault(name, result.clone())

        return hook

    for name in names:
        reference.get_submodule(name).register_forward_hook(keep(name))
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=x)
    reference(x).sum().backward()
    values = extractor(x)
    for name in names:
        assert torch.equal(values[name], seen[name]) and values[name].requires_grad == seen[name].requires_grad
    values["head"].sum().backward()
    assert torch.equal(model.block[0].running_mean, reference.block[0].running_mean)
    assert torch.equal(extractor.eval()(x)["head"], reference.eval()(x))


@pytest.mark.parametrize(
    ("reentrant", "what"),
    [
        (False, "updates buffers in a checkpoint, and again when that is computed a second time"),
        (True, "computes without gradients in a reentrant checkpoint"),
    ],
)
def test_the_refusal_of_a_checkpoint_names_the_line(reentrant, what):
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(NormsUnderCheckpoint(reentrant), ["head"], example_inputs=X, engine="code")
    source = "`return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))`"
    assert re.sub(r"at .*?test_torch.py:\d+", "at LINE", str(caught.value)) == (
        f"In NormsUnderCheckpoint, the code at LINE: {source} {what}. Ask for features outside what it leads to."
    )
