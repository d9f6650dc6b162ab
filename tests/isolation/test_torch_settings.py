"""Settings of torch that a model's code changes while it runs: right, or refused, and right again around the module."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fxfeat
from tests.oracle import assert_equals_eager, assert_taps_equal_eager, tap

X = torch.rand(2, 4, 64, 8)


class Block(nn.Module):
    """Computes something under a setting of its own, between operations that are not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.child = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x):
        x = x * 3
        tap("mul", x)
        x = self.under(x) * 5
        tap("mul_1", x)
        return x

    def under(self, x):
        raise NotImplementedError


class FewerKernels(Block):
    def under(self, x):
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(x, x, x)


class FewerKernelsAroundAModule(Block):
    class Attention(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x)

    def __init__(self):
        super().__init__()
        self.child = self.Attention()

    def under(self, x):
        with sdpa_kernel([SDPBackend.MATH]):
            return self.child(x)


class DeviceOfTheInput(Block):
    def under(self, x):
        with x.device:
            return x + torch.ones(x.shape[-1])


class DeviceMadeOfAnother(Block):
    def under(self, x):
        return x + torch.ones(x.shape[-1], device=torch.device(x.device))


class NamedDevice(Block):
    def under(self, x):
        with torch.device("cpu"):
            return x + torch.arange(x.shape[-1])


class DeviceAroundAModule(Block):
    class Makes(nn.Module):
        def forward(self, x):
            return x + torch.ones(x.shape[-1])

    def __init__(self):
        super().__init__()
        self.child = self.Makes()

    def under(self, x):
        with torch.device("cpu"):
            return self.child(x)


class DefaultDevice(Block):
    def under(self, x):
        torch.set_default_device("cpu")
        x = x + torch.ones(x.shape[-1])
        torch.set_default_device(None)
        return x


class DefaultDtype(Block):
    def under(self, x):
        torch.set_default_dtype(torch.float64)
        x = x + torch.ones(x.shape[-1]) / 3
        torch.set_default_dtype(torch.float32)
        return x


class DefaultDtypeAroundAModule(Block):
    def __init__(self):
        super().__init__()
        self.child = DeviceAroundAModule.Makes()

    def under(self, x):
        torch.set_default_dtype(torch.float64)
        x = self.child(x)
        torch.set_default_dtype(torch.float32)
        return x


class OneDnnOff(Block):
    def under(self, x):
        with torch.backends.mkldnn.flags(enabled=False):
            return self.linear(x)


class OneThread(Block):
    def under(self, x):
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        x = x.sum(0, keepdim=True)
        torch.set_num_threads(threads)
        return x


class LowerPrecision(Block):
    def under(self, x):
        torch.set_float32_matmul_precision("medium")
        x = x @ x.transpose(-1, -2)
        torch.set_float32_matmul_precision("highest")
        return x


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is F.linear else result


class FunctionMode(Block):
    def under(self, x):
        with Doubling():
            return self.linear(x)


class FunctionModeAroundAModule(Block):
    def under(self, x):
        with Doubling():
            return self.child(x)


class Halving(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result / 2 if func is torch.ops.aten.sin.default else result


class DispatchMode(Block):
    def under(self, x):
        with Halving():
            return torch.sin(x)


class TinyNumbers(Block):
    def under(self, x):
        torch.set_flush_denormal(True)
        x = x * 1e-20 * 1e-20 * 1e30
        torch.set_flush_denormal(False)
        return x


class FailsAtAnotherSize(Block):
    """Sets what it does not put back where it fails, as it does for larger and smaller inputs."""

    def under(self, x):
        self.set()
        if x.shape[-2] != 64:
            raise ValueError("no such size")
        return x


class FailsWithTinyNumbers(FailsAtAnotherSize):
    def set(self):
        torch.set_flush_denormal(True)


class FailsWithAnotherDtype(FailsAtAnotherSize):
    def set(self):
        torch.set_default_dtype(torch.float64)


class FailsWithMoreThreads(FailsAtAnotherSize):
    def set(self):
        torch.set_num_threads(torch.get_num_threads() + 1)


class FailsWithLowerPrecision(FailsAtAnotherSize):
    def set(self):
        torch.set_float32_matmul_precision("medium")


RIGHT = [FewerKernels, FewerKernelsAroundAModule, DeviceOfTheInput, DeviceMadeOfAnother, NamedDevice]
REFUSED = [
    (DeviceAroundAModule, "torch's default device"),
    (DefaultDevice, "torch's default device"),
    (DefaultDtype, "torch's default dtype"),
    (DefaultDtypeAroundAModule, "torch's default dtype"),
    (OneDnnOff, "torch's use of oneDNN"),
    (OneThread, "the number of torch's threads"),
    (LowerPrecision, "torch's precision of float32"),
    (FunctionMode, "the function modes that are on"),
    (FunctionModeAroundAModule, "the function modes that are on"),
    (DispatchMode, "the dispatch modes that are on"),
]


@pytest.mark.parametrize("kind", RIGHT)
def test_the_code_is_written_out(kind):
    torch.manual_seed(0)
    assert_equals_eager(kind(), ["mul", "mul_1", "output"], X)


@pytest.mark.parametrize(("kind", "what"), REFUSED)
def test_the_code_is_refused(kind, what):
    with pytest.raises(fxfeat.TraceError, match=f"In {kind.__name__}, the code changes {re.escape(what)} before .*Ask"):
        fxfeat.create_feature_extractor(kind(), ["mul_1"], example_inputs=X, engine="code")
    if kind not in (FunctionMode, FunctionModeAroundAModule):
        assert_taps_equal_eager(kind(), ["mul_1", "output"], X)
        return
    # Nobody hears an operation under a mode of the model's own as the model does.
    assert_taps_equal_eager(kind(), ["output"], X)
    with pytest.raises(fxfeat.TraceError, match="'mul_1' is computed where the model enters function modes of its own"):
        fxfeat.create_feature_extractor(kind(), ["mul_1"], example_inputs=X)


@pytest.mark.parametrize("kind", [*RIGHT, *(kind for kind, _ in REFUSED)])
def test_what_runs_before_and_what_the_module_returns(kind):
    """What runs before the setting is changed can be had, and so can what other modules make of the result."""
    torch.manual_seed(0)
    assert_equals_eager(kind(), ["mul"], X)
    assert_equals_eager(nn.Sequential(kind(), nn.ReLU()), ["0", "1"], X)


def test_kernels_of_attention_are_written_as_a_region():
    extractor = fxfeat.create_feature_extractor(FewerKernels(), ["mul_1"], example_inputs=X)
    assert extractor.code == textwrap.dedent("""\
        from torch.nn.attention import SDPBackend
        from torch.nn.attention import sdpa_kernel
        import torch.nn.functional as F


        def forward(self, x):
            x = x * 3
            with sdpa_kernel(backends=[SDPBackend.MATH]):
                x = F.scaled_dot_product_attention(x, x, x)
            mul_1 = x * 5
            return {'mul_1': mul_1}
        """)


def test_a_device_of_the_input_stays_the_inputs():
    extractor = fxfeat.create_feature_extractor(DeviceOfTheInput(), ["mul_1"], example_inputs=X)
    assert "torch.ones(x.shape[-1], device=device)" in extractor.code
    assert "device = x.device" in extractor.code


ALONE = """
import torch
from torch import nn
import fxfeat
from tests.isolation.test_torch_settings import LowerPrecision, X
before = torch._C._get_fp32_precision_getter("cuda", "matmul")
fxfeat.create_feature_extractor(nn.Sequential(LowerPrecision(), nn.ReLU()), ["1"], example_inputs=X)
assert before == "none" != torch._C._get_fp32_precision_getter("cuda", "matmul")
"""


def test_a_precision_that_was_never_set_before_is_set_and_put_back():
    """It is spelled otherwise then, but means the same."""
    subprocess.run([sys.executable, "-c", ALONE], check=True, cwd=Path(__file__).parents[2])


def test_settings_are_the_processs_own_again():
    for kind, _ in REFUSED:
        fxfeat.create_feature_extractor(nn.Sequential(kind(), nn.ReLU()), ["1"], example_inputs=X)
    assert torch.get_default_dtype() is torch.float32
    assert torch._C._len_torch_function_stack() == torch._C._len_torch_dispatch_stack() == 0


def test_tiny_numbers_taken_for_zero_are_refused():
    with pytest.raises(
        fxfeat.TraceError,
        match=re.escape("`torch.set_flush_denormal(True)` sets whether tiny numbers are taken for 0. Ask for features"),
    ):
        fxfeat.create_feature_extractor(TinyNumbers(), ["mul_1"], example_inputs=X, engine="code")


FAILING = [FailsWithTinyNumbers, FailsWithAnotherDtype, FailsWithMoreThreads, FailsWithLowerPrecision]


@pytest.mark.parametrize("kind", FAILING)
def test_settings_are_the_processs_own_again_where_the_model_fails(kind):
    before = settings()
    for size in (64, 32):
        try:
            fxfeat.create_feature_extractor(kind(), ["mul"], example_inputs=torch.rand(2, 4, size, 8))
        except fxfeat.TraceError as error:
            assert size == 32 and "no such size" in str(error)
        assert settings() == before


def settings():
    tiny = torch.full((2,), 1e-20) * torch.full((2,), 1e-20)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    return torch.get_default_dtype(), threads, precision, bool(tiny.any())


def test_a_setting_that_the_process_has_is_no_change():
    with sdpa_kernel(SDPBackend.MATH), torch.device("cpu"), Doubling():
        extractor = fxfeat.create_feature_extractor(FewerKernels(), ["mul_1"], example_inputs=X)
        before = fxfeat.create_feature_extractor(OneThread(), ["mul"], example_inputs=X)
    assert "sdpa_kernel" not in extractor.code
    assert before.code == textwrap.dedent("""\
        def forward(self, x):
            mul = x * 3
            return {'mul': mul}
        """)


def test_a_precision_set_in_the_newer_way():
    """torch's older getters raise then."""
    held = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        assert_equals_eager(FewerKernels(), ["mul"], X)
    finally:
        torch.backends.cuda.matmul.fp32_precision = held
