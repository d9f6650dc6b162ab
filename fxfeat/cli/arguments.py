"""Read the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn, get_args

from fxfeat.cli.usage import MODEL_FORMS, UsageError, suggest
from fxfeat.ir.engine import Engine

MODULES = ("torch", "given")
COMMANDS = ("nodes", "code", "verify", "pyramid")
ENGINES = get_args(Engine)
_MODES = ("train", "eval")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage, so that one line says what is wrong."""
        raise UsageError(f"{message}. Type: {self.prog} --help")


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of one of the commands.

    >>> read_arguments(["code", "timm:vit_base_patch16_224", "--nodes", "norm"]).mode
    'eval'

    Raises:
        UsageError: where they cannot be read.
    """
    _check_command(argv)
    options, rest = _make_parser().parse_known_args(argv)
    if rest:
        raise UsageError(_explain_rest(options, rest[0]))
    return options


def _check_command(argv: Sequence[str]) -> None:
    if not argv:
        raise UsageError(f"which command? There are {', '.join(COMMANDS)}. Type: fxfeat --help")
    asked = next((word for word in argv if not word.startswith("-")), None)
    if asked is None or asked in COMMANDS:
        return
    raise UsageError(
        f"there is no command {asked!r}; the commands are {', '.join(COMMANDS)}.{suggest(asked, COMMANDS)} "
        "Type: fxfeat --help"
    )


def _explain_rest(options: argparse.Namespace, word: str) -> str:
    command = f"fxfeat {options.command}"
    if not word.startswith("-"):
        return f"{command} takes one MODEL, so {word!r} has no place. Type: {command} --help"
    options_there = _known_options(options.command)
    near = suggest(word.partition("=")[0], options_there)
    return f"{command} has no option {word!r}; it has {', '.join(options_there)}.{near}"


def _known_options(command: str) -> list[str]:
    shared = ["--arg", "--input-shape", "--mode", "--debug"]
    if command == "pyramid":
        own = ["--json", "--out-indices", "--strides", "--output-stride", "--engine"]
        return own + [option for option in shared if option != "--mode"]
    request = ["--nodes", "--flatten", "--engine"]
    others = {"nodes": ["--flat", "--depth", "--grep", "--json"], "code": [*request, "--out", "--modules"]}
    return others.get(command, request) + shared


def _make_parser() -> _Parser:
    parser = _Parser(prog="fxfeat", description="Look inside PyTorch models, and cut feature extractors out of them.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_nodes(_add_command(commands, "nodes", "print the names of a model's nodes"))
    code = _add_command(commands, "code", "print the source of an extractor, or write it to a file")
    _add_request(code)
    code.add_argument(
        "--out", metavar="FILE", help="write a file of plain PyTorch, which needs neither fxfeat nor MODEL"
    )
    code.add_argument("--modules", choices=MODULES, default="torch", help="given: the file takes its parts from MODEL")
    _add_request(_add_command(commands, "verify", "compare an extractor with forward hooks, bit for bit"))
    pyramid = _add_command(commands, "pyramid", "print the feature maps of each resolution, or of each block")
    pyramid.add_argument("--json", action="store_true", help="print JSON")
    pyramid.add_argument("--out-indices", type=_read_indices, metavar="INDICES", help="levels, as in 1,2 or 0,-1")
    pyramid.add_argument("--strides", type=_read_strides, metavar="STRIDES", help="reductions, as in 4,8 or 8,16x8")
    _add_engine(pyramid)
    pyramid.add_argument("--output-stride", type=int, metavar="N", help="the largest reduction, such as 8")
    return parser


def _add_command(commands: argparse._SubParsersAction[_Parser], name: str, summary: str) -> _Parser:
    description = f"{summary[0].upper()}{summary[1:]}."
    parser = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help=MODEL_FORMS)
    parser.add_argument("--arg", action="append", default=[], metavar="KEY=VALUE", help="argument for the callable")
    parser.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="SHAPE",
        help="shape of one input, such as 2,3,224,224 or 2,16:int64; repeat it for more inputs",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and warnings")
    return parser


def _add_nodes(parser: _Parser) -> None:
    parser.add_argument("--mode", choices=(*_MODES, "both"), default="eval", help="default: eval")
    parser.add_argument("--flat", action="store_true", help="whole names under each other instead of a tree")
    parser.add_argument("--depth", type=_read_depth, metavar="N", help="show names of at most N parts")
    parser.add_argument("--grep", metavar="PATTERN", help="show names that hold this text or match this expression")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_request(parser: _Parser) -> None:
    parser.add_argument("--mode", choices=_MODES, default="eval", help="default: eval")
    parser.add_argument("--nodes", required=True, type=split_names, metavar="NAMES", help="names, commas between them")
    parser.add_argument("--flatten", action="store_true", help="write every module out down to the leaves")
    _add_engine(parser)


def _add_engine(parser: _Parser) -> None:
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="auto: tap modules that cannot be written out"
    )


def _read_depth(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no depth; write a number from 1, as in --depth 2")
    return int(text)


def _read_indices(text: str) -> tuple[int, ...]:
    """Read indices with commas between them.

    >>> _read_indices("1,2,-1")
    (1, 2, -1)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} are no indices; write numbers as in --out-indices 1,2") from error


def _read_strides(text: str) -> tuple[int | tuple[int, ...], ...]:
    """Read reductions with commas between them, each a number or one for each axis.

    >>> _read_strides("4,8,16x8")
    (4, 8, (16, 8))
    """
    try:
        steps = [tuple(int(step) for step in part.split("x")) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} are no strides; write numbers as in --strides 4,8") from error
    return tuple(step if len(step) > 1 else step[0] for step in steps)


def split_names(text: str) -> list[str]:
    """Split at commas, but not inside brackets.

    >>> split_names("layer1, lstm[1][0],out['a,b']")
    ['layer1', 'lstm[1][0]', "out['a,b']"]
    """
    names, level = [""], 0
    for letter in text:
        level += (letter == "[") - (letter == "]")
        if letter == "," and level <= 0:
            names.append("")
        else:
            names[-1] += letter
    stripped = [name.strip() for name in names if name.strip()]
    if not stripped:
        raise argparse.ArgumentTypeError(f"{text!r} holds no name; write names as in --nodes layer1,layer2")
    return stripped
