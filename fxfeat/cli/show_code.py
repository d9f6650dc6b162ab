"""``fxfeat code``: the source of an extractor."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.syntax import Syntax
from torch import nn

from fxfeat.api import create_feature_extractor
from fxfeat.cli.usage import Outcome, UsageError
from fxfeat.codegen.extractor import FeatureExtractor, Modules
from fxfeat.errors import NodeNotFoundError, TraceError
from fxfeat.names.table import name_nodes
from fxfeat.trace.setup import read_setup, record_mode


def show_code(model: nn.Module, inputs: Any, options: argparse.Namespace, width: int | None = None) -> Outcome:
    """Print what an extractor runs, highlighted where ``width`` tells of a terminal; or write a file of it."""
    extractor = make_extractor(model, inputs, options)
    if options.out is not None:
        return _write_file(extractor, options.out, options.modules)
    code = extractor.code.strip("\n")
    if width is None:
        return Outcome(code)
    highlighted = Syntax("", "python", theme="ansi_dark", background_color="default").highlight(code)
    highlighted.rstrip()
    # The terminal wraps long lines itself; a line break of ours would be copied along.
    highlighted.no_wrap, highlighted.overflow = True, "ignore"
    return Outcome(highlighted)


def _write_file(extractor: FeatureExtractor, path: str, modules: Modules) -> Outcome:
    try:
        extractor.save_code(path, modules=modules)
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written: {error.strerror}.") from error
    text = Path(path).read_text()
    name = text.rpartition("\nclass ")[2].partition("(")[0]
    made = "()" if modules == "torch" else "(model)"
    return Outcome(f"{path}: {name}{made}, {len(text.splitlines())} lines. Its load_state_dict takes the weights.")


def make_extractor(model: nn.Module, inputs: Any, options: argparse.Namespace) -> FeatureExtractor:
    """Make the extractor that the user asked for, in the mode asked for.

    Raises:
        NodeNotFoundError: where the mode asked for has no such name.
    """
    model.train(options.mode == "train")
    try:
        extractor = create_feature_extractor(
            model, options.nodes, example_inputs=inputs, flatten=options.flatten, engine=options.engine
        )
        assert extractor.emission  # raises where this mode lacks a name
    except NodeNotFoundError as error:
        there = _list_names(model, inputs, options.mode != "train")
        raise NodeNotFoundError(f"{error}{_point_to_mode(error, options, there)}") from error
    return extractor


def _list_names(model: nn.Module, inputs: Any, training: bool) -> list[str]:
    try:
        return name_nodes(record_mode(read_setup(model, None, None, inputs), training)).listed
    except TraceError:
        return []


def _point_to_mode(error: NodeNotFoundError, options: argparse.Namespace, there: list[str]) -> str:
    other = "eval" if options.mode == "train" else "train"
    there_only = [name for name in options.nodes if name in there and repr(name) in str(error)]
    return f" In {other} mode there is one: --mode {other}." if there_only else ""
