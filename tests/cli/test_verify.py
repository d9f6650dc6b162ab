"""``fxfeat verify``."""

from __future__ import annotations

import dataclasses

import pytest

from fxfeat.cli.check_extractor import check_extractor
from fxfeat.eager.verify import Verification, verify
from fxfeat.errors import GuardError

SHAPE = ("--input-shape", "2,3,8,8")


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_equal(run, mode):
    code, out, err = run("verify", "tiny.py:Tiny", "--nodes", "conv,body,drop,output", "--mode", mode, *SHAPE)
    assert (code, err) == (0, "")
    assert out.endswith("equal bit for bit: 4 of 4\n")


def test_words(run):
    assert run("verify", "tiny.py:words", "--nodes", "0,1").code == 0


def test_not_equal_is_exit_code_1(run, monkeypatch):
    def differ(*args, **kwargs):
        first, *rest = verify(*args, **kwargs).rows
        return Verification((dataclasses.replace(first, equal=False, max_abs_diff=0.25, note="differs"), *rest))

    monkeypatch.setitem(check_extractor.__globals__, "verify", differ)
    code, out, err = run("verify", "tiny.py:Tiny", "--nodes", "conv,body", *SHAPE)
    assert (code, err) == (1, "")
    assert out.endswith("NOT equal: 1 of 2\n")


def test_another_path_is_a_failed_check(run, monkeypatch):
    def refuse(*args, **kwargs):
        raise GuardError("This input takes another path.")

    monkeypatch.setitem(check_extractor.__globals__, "verify", refuse)
    result = run("verify", "tiny.py:Tiny", "--nodes", "conv", *SHAPE)
    assert tuple(result) == (1, "", "fxfeat: This input takes another path.\n")
