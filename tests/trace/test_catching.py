"""Regions that end an error: what runs inside may fail on another input, and the code goes on behind."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from tests.oracle import assert_equals_eager, assert_taps_equal_eager

GOOD = torch.eye(8) * 2
BAD = torch.zeros(8, 8)


class Swallow:
    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        return kind is not None


class Polite:
    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.left = True


@contextlib.contextmanager
def swallowing():
    try:
        yield
    except RuntimeError as error:
        assert str(error)


@contextlib.contextmanager
def polite():
    try:
        yield
    finally:
        pass


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)


class Suppressed(Two):
    def forward(self, x):
        y = self.a(x)
        with contextlib.suppress(RuntimeError):
            y = y + torch.linalg.cholesky(x)
        return self.b(y)


class Factor(nn.Module):
    def forward(self, x):
        return torch.linalg.cholesky(x)


class SuppressedWhole(Two):
    def __init__(self):
        super().__init__()
        self.c = Factor()

    def forward(self, x):
        y = self.a(x)
        with contextlib.suppress(RuntimeError):
            y = y + self.c(x)
        return self.b(y)


class OwnClass(Two):
    def forward(self, x):
        y = self.a(x)
        with Swallow():
            y = y + torch.linalg.cholesky(x)
        return self.b(y)


class OwnObject(Two):
    def forward(self, x):
        y, region = self.a(x), Swallow()
        with region:
            y = y + torch.linalg.cholesky(x)
        return self.b(y)


class OwnFunction(Two):
    def forward(self, x):
        y = self.a(x)
        with swallowing():
            y = y + torch.linalg.cholesky(x)
        return self.b(y)


class Stacked(Two):
    def forward(self, x):
        y = self.a(x)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(RuntimeError))
            y = y + torch.linalg.cholesky(x)
        return self.b(y)


def _factor_or_nothing(x):
    with contextlib.suppress(RuntimeError):
        return torch.linalg.cholesky(x)
    return x


class InAHelper(Two):
    def forward(self, x):
        return self.b(self.a(x) + _factor_or_nothing(x))


@pytest.mark.filterwarnings("ignore:.*runs whole")
@pytest.mark.parametrize("kind", [Suppressed, SuppressedWhole, OwnClass, OwnObject, OwnFunction, Stacked, InAHelper])
def test_code_that_goes_on_after_an_error_runs_whole(kind):
    assert_taps_equal_eager(kind().eval(), ["a", "output"], GOOD, BAD, GOOD * 3)


class LetsErrorsPass(Two):
    def forward(self, x):
        y = self.a(x)
        with polite(), Polite(), torch.no_grad(), contextlib.nullcontext():
            y = y + torch.linalg.cholesky(x)
        return self.b(y)


def test_regions_that_let_errors_pass_are_written_out():
    assert_equals_eager(LetsErrorsPass(), ["a", "output"], GOOD, GOOD * 3, engine="code")


class ExplainsAnError(Two):
    def forward(self, x):
        y = self.a(x)
        try:
            y = y + torch.linalg.cholesky(x)
        except RuntimeError as error:
            raise ValueError("x is no positive matrix") from error
        return self.b(y)


class NotesAnError(Two):
    def forward(self, x):
        y = self.a(x)
        try:
            y = y + torch.linalg.cholesky(x)
        except TypeError:
            raise
        except Exception:
            self.log("failed")
            raise
        return self.b(y)

    def log(self, text):
        print(text)


@pytest.mark.parametrize("kind", [ExplainsAnError, NotesAnError])
def test_handlers_that_always_raise_are_written_out(kind):
    assert_equals_eager(kind(), ["a", "output"], GOOD, GOOD * 3, engine="code")


class ExplainsAndGoesOn(Two):
    def forward(self, x):
        y = self.a(x)
        try:
            try:
                y = y + torch.linalg.cholesky(x)
            except RuntimeError as error:
                raise ValueError("x is no positive matrix") from error
        except ValueError:
            y = y * 2
        return self.b(y)


class GoesOnAroundARegion(Two):
    def forward(self, x):
        y = self.a(x)
        try:
            with polite():
                y = y + torch.linalg.cholesky(x)
        except RuntimeError:
            y = y * 2
        return self.b(y)


@pytest.mark.filterwarnings("ignore:.*runs whole")
@pytest.mark.parametrize("kind", [ExplainsAndGoesOn, GoesOnAroundARegion])
def test_handlers_further_out_that_go_on_count_too(kind):
    assert_taps_equal_eager(kind().eval(), ["a", "output"], GOOD, BAD, GOOD * 3)
