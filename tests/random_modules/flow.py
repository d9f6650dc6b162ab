"""Statements that hold others: branches, regions, blocks with a class of their own."""

from __future__ import annotations

from tests.random_modules.layers import LAYERS, call
from tests.random_modules.operations import OPERATIONS, RARE
from tests.random_modules.writer import BATCH, Dims, Program, Value, Writer

_DEEPEST = 3


def write_body(writer: Writer, fewest: int, most: int) -> None:
    for _ in range(writer.number(fewest, most)):
        _write_statement(writer)


def _write_statement(writer: Writer) -> None:
    kinds = (LAYERS, OPERATIONS, LAYERS, OPERATIONS, RARE, FLOW)
    writer.among(writer.among(kinds))(writer)


# -- branches ----------------------------------------------------------------------------------------------------------


def branch(writer: Writer) -> bool:
    if writer.indent > 1:
        return False
    condition, _ = _condition(writer)
    with writer.block(f"if {condition}:"):
        write_body(writer, 1, 2)
    if writer.one_in(2):
        with writer.block("else:"):
            write_body(writer, 1, 2)
    return True


def _condition(writer: Writer) -> tuple[str, bool | None]:
    """Return a condition, and whether it holds at the example's size where that is known."""
    value = writer.pick()
    assert value is not None
    other = writer.pick(len(value.dims)) or value
    last, limit = value.dims[-1], writer.number(1, 12)
    options: list[tuple[str, bool | None]] = [
        (f"{value.name}.shape[-1] > {limit}", last > limit),
        (f"{value.name}.shape[-1] % 2 == 0", last % 2 == 0),
        (f"{value.name}.shape[0] == 1", BATCH == 1),
        (f"len({value.name}) > 1", BATCH > 1),
        (f"{value.name}.dim() == {len(value.dims) + 1}", True),
        (f"{value.name}.numel() > {limit * 20}", None),
        ("self.training", None),
        ("not self.training", None),
        (f"{value.name}.shape == {other.name}.shape", value.dims == other.dims),
        (f"{value.name}.shape[1:] != {other.name}.shape[1:]", value.dims != other.dims),
        (f"min({value.name}.shape) >= 2", min(BATCH, *value.dims) >= 2),
        (f"{value.name}.size(1) in (2, 4)", value.dims[0] in (2, 4)),
        (f"bool({value.name}.mean() > 0)", None),
    ]
    # A decision on values needs real data to record with: slow, so seldom.
    return writer.among(options if writer.one_in(8) else options[:-1])


def return_early(writer: Writer) -> bool:
    condition, holds = _condition(writer)
    if writer.indent or holds is not False:
        return False
    value = writer.pick()
    assert value is not None
    writer.line(f"if {condition}:")
    writer.line(f"    return {value.name}")
    return True


def without_grad(writer: Writer) -> bool:
    if writer.indent > 1:
        return False
    with writer.block("with torch.no_grad():"):
        write_body(writer, 1, 2)
    return True


# -- blocks ------------------------------------------------------------------------------------------------------------


def call_block(writer: Writer) -> bool:
    """Call a child that has a class of its own: a new one, or another instance of one that there is."""
    value = writer.pick()
    assert value is not None
    if writer.depth >= _DEEPEST:
        return False
    known = [held for held in writer.program.signatures if held[1][0] == value.dims]
    if known and writer.one_in(3):
        name, takes, gives = writer.among(known)
    else:
        takes = (value.dims,) if writer.one_in(2) else (value.dims, writer.like(value).dims)
        name, gives = write_class(writer.program, takes, writer.depth + 1)
    return call(writer, writer.child(f"{name}()", takes, gives), value)


def write_class(program: Program, takes: tuple[Dims, ...], depth: int) -> tuple[str, tuple[Value, ...]]:
    """Write a class for some arguments, and say what its forward returns."""
    arguments = [Value(name, dims) for name, dims in zip("xyz", takes, strict=False)]
    writer = Writer(program, arguments, depth)
    fewest, most = (1, 5) if depth else (2, 10)
    write_body(writer, fewest, most)
    gives = _return(writer)
    if program.shares and not depth:
        # A later call starts where the first one did: what it would go by is refused, as README says.
        writer.share_box()
        writer.lines.insert(0, "self.box.__init__()")
    name = f"Block{len(program.classes)}" if depth else "Model"
    program.classes.append(writer.text(name, ", ".join(held.name for held in arguments)))
    program.signatures.append((name, takes, gives))
    return name, gives


def _return(writer: Writer) -> tuple[Value, ...]:
    """Write the ``return``: a tensor, or a tuple, list or dict of some."""
    first, second = writer.pick(), writer.pick()
    assert first is not None and second is not None
    kind = writer.among(("tensor", "tensor", "tensor", "tensor", "tuple", "dict", "list", "nested", "sizes"))
    texts = {
        "tensor": "{a}",
        "tuple": "{a}, {b}",
        "dict": "{{'out': {a}, 'aux': {b}}}",
        "list": "[{a}, {b}]",
        "nested": "{a}, {{'aux': ({b}, None)}}",
        "sizes": "{a}, {b}.shape[0]",
    }
    suffixes = {
        "tensor": ("",),
        "tuple": ("[0]", "[1]"),
        "dict": ("['out']", "['aux']"),
        "list": ("[0]", "[1]"),
        "nested": ("[0]", "[1]['aux'][0]"),
        "sizes": ("[0]",),
    }
    writer.line(f"return {texts[kind].format(a=first.name, b=second.name)}")
    return tuple(Value(suffix, held.dims) for suffix, held in zip(suffixes[kind], (first, second), strict=False))


FLOW = (call_block, call_block, call_block, branch, return_early, without_grad)
