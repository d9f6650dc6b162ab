"""Read what the user typed, and say on one line what is wrong with it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from fxfeat.cli.arguments import read_arguments
from fxfeat.cli.usage import BAD_USAGE, FAILED, GOOD, INTERRUPTED
from fxfeat.errors import FxfeatError, GuardError, NodeNotFoundError, TraceError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``fxfeat`` command.

    Example:
        >>> main(["nodes", "torch.nn:Linear", "--arg", "in_features=4", "--arg", "out_features=3", "--flat"])
        input ...
        linear ...
        0

    Args:
        argv: the arguments; those of the process if not given.

    Returns:
        0 where all is well, 1 where a check failed, 2 for a wrong usage, 130 where the user interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except SystemExit as stop:
        # argparse printed its help.
        return GOOD if stop.code is None else int(stop.code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"fxfeat: {_explain(error, arguments)}", file=sys.stderr)
        return FAILED if isinstance(error, GuardError) else BAD_USAGE


def _run(arguments: Sequence[str]) -> int:
    options = read_arguments(arguments)
    # Only now, since it imports torch: help and wrong usages need none.
    from fxfeat.cli.run_command import run_command

    return run_command(options)


def _explain(error: Exception, arguments: Sequence[str]) -> str:
    """Put an error on one line, with what to type here where it speaks of Python."""
    said = " ".join(str(error).split())
    if isinstance(error, NodeNotFoundError):
        return f"{said} Type: fxfeat nodes {_model_of(arguments)}"
    if isinstance(error, TraceError) and "example_inputs=" in said:
        return f"{said} Here that is --input-shape, as in --input-shape 2,3,224,224."
    if isinstance(error, FxfeatError):
        return said
    return f"{type(error).__name__}: {said} Type the same with --debug to see where."


def _model_of(arguments: Sequence[str]) -> str:
    return str(read_arguments(arguments).model)
