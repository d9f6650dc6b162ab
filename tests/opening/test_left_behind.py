"""What whole modules leave behind, or return, on other inputs than the example is right there, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

Told = Callable[[Any, torch.Tensor], bool]
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


def _leave(log: list[Any], x: torch.Tensor) -> None:
    log.append(x)


class Calls(Child):
    def forward(self, x: torch.Tensor, log: list[Any]) -> torch.Tensor:
        if x.mean() > 3:
            _leave(log, x)
        return self.linear(x)


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


class LooksUp(Loops):
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
    "a function": lambda: Loops(Calls()),
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


def test_what_a_child_leaves_once_a_flag_is_set() -> None:
    class ByFlag(Child):
        on = False

        def forward(self, x: torch.Tensor, log: list[Any]) -> torch.Tensor:
            if self.on:
                log.append(x)
            return self.linear(x)

    model = Loops(ByFlag()).eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SMALL, engine="code")
    model.child.on = True  # type: ignore[assignment]
    with pytest.raises(fxfeat.GuardError, match=r"'on' of 'child' \(ByFlag\) was False"):
        extractor(SMALL)


def test_what_a_child_never_leaves_keeps_it_whole() -> None:
    class Reads(Child):
        def forward(self, x: torch.Tensor, log: list[Any]) -> torch.Tensor:
            return self.linear(x) if x.sum() > 3 else self.linear(x) * len(log)

    extractor = fxfeat.create_feature_extractor(Loops(Reads()).eval(), ["head"], example_inputs=SMALL, engine="code")
    assert "self.child(x, [])" in extractor.code


# -- another form of result --------------------------------------------------------------------------------------------


class Returning(Child):
    def __init__(self, told: Told) -> None:
        super().__init__()
        self.flag, self.told, self.scale = False, told, 2.0


class Pairs(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(x)
        return (y, x) if self.told(self, x) else y


class Longer(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        if self.told(self, x):
            return x, x, self.linear(x)
        return x, self.linear(x)


class Grown(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        result = (self.linear(x),)
        if self.told(self, x):
            result = (*result, x)
        return result


class Named(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        if self.told(self, x):
            return {"y": self.linear(x)}
        return self.linear(x)


class Beside(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        more = x * 2 if self.told(self, x) else None
        return more, self.linear(x)


class NotBeside(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        more = None if self.told(self, x) else x * 2
        return more, self.linear(x)


class SaysSo(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        return ("more" if self.told(self, x) else "less"), self.linear(x)


class Measured(Returning):
    """Gives a number that is set on it, beside one of the input's sizes."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.scale * 3 if self.told(self, x) else self.scale, x.shape[0], self.linear(x)


class Takes(Loops):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.child(x)
        if isinstance(y, dict):
            return self.head(y["y"] * 3)
        if not isinstance(y, tuple):
            return self.head(y)
        if y[0] is None:
            return self.head(y[-1] * 4)
        return self.head(y[-1] * (5 if y[0] == "more" else y[0] if isinstance(y[0], float) else 1))


def _of_flag(child: Any, x: torch.Tensor) -> bool:
    return bool(child.flag)


def _of_value(child: Any, x: torch.Tensor) -> bool:
    return bool(x.sum() > 3)


def _of_size(child: Any, x: torch.Tensor) -> bool:
    return x.shape[0] > 3


def assert_right_or_guarded(extractor: nn.Module, model: Any) -> None:
    for flag, x in ((False, SMALL), (False, LARGE), (False, torch.zeros(5, 4)), (True, SMALL)):
        model.child.flag = flag
        try:
            got = extractor(x)["head"]
        except fxfeat.GuardError:
            assert flag or x is not SMALL
            continue
        assert same(got, model(x)), extractor.code


@pytest.mark.parametrize("told", [_of_flag, _of_value, _of_size])
@pytest.mark.parametrize("kind", [Pairs, Longer, Grown, Named, Beside, NotBeside, SaysSo, Measured])
def test_a_child_that_returns_another_form(kind: type[Returning], told: Told) -> None:
    model = Takes(kind(told)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SMALL, engine="code")
    assert_right_or_guarded(extractor, model)


def test_a_number_that_is_set_later_on_a_child_which_returns_it() -> None:
    class Gives(Returning):
        def forward(self, x: torch.Tensor) -> Any:
            return self.scale, self.linear(x)

    model = Takes(Gives(_of_flag)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SMALL, engine="code")
    assert same(extractor(LARGE)["head"], model(LARGE))
    model.child.scale = 7.0  # type: ignore[assignment]
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(LARGE)
    assert str(error.value) == (
        "This input takes another path than the recorded one: at what 'child' (Gives) returns the recording saw (2.0, "
        "'Tensor'), this input gives (7.0, 'Tensor'). Create the extractor again with example_inputs= like this input."
    )


def test_a_child_that_always_returns_as_many_tensors_is_not_checked() -> None:
    class Two(Child):
        def forward(self, x: torch.Tensor) -> Any:
            return x, self.linear(x)

    extractor = fxfeat.create_feature_extractor(Takes(Two()).eval(), ["head"], example_inputs=SMALL, engine="code")
    assert "form_of" not in extractor.code


class GivesMuch(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        more = x * 2 if self.flag else None
        return more, self.linear(x), {"rows": x.shape[0], "scale": self.scale}


class TakesMuch(Takes):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        more, y, numbers = self.child(x)
        return self.head(y * numbers["scale"] / numbers["rows"] if more is None else more)


def test_a_checked_form_compiles_exports_and_is_traced() -> None:
    model, x, y = TakesMuch(GivesMuch(_of_flag)).eval(), torch.rand(2, 4), torch.rand(5, 4)
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=x, engine="code")
    assert "form_of(x, ((2, 'rows'),))" in extractor.code
    compiled = torch.compile(extractor, fullgraph=True, backend="aot_eager")
    batch = {0: torch.export.Dim("batch", min=2)}
    exported = [
        torch.export.export(extractor, (x,), strict=strict, dynamic_shapes=(batch,)) for strict in (True, False)
    ]
    runs = [extractor, compiled, torch.fx.symbolic_trace(extractor), *(program.module() for program in exported)]
    for run in (*runs, torch.jit.trace(extractor, x, strict=False)):
        assert same(run(x)["head"], model(x)) and same(run(y)["head"], model(y))


class Counts(Returning):
    calls = 0

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        return self.calls, self.linear(x)


def test_a_child_that_counts_may_return_its_count() -> None:
    class Ignores(Takes):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.child(x)[1])

    model = Ignores(Counts(_of_flag)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SMALL, engine="code")
    for x in (SMALL, LARGE, SMALL):
        assert same(extractor(x)["head"], model.head(model.child.linear(x)))  # type: ignore[operator, union-attr]


@dataclasses.dataclass
class Result:
    y: torch.Tensor
    more: torch.Tensor | None = None


class Results(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        return Result(self.linear(x), x if self.told(self, x) else None)


class Names(dict[str, torch.Tensor]):
    """A class of the model's own."""


class InNames(Returning):
    def forward(self, x: torch.Tensor) -> Any:
        result = Names(y=self.linear(x))
        if self.told(self, x):
            result["more"] = x
        return result


class TakesResults(Takes):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.child(x)
        parts = result if isinstance(result, dict) else vars(result)
        more = parts.get("more")
        return self.head(parts["y"] if more is None else parts["y"] + more)


@pytest.mark.parametrize("told", [_of_flag, _of_value, _of_size])
@pytest.mark.parametrize("kind", [Results, InNames])
def test_a_child_that_returns_an_object(kind: type[Returning], told: Told) -> None:
    model = TakesResults(kind(told)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=SMALL)
    assert_right_or_guarded(extractor, model)
