"""Sizes that a model's own code refuses, as ``if height != self.image_size: raise ValueError`` does."""

from __future__ import annotations

import ast
import functools
import linecache
import types
from collections.abc import Iterator, Mapping

from fxfeat.inputs.resized import Axis
from fxfeat.ir.source_lines import OURS, is_torch

_OPERANDS = (ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Load, ast.UnaryOp, ast.USub)
"""What the two sides of a comparison may be made of: nothing is called to look at them again."""


def list_refused(error: BaseException | None, sizes: Mapping[Axis, int], others: frozenset[int]) -> frozenset[Axis]:
    """List the axes that an error says must be as long as they were, whatever the length of others.

    Args:
        error: what the model raised.
        sizes: the lengths that were tried.
        others: lengths that were left as they were; code may compare with one of them.
    """
    frame, line = _raising(error)
    if frame is None:
        return frozenset()
    pairs = {pair for test in _tests(frame.f_code.co_filename, line) for pair in _compared(test, frame)}
    both = pairs | {(right, left) for left, right in pairs}
    return frozenset(axis for axis, tried in sizes.items() if (tried, axis.size) in both and axis.size not in others)


def _raising(error: BaseException | None) -> tuple[types.FrameType | None, int]:
    """Return the frame of the model's code that raised an error, and the line; none where torch did."""
    traceback = error.__traceback__ if error is not None else None
    frame, line = None, 0
    while traceback is not None:
        frame, line = traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
    if frame is None or is_torch(frame) or frame.f_code.co_filename.startswith(OURS):
        return None, 0
    return frame, line


@functools.lru_cache(maxsize=64)
def _tests(file: str, line: int) -> tuple[ast.expr, ...]:
    """Return the tests under which the statement of a line raises."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ()
    return tuple(
        node.test
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and any(isinstance(s, ast.Raise) and s.lineno <= line <= _end(s) for s in node.body)
    )


def _end(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno


def _compared(test: ast.expr, frame: types.FrameType) -> Iterator[tuple[int, int]]:
    """Yield the numbers that a test finds to differ: by itself, or as one of several of which any will do."""
    if isinstance(test, ast.BoolOp):
        telling = [pairs for value in test.values if (pairs := list(_compared(value, frame)))]
        # Where several must differ at once, one of them alone may be another.
        if isinstance(test.op, ast.Or) or len(telling) == 1:
            yield from (pair for pairs in telling for pair in pairs)
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.NotEq) and len(test.ops) == 1:
        left, right = (_evaluate(side, frame) for side in (test.left, test.comparators[0]))
        if isinstance(left, int) and isinstance(right, int) and left != right:
            yield int(left), int(right)


def _evaluate(side: ast.expr, frame: types.FrameType) -> object:
    if not all(isinstance(node, _OPERANDS) for node in ast.walk(side)):
        return None
    try:
        return eval(compile(ast.Expression(side), "<size>", "eval"), frame.f_globals, frame.f_locals)
    except Exception:
        return None
