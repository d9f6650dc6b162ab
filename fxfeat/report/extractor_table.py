"""What an extractor returns, opened, checks and keeps, as lines of text and as a rich table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fxfeat.codegen.extractor import FeatureExtractor
from fxfeat.errors import FxfeatError
from fxfeat.ir.emission import DimStatus, Emission, Row
from fxfeat.ir.tree import spell
from fxfeat.report.spelled_shapes import spell_dtype, spell_shape
from fxfeat.report.tables import make_table

_MOST_CHECKS = 5
_MOST_MODULES = 8


def render_extractor(extractor: FeatureExtractor) -> RenderableType:
    """Show an extractor: a table of what it returns, then what was opened, checked and pruned.

    Example:
        >>> import fxfeat, torch
        >>> extractor = fxfeat.create_feature_extractor(torch.nn.Sequential(torch.nn.Linear(4, 3)), ["0"])
        >>> from rich.console import Console
        >>> Console(width=60).print(render_extractor(extractor))
        FeatureExtractor of Sequential, train mode
        ...

    Args:
        extractor: what ``create_feature_extractor`` returned.

    Returns:
        Something that ``rich.print`` prints.
    """
    title = Text(f"FeatureExtractor of {extractor.original}, {_mode(extractor)} mode", style="bold")
    emission = _find_emission(extractor)
    if isinstance(emission, FxfeatError):
        return Group(title, Text(str(emission)))
    checks = [Text(f"  {check}") for check in extractor.guards[:_MOST_CHECKS]]
    parts: list[RenderableType] = [
        _tabulate(extractor.rows),
        *map(Text, _list_tapped(extractor)),
        *map(Text, _summarize(extractor)),
        *checks,
        *_say_more(extractor),
    ]
    return Group(title, *parts, *([_tabulate_sizes(extractor.freedoms)] if extractor.freedoms else []))


def describe_extractor(extractor: FeatureExtractor) -> list[str]:
    """Say in short lines what an extractor returns, opened and keeps."""
    emission = _find_emission(extractor)
    if isinstance(emission, FxfeatError):
        return [f"no {_mode(extractor)} mode: {emission}"]
    return [*map(_describe_row, extractor.rows), *_list_tapped(extractor), *_summarize(extractor)]


def _find_emission(extractor: FeatureExtractor) -> Emission | FxfeatError:
    try:
        return extractor.emission
    except FxfeatError as error:
        return error


def _mode(extractor: FeatureExtractor) -> str:
    if extractor.is_mixed:
        return "mixed"
    return "train" if extractor.training else "eval"


def _describe_row(row: Row) -> str:
    dtype = "" if row.dtype is None else f" {spell_dtype(row.dtype)}"
    name = "" if row.name == row.key else f" {row.name}"
    return f"{row.key!r}:{name} {spell_shape(row.shape)}{dtype}"


def _tabulate(rows: Sequence[Row]) -> Table:
    table = make_table("key", "name", "shape", "dtype")
    for row in rows:
        table.add_row(Text(row.key), Text(row.name), Text(spell_shape(row.shape)), Text(spell_dtype(row.dtype)))
    return table


_FREEDOMS = {
    "free": "any size: found to give the same code",
    "checked": "any size that the checks let pass",
    "fixed": "this size only",
}


def _tabulate_sizes(freedoms: Sequence[DimStatus]) -> Table:
    table = make_table("input", "size", "example", "may be")
    for status in freedoms:
        name = f"{status.parameter}{spell(status.steps)}"
        table.add_row(Text(name), Text(status.axis), Text(str(status.size)), Text(_FREEDOMS[status.state]))
    return table


def _summarize(extractor: FeatureExtractor) -> list[str]:
    count = len(extractor.guards)
    checks = f"checks: {count}" if count else "checks: none"
    return [_list_opened(extractor.emission.opened), checks, _compare_parameters(extractor)]


def _list_tapped(extractor: FeatureExtractor) -> list[str]:
    calls = extractor.emission.tapped
    reasons = {call.path or f"all of {extractor.original}": " ".join(call.reason.split()) for call in calls}
    return [f"runs whole: {path} ({reason})" for path, reason in reasons.items()]


def _list_opened(opened: Sequence[str]) -> str:
    if not opened:
        return "opened: none"
    more = f" and {len(opened) - _MOST_MODULES} more" if len(opened) > _MOST_MODULES else ""
    return f"opened: {', '.join(opened[:_MOST_MODULES])}{more}"


def _compare_parameters(extractor: FeatureExtractor) -> str:
    before = extractor.parameters_before
    after = sum(parameter.numel() for parameter in extractor.parameters())
    share = f" ({after / before:.1%} kept)" if before else ""
    return f"parameters: {before:,} before, {after:,} after{share}"


def _say_more(extractor: FeatureExtractor) -> list[Text]:
    more = len(extractor.guards) - _MOST_CHECKS
    return [Text(f"  and {more} more")] if more > 0 else []
