"""Children in modes of their own, beside a mode that cannot be recorded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxfeat import create_feature_extractor
from fxfeat.errors import TraceError


class Part(nn.Module):
    """Runs in one mode alone."""

    def __init__(self, runs_in: bool) -> None:
        super().__init__()
        self.layer, self.drop, self.runs_in = nn.Linear(4, 4), nn.Dropout(0.5), runs_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training is not self.runs_in:
            raise RuntimeError("not in this mode")
        return self.layer(x)


@pytest.mark.parametrize("mode", (False, True))
@pytest.mark.parametrize("child", ("layer", "drop", "norm"))
def test_one_mode_and_the_mixed_one(mode, child):
    model = Part(mode)
    model.norm = nn.BatchNorm1d(4)
    model.train(mode).get_submodule(child).train(not mode)
    image = torch.rand(2, 4)
    extractor = create_feature_extractor(model, ["layer"], example_inputs=image, engine="code")
    assert torch.equal(extractor(image)["layer"], model(image))
    assert torch.equal(extractor.train(mode)(image)["layer"], model(image))
    with pytest.raises(TraceError, match="not in this mode"):
        extractor.train(not mode)(image)
