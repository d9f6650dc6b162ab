"""A forward that slides windows by functions is written out with other arguments: the code before and after."""

from __future__ import annotations

import inspect
import textwrap

import torch
import torch.nn.functional as F
from torch import nn

from fxfeat.stride import limit_stride
from tests.stride.models import Blur, Functional, Holder, Sliced, conv

IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def before(model: nn.Module) -> str:
    return textwrap.dedent(inspect.getsource(type(model).forward))


def after(model: nn.Module, output_stride: int, path: str = "") -> str:
    return limit_stride(model, output_stride, example_inputs=IMAGE).get_submodule(path).code


def test_pools():
    model = Functional()
    assert before(model) == (
        "def forward(self, x):\n"
        "    x = F.max_pool2d(self.a(x).relu(), 2)\n"
        "    x = F.max_pool2d(self.b(x).relu(), 3, 2, 1)\n"
        "    return self.c(F.avg_pool2d(x, 2))\n"
    )
    assert after(model, 2) == (
        "from fxfeat.stride.dense import pool_average\n"
        "import torch.nn.functional as F\n"
        "\n"
        "\n"
        "def forward(self, x):\n"
        "    x = self.a(x)\n"
        "    x = x.relu()\n"
        "    x = F.max_pool2d(x, 2, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False)\n"
        "    x = self.b(x)\n"
        "    x = x.relu()\n"
        "    x = F.max_pool2d(x, (3, 3), stride=(1, 1), dilation=(1, 1), padding=(1, 1), ceil_mode=False)\n"
        "    x = pool_average(x, (2, 2), (0, 2, 0, 2), stride=(1, 1), dilation=(2, 2))\n"
        "    output = self.c(x)\n"
        "    return output\n"
    )


def test_slices():
    model = Sliced()
    assert before(model) == ("def forward(self, x):\n    x = self.a(x)\n    return self.b(x[:, :, ::2, ::2]).relu()\n")
    assert after(model, 2) == (
        "def forward(self, x):\n"
        "    x = self.a(x)\n"
        "    x = x[:, :, :, :]\n"
        "    x = self.b(x)\n"
        "    output = x.relu()\n"
        "    return output\n"
    )


def test_a_filter_without_a_setting_for_the_dilation():
    model = Holder(Blur(4), Blur(4))
    assert before(model.blocks[1]) == (
        "def forward(self, x):\n"
        "    return F.conv2d(F.pad(x, self.padding), self.filter, stride=self.stride, groups=self.channels)\n"
    )
    assert after(model, 2, "blocks.1") == (
        "import torch\n"
        "import torch.nn.functional as F\n"
        "\n"
        "\n"
        "def forward(self, x):\n"
        "    x = F.pad(x, [2, 2, 2, 2])\n"
        "    output = torch.conv2d(x, self.filter, None, stride=(1, 1), dilation=(2, 2), groups=4, padding=(0, 0))\n"
        "    return output\n"
    )


class Convolves(nn.Module):
    """A convolution by function, with an even kernel."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 4, stride=2)
        self.weight = nn.Parameter(torch.rand(4, 4, 2, 2))

    def forward(self, x):
        return F.conv2d(self.stem(x), self.weight, stride=2)


def test_even_convolutions():
    assert after(Convolves(), 2) == (
        "from fxfeat.stride.dense import convolve\n"
        "\n"
        "\n"
        "def forward(self, x):\n"
        "    x = self.stem(x)\n"
        "    output = convolve(x, self.weight, None, (0, 1, 0, 1), stride=(1, 1), dilation=(1, 1))\n"
        "    return output\n"
    )


class Inner(nn.Module):
    def forward(self, x):
        return F.max_pool2d(x, 2), x


class Outer(nn.Module):
    """Only the module whose own code pools is written out."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.last = conv(3, 4, stride=2), Inner(), conv(4, 4)

    def forward(self, x):
        pooled, plain = self.inner(self.stem(x))
        return self.last(pooled), plain


def test_the_modules_around_stay_as_they_are():
    model = Outer()
    changed = limit_stride(model, 2, example_inputs=IMAGE)
    assert type(changed) is Outer
    assert changed.last.dilation == (2, 2)
    assert [held.shape[-1] for held in changed(IMAGE)] == [16, 16]
    assert torch.allclose(changed(IMAGE)[0][..., ::2, ::2], model(IMAGE)[0], atol=1e-6)


class Twofold(nn.Module):
    """Other code in each mode."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = conv(3, 4, stride=2), conv(4, 4)

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 2)
        return (self.last(x), x) if self.training else self.last(x)


def test_each_mode_is_written_out():
    changed = limit_stride(Twofold(), 2, example_inputs=IMAGE)
    assert len(changed.train()(IMAGE)) == 2
    assert changed.eval()(IMAGE).shape == (2, 4, 16, 16)


def test_all_state_stays_also_what_the_code_does_not_use():
    model = Functional()
    changed = limit_stride(model, 2, example_inputs=IMAGE)
    assert list(changed.state_dict()) == list(model.state_dict())
    assert changed.unused.weight is model.unused.weight
    changed.load_state_dict(model.state_dict())
