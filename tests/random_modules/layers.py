"""Statements that call children: layers, containers of layers, recurrent layers, attention."""

from __future__ import annotations

from tests.random_modules.writer import Child, Dims, Value, Writer

MOST = 160
_ACTIVATIONS = (
    *("nn.ReLU()", "nn.ReLU(inplace=True)", "nn.Identity()", "nn.Dropout(0.5)", "nn.SiLU(inplace=True)"),
    *("nn.Sigmoid()", "nn.LeakyReLU(0.1, inplace=True)", "nn.Hardtanh(inplace=True)", "nn.GELU()"),
    *("nn.Dropout(0.5, inplace=True)", "nn.ELU(inplace=True)", "nn.Softmax(dim=1)", "nn.Tanh()"),
)
_KEEPING_MAPS = (
    *("nn.BatchNorm2d({c})", "nn.Conv2d({c}, {c}, 3, padding=1)", "nn.GroupNorm(1, {c})", "nn.Conv2d({c}, {c}, 1)"),
    *("nn.InstanceNorm2d({c})", "nn.Conv2d({c}, {c}, 3, padding=1, groups={c})", "nn.Dropout2d(0.5)"),
    *("nn.BatchNorm2d({c}, affine=False)", "nn.BatchNorm2d({c}, track_running_stats=False)", "nn.PReLU({c})"),
    *("nn.MaxPool2d(3, stride=1, padding=1)", "nn.LocalResponseNorm(2)"),
)
_KEEPING_ROWS = ("nn.Linear({c}, {c})", "nn.LayerNorm({c})", "nn.Conv1d({l}, {l}, 1)", "nn.BatchNorm1d({l})")
_KEEPING_VECTORS = ("nn.Linear({c}, {c})", "nn.BatchNorm1d({c})", "nn.LayerNorm({c})", "nn.Bilinear({c}, {c}, {c})")


def call_layer(writer: Writer) -> bool:
    """``y = self.conv(x)``."""
    value = writer.pick()
    assert value is not None
    constructor, dims = layer(writer, value.dims)
    return call(writer, writer.child(constructor, (value.dims,), (Value("", dims),)), value)


def call_sequential(writer: Writer) -> bool:
    value = writer.pick()
    assert value is not None
    layers, dims = chain(writer, value.dims, writer.number(1, 4))
    return call(writer, writer.child(f"nn.Sequential({', '.join(layers)})", (value.dims,), (Value("", dims),)), value)


def call_again(writer: Writer) -> bool:
    """Call a child a second time, on a value that suits it."""
    if not writer.children:
        return False
    child = writer.among(writer.children)
    value = writer.pick(*{len(dims) for dims in child.takes[:1]})
    return value is not None and call(writer, child, value)


def call(writer: Writer, child: Child, value: Value) -> bool:
    """Call a child, and name what it returns or leave it."""
    given = [value, *(writer.pick(len(dims)) for dims in child.takes[1:])]
    if any(held is None or held.dims != dims for held, dims in zip(given, child.takes, strict=True)):
        return False
    called = f"{child.reached}({_arguments(writer, [held.name for held in given if held is not None])})"
    if writer.one_in(8):
        writer.line(called)
    elif child.gives[0].name:
        _keep_parts(writer, called, child.gives)
    else:
        writer.keep(called, child.gives[0].dims, value)
    return True


def _arguments(writer: Writer, names: list[str]) -> str:
    if len(names) == 2 and writer.one_in(2):
        return f"{names[0]}, y={names[1]}"
    return ", ".join(names)


def _keep_parts(writer: Writer, called: str, gives: tuple[Value, ...]) -> None:
    name = writer.variable()
    writer.line(f"{name} = {called}")
    for part in gives:
        writer.know(Value(f"{name}{part.name}", part.dims))


def loop_over_list(writer: Writer) -> bool:
    """``for layer in self.layers: x = layer(x)``, collecting what each gives or not."""
    value = writer.pick()
    assert value is not None
    if not value.is_variable:
        return False
    layers = [keeping(writer, value.dims) for _ in range(writer.number(1, 3))]
    name = writer.attribute("layers")
    kind = writer.among(("list", "dict", "repeated", "enumerated", "sliced"))
    _plant_layers(writer, name, kind, layers)
    collected = writer.variable() if writer.one_in(2) and writer.indent == 0 else ""
    if collected:
        writer.line(f"{collected} = []")
    with writer.block(_head(name, kind)):
        writer.line(f"{value.name} = layer({value.name})")
        if collected:
            writer.line(f"{collected}.append({value.name})")
    if collected and kind != "sliced":
        _use_collected(writer, collected, value, len(layers))
    return True


def _plant_layers(writer: Writer, name: str, kind: str, layers: list[str]) -> None:
    if kind == "dict":
        held = ", ".join(f'"k{index}": {layer}' for index, layer in enumerate(layers))
        writer.setup.append(f"self.{name} = nn.ModuleDict({{{held}}})")
    elif kind == "repeated":
        writer.setup.append(f"self.{name} = nn.ModuleList([{layers[0]}] * {len(layers)})")
    else:
        writer.setup.append(f"self.{name} = nn.ModuleList([{', '.join(layers)}])")


def _head(name: str, kind: str) -> str:
    if kind == "dict":
        return f"for _, layer in self.{name}.items():"
    if kind == "enumerated":
        return f"for _, layer in enumerate(self.{name}):"
    return f"for layer in self.{name}[1:]:" if kind == "sliced" else f"for layer in self.{name}:"


def _use_collected(writer: Writer, collected: str, value: Value, count: int) -> None:
    wide = (count * value.dims[0], *value.dims[1:])
    if wide[0] <= MOST and writer.one_in(2):
        writer.keep(f"torch.cat({collected}, 1)", wide)
    else:
        writer.know(Value(f"{collected}[0]", value.dims))


def call_inner(writer: Writer) -> bool:
    """Use a layer's parameters without calling it, or its forward without its hooks."""
    value = writer.pick(3)
    if value is None:
        return False
    channels = value.dims[0]
    layer = writer.child(f"nn.Conv2d({channels}, {channels}, 1)", (value.dims,), (Value("", value.dims),)).reached
    used = writer.among(
        ("F.conv2d({v}, {m}.weight, {m}.bias)", "{m}.forward({v})", "{m}({v}) + {m}.bias[:, None, None]")
    )
    writer.keep(used.format(v=value.name, m=layer), value.dims, value)
    return True


def call_branches(writer: Writer) -> bool:
    """Call the layers of a list side by side."""
    value = writer.pick()
    assert value is not None
    layers = [keeping(writer, value.dims) for _ in range(writer.number(1, 3))]
    name = writer.attribute("branches")
    writer.setup.append(f"self.{name} = nn.ModuleList([{', '.join(layers)}])")
    joined = writer.among(("sum(layer({v}) for layer in self.{m})", "[layer({v}) for layer in self.{m}][-1]"))
    writer.keep(joined.format(v=value.name, m=name), value.dims, value)
    return True


def call_checkpointed(writer: Writer) -> bool:
    value = writer.pick()
    if value is None or not writer.one_in(4):
        return False
    child = writer.child(keeping(writer, value.dims), (value.dims,), (Value("", value.dims),))
    called = f"torch.utils.checkpoint.checkpoint({child.reached}, {value.name}, use_reentrant=False)"
    writer.keep(called, value.dims, value)
    return True


def loop_over_range(writer: Writer) -> bool:
    """Call the same child several times."""
    value = writer.pick()
    assert value is not None
    if not value.is_variable:
        return False
    fit = [
        child for child in writer.children if child.takes == (value.dims,) and child.gives == (Value("", value.dims),)
    ]
    child = writer.among(fit) if fit and writer.one_in(2) else None
    child = child or writer.child(keeping(writer, value.dims), (value.dims,), (Value("", value.dims),))
    with writer.block(f"for _ in range({writer.number(1, 3)}):"):
        writer.line(f"{value.name} = {child.reached}({value.name})")
    return True


def call_recurrent(writer: Writer) -> bool:
    """Layers that return tuples."""
    value = writer.pick(2)
    if value is None or value.dims[1] > 16:
        return False
    # fxfeat records at larger sizes too, step by step: a few steps are enough.
    length, width = min(value.dims[0], 4), value.dims[1]
    short = writer.keep(f"{value.name}[:, :4]", (length, width))
    kind = writer.among(("GRU", "LSTM", "MultiheadAttention", "TransformerEncoderLayer"))
    if kind == "MultiheadAttention":
        gives = (Value("[0]", short.dims), Value("[1]", (length, length)))
        child = writer.child(f"nn.{kind}({width}, 1, batch_first=True)", (short.dims,) * 3, gives)
    elif kind == "TransformerEncoderLayer":
        child = writer.child(f"nn.{kind}({width}, 1, 4, batch_first=True)", (short.dims,), (Value("", short.dims),))
    else:
        child = writer.child(f"nn.{kind}({width}, 3, batch_first=True)", (short.dims,), (Value("[0]", (length, 3)),))
    return call(writer, child, short)


# -- constructors ------------------------------------------------------------------------------------------------------


def chain(writer: Writer, dims: Dims, count: int) -> tuple[list[str], Dims]:
    layers = []
    for _ in range(count):
        constructor, dims = layer(writer, dims)
        layers.append(constructor)
    return layers, dims


def layer(writer: Writer, dims: Dims) -> tuple[str, Dims]:
    """Return the constructor of a layer that takes some sizes, and the sizes that it gives."""
    if writer.one_in(3):
        return _changing(writer, dims)
    return keeping(writer, dims), dims


def keeping(writer: Writer, dims: Dims) -> str:
    """Return the constructor of a layer that keeps the shape."""
    own = {3: _KEEPING_MAPS, 2: _KEEPING_ROWS, 1: _KEEPING_VECTORS}[len(dims)]
    return writer.among((*own, *_ACTIVATIONS)).format(c=dims[-1] if len(dims) < 3 else dims[0], l=dims[0])


def _changing(writer: Writer, dims: Dims) -> tuple[str, Dims]:
    width = writer.number(2, 6)
    if len(dims) == 1:
        return f"nn.Linear({dims[0]}, {width})", (width,)
    if len(dims) == 2:
        return f"nn.Linear({dims[1]}, {width})", (dims[0], width)
    return writer.among(_maps(dims, width))


def _maps(dims: Dims, width: int) -> list[tuple[str, Dims]]:
    channels, height, across = dims
    options = [(f"nn.Conv2d({channels}, {width}, 1)", (width, height, across))]
    options.append((f"nn.Conv2d({channels}, {width}, 3, padding=1)", (width, height, across)))
    options.append(("nn.AdaptiveAvgPool2d(1)", (channels, 1, 1)))
    if min(height, across) >= 4:
        halved = ((height + 1) // 2, (across + 1) // 2)
        options.append((f"nn.Conv2d({channels}, {width}, 3, stride=2, padding=1)", (width, *halved)))
        options.append(("nn.MaxPool2d(2)", (channels, height // 2, across // 2)))
    if max(height, across) <= 8:
        doubled = (height * 2, across * 2)
        options.append(("nn.Upsample(scale_factor=2)", (channels, *doubled)))
        options.append((f"nn.ConvTranspose2d({channels}, {width}, 2, stride=2)", (width, *doubled)))
    if channels * height * across <= MOST:
        options.append(("nn.Flatten()", (channels * height * across,)))
    return options


LAYERS = (
    *(call_layer, call_layer, call_layer, call_layer, call_sequential, call_again, call_again, loop_over_list),
    *(loop_over_range, call_recurrent, call_inner, call_branches, call_checkpointed),
)
