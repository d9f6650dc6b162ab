"""What whole modules leave behind, or return, on other inputs than the example is right there, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

SMALL, LARGE = torch.zeros(2, 4), torch.full((2, 4), 5.0)


class Child(nn.Module):
    """Does something besides on large values, which the example has none of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


class Appends(Child):
    def forward(self, x: torch.Tensor, log: list[Any]) -> torch.Tensor:
        if x.sum() > 3:
            log.append(x * 2)
        return self.linear(x)


class Inserts(Child):
    def forward(self, x: torch.Tensor, log: list[Any]) -> torch.Tensor:
        if x.max() > 3:
            log[:0] = [x * 2]
        return self.linear(x)


class PassesOn(Child):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Appends()

    def forward(self, x: torch.Tensor, log: list[Any]) -> torch.Tensor:
        return self.linear(self.inner(x, log))


class Loops(nn.Module):
    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child, self.head = child, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        log: list[torch.Tensor] = []
        y = self.child(x, log)
        for more in log:
            y = y + more
        return self.head(y)


class Sets(Child):
    def forward(self, x: torch.Tensor, log: dict[str, Any]) -> torch.Tensor:
        if x.sum() > 3:
            log["extra"] = x * 2
        return self.linear(x)


class LooksUp(nn.Module):
    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child, self.head = child, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        log: dict[str, torch.Tensor] = {}
        y = self.child(x, log)
        return self.head(y + log["extra"] if "extra" in log else y)


class Marks(Child):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if x.sum() > 3:
            y.extra = x * 2  # type: ignore[attr-defined]
        return y


class LooksAt(LooksUp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.child(x)
        return self.head(y + y.extra if hasattr(y, "extra") else y)


LEAVING = {
    "append": lambda: Loops(Appends()),
    "slice": lambda: Loops(Inserts()),
    "further in": lambda: Loops(PassesOn()),
    "key": lambda: LooksUp(Sets()),
    "mark": lambda: LooksAt(Marks()),
}


@pytest.mark.parametrize("name", LEAVING)
def test_what_a_child_leaves_on_other_values_only(name: str) -> None:
    model = LEAVING[name]().eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SMALL, engine="code")
    assert same(extractor(SMALL)["head"], model(SMALL))
    with pytest.raises(fxfeat.GuardError, match=r"> 3:` the recording saw False"):
        extractor(LARGE)


def test_what_a_child_never_leaves_keeps_it_whole() -> None:
    class Reads(Child):
        def forward(self, x: torch.Tensor, log: list[Any]) -> torch.Tensor:
            return self.linear(x) if x.sum() > 3 else self.linear(x) * len(log)

    extractor = fxfeat.create_feature_extractor(Loops(Reads()).eval(), ["head"], example_inputs=SMALL, engine="code")
    assert "self.child(x, [])" in extractor.code


# -- another kind of result --------------------------------------------------------------------------------------------


class Pairs(Child):
    def __init__(self, is_pair: Callable[[nn.Module, torch.Tensor], bool]) -> None:
        super().__init__()
        self.flag, self.is_pair = False, is_pair

    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(x)
        return (y, x) if self.is_pair(self, x) else y


class Longer(Pairs):
    def forward(self, x: torch.Tensor) -> Any:
        if self.is_pair(self, x):
            return x, x, self.linear(x)
        return x, self.linear(x)


class Named(Pairs):
    def forward(self, x: torch.Tensor) -> Any:
        if self.is_pair(self, x):
            return {"y": self.linear(x)}
        return self.linear(x)


class Takes(nn.Module):
    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child, self.head = child, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.child(x)
        if isinstance(y, dict):
            return self.head(y["y"] * 3)
        return self.head(y[-1] if isinstance(y, tuple) else y)


def _of_flag(child: Any, x: torch.Tensor) -> bool:
    return bool(child.flag)


def _of_value(child: Any, x: torch.Tensor) -> bool:
    return bool(x.sum() > 3)


def _of_size(child: Any, x: torch.Tensor) -> bool:
    return x.shape[0] > 3


@pytest.mark.parametrize("told", [_of_flag, _of_value, _of_size])
@pytest.mark.parametrize("kind", [Pairs, Longer, Named])
def test_a_child_that_returns_another_kind(kind: type[Pairs], told: Callable[[nn.Module, torch.Tensor], bool]) -> None:
    model = Takes(kind(told)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SMALL, engine="code")
    model.child.flag = True  # type: ignore[union-attr]
    for x in (SMALL, LARGE, torch.zeros(5, 4)):
        try:
            got = extractor(x)["head"]
        except fxfeat.GuardError:
            continue
        assert same(got, model(x)), extractor.code


def test_the_error_names_the_module_that_returned_another_kind() -> None:
    extractor = fxfeat.create_feature_extractor(Takes(Pairs(_of_value)).eval(), ["head"], example_inputs=SMALL)
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(LARGE)
    assert str(error.value) == (
        "This input takes another path than the recorded one: at what 'child' (Pairs) returns: `isinstance(result, "
        "Tensor)` the recording saw True, this input gives False. Create the extractor again with example_inputs= like "
        "this input."
    )
