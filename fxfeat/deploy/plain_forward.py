"""Write the methods of a saved class from what was emitted: imports apart, checks as ``if ...: raise``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from fxfeat.codegen.extractor import FeatureExtractor, call_of, head_of
from fxfeat.deploy.runtime_texts import RUNTIME_TEXTS
from fxfeat.errors import TraceError
from fxfeat.ir.emission import Emission, Source

_TAB = "    "
_FREE = frozenset(("torch", "numpy", "einops")) | sys.stdlib_module_names
"""Packages that saved code may import."""


@dataclass(frozen=True)
class PlainCode:
    """The methods of a saved class, and what stands above it: import lines, and functions."""

    imports: frozenset[str]
    functions: frozenset[str]
    methods: tuple[str, ...]


def write_forward(extractor: FeatureExtractor, any_package: bool) -> PlainCode:
    """Write ``forward``, and one method for each mode where these differ.

    Args:
        extractor: what is to be saved.
        any_package: whether the code may import the model's own package.

    Raises:
        TraceError: naming what cannot be imported.
    """
    forms = extractor.forms
    written = [_split(form.source) for form in forms.emissions]
    imports = frozenset(line for lines, _ in written for line in lines)
    _refuse_carried(extractor)
    functions = frozenset(map(_runtime_name, imports)) - {"", "check"}
    imports = frozenset(line for line in imports if not _runtime_name(line))
    if not any_package:
        _refuse_packages(extractor, imports)
    if isinstance(forms.train, Emission) and isinstance(forms.eval, Emission) and written[0] == written[1]:
        return PlainCode(imports, functions, (_plain(written[0][1]),))
    methods = [
        _plain(_split(form.source)[1].replace("def forward(", f"def _forward_{name}(", 1))
        if isinstance(form, Emission)
        else _raising(extractor, name, str(form))
        for name, form in (("train", forms.train), ("eval", forms.eval))
    ]
    return PlainCode(imports, functions, (_dispatch(extractor), *methods))


def _split(source: Source) -> tuple[tuple[str, ...], str]:
    """Return the import lines, and the method."""
    above, define, below = source.text.partition("def forward(")
    return tuple(line for line in above.splitlines() if line), define + below


def _head_of(extractor: FeatureExtractor) -> str:
    """Return the first line of ``forward``, without the imports above."""
    return "def " + head_of(extractor.forms)[0].partition("def ")[2]


def _dispatch(extractor: FeatureExtractor) -> str:
    head = _head_of(extractor)
    me, call = call_of(head)
    return (
        f"{head}\n{_TAB}run = {me}._forward_train if {me}.training else {me}._forward_eval\n{_TAB}return run({call})\n"
    )


def _raising(extractor: FeatureExtractor, name: str, message: str) -> str:
    head = _head_of(extractor).replace("def forward(", f"def _forward_{name}(", 1)
    return f"{head}\n{_TAB}raise RuntimeError({message!r})\n"


# -- what it needs -----------------------------------------------------------------------------------------------------


def _runtime_name(line: str) -> str:
    """Return the name of the function that a line imports from ``fxfeat.runtime``, or nothing.

    >>> _runtime_name("from fxfeat.runtime.check import check"), _runtime_name("import torch")
    ('check', '')
    """
    return line.rpartition(" import ")[2] if line.startswith("from fxfeat.runtime.") else ""


def _refuse_carried(extractor: FeatureExtractor) -> None:
    carried = {name: value for form in extractor.forms.emissions for name, value in form.source.namespace.items()}
    if carried:
        name, value = next(iter(carried.items()))
        raise TraceError(
            f"{extractor.original} cannot be saved as code, for it uses {name.lstrip('_')!r}, a {type(value).__name__} "
            "that no import reaches. Define it at the top of a file, or pickle the extractor instead."
        )


def _refuse_packages(extractor: FeatureExtractor, imports: frozenset[str]) -> None:
    for line in sorted(imports):
        package = line.split()[1].partition(".")[0]
        if package not in _FREE:
            raise TraceError(
                f"{extractor.original} cannot be saved as code that needs torch alone, for fxfeat cannot look into "
                f"what `{line}` brings. Save it with modules='given', which goes on importing {package}."
            )


# -- checks ------------------------------------------------------------------------------------------------------------


def _plain(method: str) -> str:
    lines = [part for line in method.splitlines() for part in _plain_lines(line)]
    return "\n".join(lines) + "\n"


def _plain_lines(line: str) -> Iterator[str]:
    statement = line.lstrip()
    if not statement.startswith("check("):
        yield line
        return
    indent = line[: len(line) - len(statement)]
    call = ast.parse(statement).body[0]
    assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call)
    actual, expected, place = call.value.args
    message = (
        f"This input takes another path than the one written here, for which {ast.literal_eval(place)} was "
        f"{ast.unparse(expected)}."
    )
    yield f"{indent}if {_spell_difference(actual, expected)}:"
    yield f"{indent}{_TAB}raise ValueError({message!r})"


def _spell_difference(actual: ast.expr, expected: ast.expr) -> str:
    """Spell when a value is not what was recorded.

    >>> spell = lambda text, value: _spell_difference(*(ast.parse(one, mode="eval").body for one in (text, value)))
    >>> spell("x.shape[2] == 224", "True"), spell("mask", "None"), spell("len(x)", "3")
    ('x.shape[2] != 224', 'mask is not None', 'len(x) != 3')
    >>> spell("x.shape[0] > 1", "False"), spell("x.shape[0] > 1", "True")
    ('x.shape[0] > 1', 'not x.shape[0] > 1')
    """
    value = expected.value if isinstance(expected, ast.Constant) else ...
    if value is None:
        return f"{_spell_operand(actual)} is not None"
    if not isinstance(value, bool):
        return f"{_spell_operand(actual)} != {_spell_operand(expected)}"
    if not value:
        return ast.unparse(actual)
    if isinstance(actual, ast.Compare) and len(actual.ops) == 1 and isinstance(actual.ops[0], ast.Eq):
        return ast.unparse(ast.Compare(actual.left, [ast.NotEq()], actual.comparators))
    return ast.unparse(ast.UnaryOp(ast.Not(), actual))


def _spell_operand(value: ast.expr) -> str:
    text = ast.unparse(value)
    return f"({text})" if isinstance(value, (ast.Compare, ast.BoolOp, ast.Lambda, ast.IfExp)) else text


def list_functions(code: PlainCode) -> list[str]:
    """Return the texts of the functions that code calls.

    Raises:
        TraceError: for one that needs fxfeat.
    """
    missing = sorted(code.functions - RUNTIME_TEXTS.keys())
    if missing:
        raise TraceError(f"The code calls {missing[0]} of fxfeat, which no file can bring along. Pickle the extractor.")
    return [RUNTIME_TEXTS[name] for name in sorted(code.functions)]
