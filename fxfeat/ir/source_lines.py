"""Tell a model's own code from that of torch, Python and fxfeat."""

from __future__ import annotations

import ast
import contextlib
import functools
import linecache
import sys
import types
from pathlib import Path
from typing import Any

import torch

OURS = f"{Path(__file__).parent.parent}/"
EXTRACTOR = "<fxfeat extractor "
"""What the file of an extractor's code is called, before a number."""
_ASSERTIONS = ("assert ", "assert(", "_assert(", "torch._assert(", "torch._check")
_TORCH = f"{Path(torch.__file__).parent}/"


def model_line() -> tuple[str, str]:
    """Return ``("file.py:12", "if x.shape[0] > 1:")`` for the innermost frame outside fxfeat and torch."""
    filename, line = _model_place()
    source = linecache.getline(filename, line).strip()
    if filename.startswith(EXTRACTOR):
        # A truth value is made on the line before the one that checks it.
        below = linecache.getline(filename, line + 1).strip()
        checked = next((text for text in (source, below) if text.startswith("check(")), None)
        return (f"{filename}:{line}", source) if checked is None else _place_checked(checked)
    return f"{_shorten(filename)}:{line}", source


@functools.lru_cache(maxsize=4096)
def _place_checked(source: str) -> tuple[str, str]:
    """Return the place that a check of an extractor names: where such code is recorded, that is still where it was."""
    call: Any = ast.parse(source).body[0]
    where, _, inner = str(ast.literal_eval(call.value.args[2])).partition(": `")
    return where, inner.removesuffix("`")


def is_raising() -> bool:
    """Say whether the line of the model that runs is an ``if`` under which it raises, whatever else holds."""
    return _raises_below(*_model_place())


@functools.lru_cache(maxsize=16384)
def _raises_below(filename: str, line: int) -> bool:
    condition, _, statement = linecache.getline(filename, line).strip().rpartition(":")
    if not condition.startswith("if ") or " and " in condition or (" or " in condition and " not " in condition):
        return False
    return (statement or linecache.getline(filename, line + 1)).strip().startswith("raise ")


def _model_place() -> tuple[str, int]:
    """Return the file and the line of the innermost frame outside fxfeat and torch."""
    frame = (
        _first(sys._getframe(1), (OURS, _TORCH, contextlib.__file__))
        or _first(sys._getframe(1), (OURS,))
        or sys._getframe(1)
    )
    return frame.f_code.co_filename, frame.f_lineno


def count_own_frames() -> int:
    """Count the frames of fxfeat's own, from the caller on outwards: whose line a warning is to name comes next."""
    count, frame = 0, sys._getframe(1)
    while frame.f_code.co_filename.startswith(OURS) and frame.f_back is not None:
        count, frame = count + 1, frame.f_back
    return count


def is_assertion(source: str) -> bool:
    """Say whether what a line decides leads nowhere else: the other branch raises."""
    return source.startswith(_ASSERTIONS)


def is_torch(frame: types.FrameType) -> bool:
    """Say whether torch's own code or fxfeat's is running, whose questions are not the model's."""
    return str(frame.f_globals.get("__name__")).split(".")[0] in ("torch", "fxfeat")


def is_library(value: Any) -> bool:
    """Say whether a class or a function is Python's or torch's own, which keeps nothing of a model's."""
    return str(getattr(value, "__module__", "")).partition(".")[0] in ("torch", "builtins", "typing")


@functools.lru_cache(maxsize=16384)
def names_in(code: types.CodeType) -> tuple[str, ...]:
    """List the globals and attributes that code names, that of the functions and comprehensions in it as well."""
    inner = [name for constant in code.co_consts if isinstance(constant, types.CodeType) for name in names_in(constant)]
    return (*code.co_names, *inner)


def _shorten(filename: str) -> str:
    """Name an installed file as it is imported, so that emitted code is the same on every machine."""
    roots = [root for root in sys.path if root.endswith("-packages") and filename.startswith(f"{root}/")]
    return filename[len(max(roots, key=len)) + 1 :] if roots else filename


def _first(frame: types.FrameType | None, skipped: tuple[str, ...]) -> types.FrameType | None:
    while frame is not None and frame.f_code.co_filename.startswith(skipped):
        frame = frame.f_back
    return frame
