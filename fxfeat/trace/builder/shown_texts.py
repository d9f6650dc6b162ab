"""Tell text that people read from text that code goes by."""

from __future__ import annotations

import ast
import functools
import linecache
import re
import types

from fxfeat.ir.source_lines import OURS

_SHOWS = re.compile(r"(.*_)?(print|warn|log|debug|info|error|critical|exception|assert|check)")


def is_for_people(frame: types.FrameType) -> bool:
    """Say whether the code that is making a text only shows it: it raises, asserts, warns, prints or logs."""
    file = frame.f_code.co_filename
    if file.startswith(OURS) or frame.f_globals.get("__name__") in ("logging", "warnings"):
        return True
    around = [s for s in _statements(file) if s.lineno <= frame.f_lineno <= (s.end_lineno or 0)]
    last = max((statement.lineno for statement in around), default=0)
    innermost = [statement for statement in around if statement.lineno == last]
    return bool(innermost) and all(map(_shows, innermost))


@functools.lru_cache(maxsize=256)
def _statements(file: str) -> tuple[ast.stmt, ...]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.stmt))


def _shows(statement: ast.stmt) -> bool:
    """Say whether a statement raises, asserts, or calls what is named like a logger and takes no result.

    >>> [_shows(ast.parse(code).body[0]) for code in ("logger.info(text)", "names[text] = x", "raise ValueError(text)")]
    [True, False, True]
    """
    if isinstance(statement, (ast.Raise, ast.Assert)):
        return True
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return False
    called = statement.value.func
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return _SHOWS.match(name) is not None
