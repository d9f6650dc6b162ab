"""``fxfeat code``: the source of an extractor."""

from __future__ import annotations

import argparse
from typing import Any

from rich.syntax import Syntax
from torch import nn

from fxfeat.api import create_feature_extractor
from fxfeat.cli.usage import Outcome
from fxfeat.emit.extractor import FeatureExtractor
from fxfeat.errors import NodeNotFoundError, TraceError
from fxfeat.modes import read_setup, record_mode
from fxfeat.name.table import name_nodes


def show_code(model: nn.Module, inputs: Any, options: argparse.Namespace, width: int | None = None) -> Outcome:
    """Print what an extractor runs; highlighted where ``width`` tells of a terminal."""
    code = make_extractor(model, inputs, options).code.strip("\n")
    if width is None:
        return Outcome(code)
    highlighted = Syntax("", "python", theme="ansi_dark", background_color="default").highlight(code)
    highlighted.rstrip()
    return Outcome(highlighted)


def make_extractor(model: nn.Module, inputs: Any, options: argparse.Namespace) -> FeatureExtractor:
    """Make the extractor that the user asked for, in the mode asked for.

    Raises:
        NodeNotFoundError: where the mode asked for has no such name.
    """
    names, training = options.nodes, options.mode == "train"
    model.train(training)
    try:
        return create_feature_extractor(model, names, example_inputs=inputs, flatten=options.flatten)
    except NodeNotFoundError:
        other = _name_any(model, inputs, not training) or names
    train, evaluation = (names, other) if training else (other, names)
    return create_feature_extractor(
        model,
        train_return_nodes=train,
        eval_return_nodes=evaluation,
        example_inputs=inputs,
        flatten=options.flatten,
    )


def _name_any(model: nn.Module, inputs: Any, training: bool) -> list[str]:
    """Name something that the mode not asked for has, as the names asked for may be in one mode alone."""
    try:
        return name_nodes(record_mode(read_setup(model, None, None, inputs), training)).listed[:1]
    except TraceError:
        return []
