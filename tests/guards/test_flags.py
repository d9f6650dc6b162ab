"""What code asks about torch's flags is checked: where a flag is set later, there is an error in place of old code."""

from __future__ import annotations

import pytest
import torch
from torch import backends, nn

import fxfeat
from tests.oracle import same

X = torch.rand(2, 4)

FLAGS = {
    "cudnn.enabled": (lambda: torch.backends.cudnn.enabled, lambda on: setattr(backends.cudnn, "enabled", on)),
    "cudnn.benchmark": (lambda: torch.backends.cudnn.benchmark, lambda on: setattr(backends.cudnn, "benchmark", on)),
    "mkldnn.enabled": (lambda: backends.mkldnn.enabled, lambda on: setattr(backends.mkldnn, "enabled", on)),
    "tf32": (
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda on: setattr(backends.cuda.matmul, "allow_tf32", on),
    ),
    "flash": (lambda: torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.enable_flash_sdp),
    "math": (lambda: torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.enable_math_sdp),
    "fast path": (lambda: torch.backends.mha.get_fastpath_enabled(), torch.backends.mha.set_fastpath_enabled),
    "anomaly": (lambda: torch.is_anomaly_enabled(), torch.autograd.set_detect_anomaly),
    "cache of autocast": (lambda: torch.is_autocast_cache_enabled(), torch.set_autocast_cache_enabled),
    "deterministic": (lambda: torch.are_deterministic_algorithms_enabled(), torch.use_deterministic_algorithms),
}


class Asks(nn.Module):
    def __init__(self, ask):
        super().__init__()
        self.linear, self.ask = nn.Linear(4, 4), ask

    def forward(self, x):
        return self.linear(x) * (2 if self.ask() else 3)


@pytest.mark.parametrize(("ask", "set_"), FLAGS.values(), ids=FLAGS.keys())
def test_a_flag_that_is_set_later(ask, set_):
    model, before = Asks(ask), ask()
    extractor = fxfeat.create_feature_extractor(model, ["linear", "output"], example_inputs=X)
    assert same(extractor(X)["output"], model(X))
    set_(not before)
    try:
        with pytest.raises(
            fxfeat.GuardError, match=f"the recording saw {before}, this input gives {not before}"
        ) as error:
            extractor(X)
        assert f"{__file__.rpartition('/')[2]}:" in str(error.value)
    finally:
        set_(before)
    assert same(extractor(X)["output"], model(X))


def test_flags_that_whole_modules_ask_for_are_not_checked():
    model = nn.Sequential(Asks(lambda: torch.backends.cudnn.enabled), nn.Linear(4, 2))
    assert not fxfeat.create_feature_extractor(model, ["0", "1"], example_inputs=X).guards


def test_code_with_a_check_of_a_flag_compiles():
    model = Asks(lambda: torch.backends.cudnn.enabled)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=X)
    assert same(torch.compile(extractor, backend="eager", fullgraph=True)(X)["output"], model(X))
