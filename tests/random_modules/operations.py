"""Statements without children: arithmetic, views, writes in place, shape arithmetic, constants, random numbers."""

from __future__ import annotations

from tests.random_modules.layers import MOST
from tests.random_modules.writer import Dims, Value, Writer

_SAME = (
    *("{v} + 1", "{v} * 2", "F.relu({v})", "F.relu({v}, inplace=True)", "{v}.mul_(2)", "{v}.detach()", "{v}.clone()"),
    *("{v}.contiguous()", "{v}.to({v}.dtype)", "{v}.float()", "{v}.double().float()", "{v}[:]", "torch.sigmoid({v})"),
    *("{v}.view({v}.shape)", "{v}.view_as({v})", "{v}.reshape({v}.size())", "-{v}", "{v} - {v}.mean()", "{v}.tanh()"),
    *("{v} / {v}.numel()", "{v} * {v}.shape[-1]", "F.dropout({v}, 0.5, self.training)", "{v}.softmax(1)", "{v}.data"),
    *("F.dropout({v}, 0.5, self.training, inplace=True)", "{v} + torch.randn_like({v})", "{v}.clamp(-1, 1)"),
    *("torch.where({v} > 0, {v}, {v} * 0.1)", "{v}.flip(1)", "{v}.roll(1, -1)", "torch.zeros_like({v})"),
    *("torch.ones({v}.shape) * {v}", "{v}.new_ones({v}.shape[-1]) + {v}", "F.layer_norm({v}, {v}.shape[-1:])"),
    *("{v} * torch.arange({v}.shape[-1], dtype={v}.dtype)", "{v} if {v}.shape[0] > 1 else {v} * 2", "{v}"),
    *("torch.tensor(2.0) * {v}", "{v}.cumsum(-1)", "{v} + torch.rand({v}.shape[0], *[1] * ({v}.dim() - 1))"),
    *("torch.bernoulli(torch.sigmoid({v}))", "{v}.sigmoid_()", "[{v}, {v} * 2][0]", "{v}.expand_as({v})"),
    *(
        "{v} * len({v})",
        "{v} + max({v}.shape)",
        "{v}.flatten(1).view({v}.shape)",
        "{v}.type_as({v})",
        "{v}.half().float()",
    ),
    *("{v} * torch.full(({v}.shape[-1],), 0.5)", "{v}.squeeze(0)", "{v}.abs().sqrt()", "{v}.pow(2)", "halve({v})"),
    *(
        "double_({v})",
        "{v}.addcmul({v}, {v})",
        "{v} + torch.linspace(0, 1, {v}.shape[-1])",
        "torch.full_like({v}, 2.0)",
    ),
    *(
        "{v}.index_select(1, torch.arange({v}.shape[1]))",
        "{v}.masked_fill({v} > 0, 0.0)",
        "{v}.requires_grad_({v}.requires_grad)",
    ),
    *("{v} + {v}[{v} > 0].sum()", "{v} * ({v} > 0).sum()", "torch.einsum('n...->n...', {v})", "torch.atleast_2d({v})"),
    *(
        "{v}.new_tensor(3.0) + {v}",
        "{v}.sort(-1)[0]",
        "{v}.sort(-1).values",
        "F.normalize({v}, dim=1)",
        "{v}.to(torch.float32)",
    ),
)
_BOTH = (
    *("{v} + {w}", "{v} - {w}", "torch.mul({v}, {w})", "{v}.add_({w})", "{v} * torch.sigmoid({w})", "sum([{v}, {w}])"),
    *("torch.maximum({v}, {w})", "torch.stack([{v}, {w}]).sum(0)", "torch.where({v} > {w}, {v}, {w})"),
    *("torch.lerp({v}, {w}, 0.5)", "{v} + {w}.detach()", "torch.add({v}, {w}, alpha=2)", "{v}.sub_({w}).relu_()"),
    *(
        "torch.stack([{v}, {w}])[0]",
        "torch.cat([{v}, {w}], 0)[: {v}.shape[0]]",
        "{v}.view_as({w})",
        "{v}.expand_as({w})",
    ),
)
_WRITES = (
    *(
        "{v}.mul_(2)",
        "{v}.add_(1)",
        "F.relu({v}, inplace=True)",
        "torch.relu_({v})",
        "{v}.clamp_(min=0)",
        "{v}.sigmoid_()",
    ),
    *("{v}.data.clamp_(max=0.5)", "{v}.detach().mul_(3)", "{v}[:, 0] = 0", "{v}[:, 0:1] += 1", "{v}[:, :1].mul_(2)"),
    *("{v}[0].zero_()", "{v}[..., 0] *= 2", "{v}[:, -1].add_({v}[:, 0])", "{v}.view(-1)[1:3] = 7.0", "{v}.neg_()"),
    *("{v}.flatten(1)[:, :2] = 7.0", "{v}.transpose(0, 1)[0].zero_()", "{v}[{v} > 0.5] = 0.5", "double_({v})"),
    *("{v}.masked_fill_({v} < 0, 0)", "nn.ReLU(inplace=True)({v})", "{v}.copy_({v} * 2)", "{v}.fill_(1.5)"),
    *("{v}[:] = {v} * 2", "{v}.index_fill_(1, torch.tensor([0]), 3.0)", "{v}.narrow(1, 0, 1).mul_(2)"),
    *("{v}.select(1, 0).fill_(2)", "{v}.unsqueeze(1).mul_(2)", "{v}.diagonal(dim1=0, dim2=1).fill_(1.0)"),
    *("{v}.view({v}.shape[0], -1)[:, 0] -= 1", "{v}.squeeze().mul_(0.5)", "{v}.bernoulli_(0.5)", "{v}.normal_()"),
    *("F.dropout({v}, 0.5, self.training, inplace=True)", "{v}[:, {v}.shape[1] // 2 :].zero_()", "{v}.T.add_(1)"),
    *("{v}.swapaxes(0, 1).add_(1)", "{v}.data[0] = 1", "F.threshold_({v}, 0.1, 0.0)"),
    *("{v}.as_strided((2,), (1,)).mul_(3)", "{v}.movedim(0, -1).mul_(0.5)", "{v}.expand_as({v})[0].add_(1)"),
)
_WRITES_TO_VARIABLES = ("{v} += 1", "{v} *= 0.5", "{v} -= {v}.mean()", "{v} /= 2", "{v} **= 2", "{v} //= 0.5")
_WRITES_WITHOUT_GRAD = (
    *("torch.add({v}, 1, out={v})", "{v}.unbind(1)[0].mul_(2)", "{v}.chunk(2, 1)[0].sigmoid_()"),
    *("[part.add_(1) for part in {v}.unbind(0)]", "{v}.split(1, 1)[0].zero_()", "torch.sigmoid({v}, out={v})"),
)
_WRITES_OF_OTHERS = (
    *("{v}.add_({w})", "{v}.copy_({w})", "{v}[:, :1] = {w}[:, :1]", "{v}.lerp_({w}, 0.5)", "{v}.addcmul_({w}, {w})"),
    *("{v}.data.add_({w})", "{v}[0].copy_({w}[0])", "{v}[:, 0].mul_({w}[:, 0])", "{v}.masked_fill_({w} > 0, 0)"),
)
_GIVES = (
    *("self.box.flag = True", "self.box.flag = not self.box.flag", "self.box.flag = {v}.shape[-1] > 4"),
    *(
        "self.box.count += 1",
        "self.box.count = {v}.shape[0]",
        "self.box.kept = {v}",
        "self.box.kept = {v}.detach() * 2",
    ),
    *("self.box.list.append(1)", "self.box.list = [{v}]", "self.box.list.clear()", "setattr(self.box, 'count', 3)"),
)
_TAKES = (
    *("{v} * 2 if self.box.flag else {v} + 1", "{v} + self.box.count", "{v} * len(self.box.list)"),
    *("{v} if self.box.kept is None else {v} + self.box.kept.mean()", "{v} + (self.box.count > 1)"),
    "{v} + sum(held if isinstance(held, int) else held.mean() for held in self.box.list)",
)
_PAIRS = (
    *("{a}, {b} = {v}.chunk(2, 1)", "{a}, {b} = {v}.split({h}, 1)", "{a}, {b} = torch.split({v}, [{h}, {h}], 1)"),
    *("{a}, {b} = {v}[:, :{h}], {v}[:, {h}:]", "{a}, {b} = torch.tensor_split({v}, 2, 1)"),
)


# -- expressions -------------------------------------------------------------------------------------------------------


def compute(writer: Writer) -> bool:
    value = writer.pick()
    assert value is not None
    writer.keep(writer.among(_SAME).format(v=value.name), value.dims, value)
    return True


def combine(writer: Writer) -> bool:
    value = writer.pick()
    assert value is not None
    writer.keep(writer.among(_BOTH).format(v=value.name, w=writer.like(value).name), value.dims, value)
    return True


def alias(writer: Writer) -> bool:
    """``z = y``."""
    value = writer.pick()
    assert value is not None
    name = writer.variable()
    writer.line(f"{name} = {value.name}")
    writer.know(Value(name, value.dims, value.writable))
    return True


def swap(writer: Writer) -> bool:
    left = writer.pick()
    assert left is not None
    right = writer.like(left)
    if left == right or not (left.is_variable and right.is_variable):
        return False
    writer.line(f"{left.name}, {right.name} = {right.name}, {left.name}")
    return True


def reshape(writer: Writer) -> bool:
    """Change the shape, by a view more often than not."""
    value = writer.pick()
    assert value is not None
    options = {1: _vectors, 2: _rows, 3: _maps}[len(value.dims)](writer, value)
    fit = [(text, dims) for text, dims in options if _size(dims) <= MOST * 4 and min(dims) > 0]
    if not fit:
        return False
    text, dims = writer.among(fit)
    writer.keep(text.format(v=value.name), dims, value)
    return True


def _size(dims: Dims) -> int:
    size = 1
    for held in dims:
        size *= held
    return size


def _maps(writer: Writer, value: Value) -> list[tuple[str, Dims]]:
    c, h, w = value.dims
    options: list[tuple[str, Dims]] = [
        ("{v}.mean((2, 3))", (c,)),
        ("{v}.flatten(2).transpose(1, 2)", (h * w, c)),
        ("{v}.transpose(2, 3)", (c, w, h)),
        (f"{{v}}[:, :{(c + 1) // 2}]", ((c + 1) // 2, h, w)),
        ("{v}[:, ::2]", ((c + 1) // 2, h, w)),
        ("{v}[:, :, : {v}.shape[2] // 2]", (c, h // 2, w)),
        ("{v}[..., 1:]", (c, h, w - 1)),
        ("{v}.mean((2, 3), keepdim=True)", (c, 1, 1)),
        ("{v}.amax(1, keepdim=True)", (1, h, w)),
        ("F.interpolate({v}, scale_factor=2)", (c, 2 * h, 2 * w)),
        ("F.interpolate({v}, size=({v}.shape[2] + 1, {v}.shape[3] * 2))", (c, h + 1, 2 * w)),
        ("F.adaptive_avg_pool2d({v}, ({v}.shape[2] // 2, 1))", (c, h // 2, 1)),
        ("F.pad({v}, (0, {v}.shape[3] % 2))", (c, h, w + w % 2)),
        ("F.max_pool2d({v}, 2)", (c, h // 2, w // 2)),
        ("{v}.view({v}.size(0), -1)", (c * h * w,)),
        ("{v}.reshape({v}.shape[0], {v}.shape[1], -1)", (c, h * w)),
        ("{v}.permute(0, 2, 3, 1).reshape({v}.shape[0], -1, {v}.shape[1])", (h * w, c)),
        ("{v}[:, 0]", (h, w)),
        ("{v}[..., 0]", (c, h)),
        ("torch.cat([{v}, {v} * 2], 1)", (2 * c, h, w)),
        ("torch.cat([{v}, torch.zeros({v}.shape[0], 1, *{v}.shape[2:])], 1)", (c + 1, h, w)),
        ("{v}.repeat(1, 2, 1, 1)", (2 * c, h, w)),
        ("{v}.permute(0, 2, 3, 1)", (h, w, c)),
    ]
    if h % 2 == 0:
        options.append(("{v}.view({v}.shape[0], {v}.shape[1], {v}.shape[2] // 2, 2, -1).amax(3)", (c, h // 2, w)))
        options.append(("{v}.unflatten(2, (-1, 2)).flatten(1, 2)[:, :, 0:1]", (c * h // 2, 1, w)))
    if c % 2 == 0:
        shuffle = "{v}.view({v}.shape[0], 2, -1, *{v}.shape[2:]).transpose(1, 2).reshape({v}.shape)"
        options.append((shuffle, (c, h, w)))
    if c == 1:
        options.append(("{v}.expand(-1, 3, -1, -1) * 1", (3, h, w)))
    vector = next((held for held in writer.values[::-1] if held.dims == (c,)), None)
    if vector is not None:
        options.append((f"{{v}} * torch.sigmoid({vector.name})[:, :, None, None]", (c, h, w)))
    other = next((held for held in writer.values if len(held.dims) == 3 and held.dims[1:] == (h, w)), value)
    options.append((f"torch.cat([{{v}}, {other.name}], 1)", (c + other.dims[0], h, w)))
    sized = next((held for held in writer.values if len(held.dims) == 3), value)
    options.append((f"F.interpolate({{v}}, size={sized.name}.shape[2:])", (c, *sized.dims[1:])))
    return options


def _rows(writer: Writer, value: Value) -> list[tuple[str, Dims]]:
    length, c = value.dims
    options: list[tuple[str, Dims]] = [
        ("{v}.mean(1)", (c,)),
        ("{v}[:, 0]", (c,)),
        ("{v}.transpose(1, 2)", (c, length)),
        ("{v}[:, 1:]", (length - 1, c)),
        ("{v} @ {v}.transpose(1, 2)", (length, length)),
        ("{v}.unsqueeze(1)", (1, length, c)),
        ("F.scaled_dot_product_attention({v}, {v}, {v})", (length, c)),
        ("{v}[:, {v}.shape[1] // 2]", (c,)),
        ("{v}.flatten(1)", (length * c,)),
        ("torch.cat([{v}[:, :1], {v}], dim=1)", (length + 1, c)),
    ]
    other = next((held for held in writer.values if len(held.dims) == 2 and held.dims[1] == c), value)
    options.append((f"torch.cat([{{v}}, {other.name}], 1)", (length + other.dims[0], c)))
    return options


def _vectors(writer: Writer, value: Value) -> list[tuple[str, Dims]]:
    (c,) = value.dims
    options: list[tuple[str, Dims]] = [
        ("{v}[:, :, None, None]", (c, 1, 1)),
        ("{v}.unsqueeze(1)", (1, c)),
        (f"{{v}}[:, :{(c + 1) // 2}]", ((c + 1) // 2,)),
        ("{v}.view({v}.shape[0], -1, 1, 1)", (c, 1, 1)),
        ("{v}[:, 1:]", (c - 1,)),
        ("{v}.sum(1, keepdim=True)", (1,)),
        ("torch.outer({v}[:, 0], {v}[0])", (c,)),
    ]
    other = next((held for held in writer.values if len(held.dims) == 1), value)
    options.append((f"torch.cat([{{v}}, {other.name}], 1)", (c + other.dims[0],)))
    return options


def split(writer: Writer) -> bool:
    """``a, b = x.chunk(2, 1)``."""
    value = writer.pick()
    assert value is not None
    if value.dims[0] % 2:
        return False
    half = value.dims[0] // 2
    left, right = writer.variable(), writer.variable()
    writer.line(writer.among(_PAIRS).format(a=left, b=right, v=value.name, h=half))
    for name in (left, right):
        writer.know(Value(name, (half, *value.dims[1:]), not writer.program.grad))
    return True


def measure(writer: Writer) -> bool:
    """``n, c, h, w = x.shape``, and something made of it."""
    value = writer.pick(3)
    if value is None:
        return False
    c, h, w = value.dims
    writer.line(f"n, c, h, w = {value.name}.shape")
    options = [
        ("{v}.reshape(n, c, h * w).transpose(1, 2)", (h * w, c)),
        ("{v}.view(n * c, 1, h, w).view(n, c, h, w)", (c, h, w)),
        ("{v} * (h // 2) + w % 3", (c, h, w)),
        ("{v} + torch.arange(w).view(1, 1, 1, w) / h", (c, h, w)),
        ("{v}.new_zeros(n, c, h, w) + {v}", (c, h, w)),
        ("{v}[:, :, : max(h // 2, 1), : min(w, 4)]", (c, max(h // 2, 1), min(w, 4))),
        ("F.adaptive_max_pool2d({v}, (round(h / 2), int(w / 2)))", (c, round(h / 2), int(w / 2))),
        ("F.pad({v}, (0, (4 - w % 4) % 4, 0, (4 - h % 4) % 4))", (c, h + (4 - h % 4) % 4, w + (4 - w % 4) % 4)),
        ("{v} * math.sqrt(h) / math.ceil(w / 3)", (c, h, w)),
    ]
    text, dims = writer.among([(text, dims) for text, dims in options if min(dims) > 0])
    writer.keep(text.format(v=value.name), dims, value)
    return True


# -- writes ------------------------------------------------------------------------------------------------------------


def write(writer: Writer) -> bool:
    """Overwrite a value, itself or through a view, as a statement whose result nobody takes."""
    value = writer.pick(writable=True)
    if value is None:
        return False
    options = _WRITES + (_WRITES_TO_VARIABLES if value.is_variable else ())
    options += () if writer.program.grad else _WRITES_WITHOUT_GRAD
    writer.line(writer.among(options).format(v=value.name))
    return True


def write_other(writer: Writer) -> bool:
    value = writer.pick(writable=True)
    if value is None:
        return False
    options = _WRITES_OF_OTHERS + (("{v} += {w}", "{v} *= {w}") if value.is_variable else ())
    options += () if writer.program.grad else ("torch.add({w}, 1, out={v})", "torch.mul({v}, {w}, out={v})")
    writer.line(writer.among(options).format(v=value.name, w=writer.like(value).name))
    return True


# -- state -------------------------------------------------------------------------------------------------------------


def count_calls(writer: Writer) -> bool:
    """A buffer that counts, read or not."""
    count = writer.buffer("count", writer.among(("torch.zeros(())", "torch.zeros((), dtype=torch.long)")))
    writer.line(writer.among(("{b} += 1", "{b}.add_(1)", "{b} = {b} + 1")).format(b=count))
    value = writer.pick()
    if value is not None and writer.one_in(2):
        writer.keep(f"{value.name} * {count}", value.dims, value)
    return True


def average(writer: Writer) -> bool:
    """A moving average of a value, read before, after or never."""
    value = writer.pick(1, 3)
    if value is None or writer.indent:
        return False
    mean = writer.buffer("mean", f"torch.zeros({value.dims[0]})")
    axes = "0" if len(value.dims) == 1 else "(0, 2, 3)"
    spread = mean if len(value.dims) == 1 else f"{mean}.view(1, -1, 1, 1)"
    if writer.one_in(3):
        writer.keep(f"{value.name} - {spread}", value.dims)
    update = writer.among(
        (
            "{b}.mul_(0.9).add_({v}.detach().mean({axes}), alpha=0.1)",
            "{b} = 0.9 * {b} + 0.1 * {v}.detach().mean({axes})",
            "{b}.copy_(torch.lerp({b}, {v}.detach().mean({axes}), 0.1))",
            "{b}.data.add_({v}.detach().mean({axes}))",
            "{b}[:1] = {v}.detach().mean({axes})[:1]",
        )
    )
    writer.line(update.format(b=mean, v=value.name, axes=axes))
    if writer.one_in(2):
        writer.keep(f"{value.name} + {spread}", value.dims, value)
    return True


def stash(writer: Writer) -> bool:
    """Keep a value on the module and read it a line later."""
    value = writer.pick()
    assert value is not None
    name = writer.attribute("held")
    writer.setup.append(f"self.{name} = None")
    writer.line(f"self.{name} = {value.name}")
    writer.know(Value(f"self.{name}", value.dims, value.writable))
    return True


def exchange(writer: Writer) -> bool:
    """Put other memory behind a tensor, which fxfeat may refuse; seldom, because it does."""
    value = writer.pick(writable=True)
    if value is None or not writer.one_in(12):
        return False
    writer.line(f"{value.name}.data = {value.name}.data * 2")
    return True


def hand_on(writer: Writer) -> bool:
    """Give something to other modules, or take it, past arguments and results; seldom, because fxfeat may refuse."""
    value = writer.pick()
    if value is None or not writer.one_in(3):
        return False
    writer.share_box()
    if writer.one_in(2):
        writer.line(writer.among(_GIVES).format(v=value.name))
    else:
        writer.keep(writer.among(_TAKES).format(v=value.name), value.dims, value)
    return True


def gather(writer: Writer) -> bool:
    """Put values into a dict or a list, and take them out again."""
    value = writer.pick()
    assert value is not None
    name = writer.variable()
    other = writer.like(value).name
    shown = writer.among(("{{'a': {v}, 'b': {w}}}", "[{v}, {w}]"))
    writer.line(f"{name} = {shown.format(v=value.name, w=other)}")
    keys = ("'a'", "'b'") if shown.startswith("{{") else ("0", "1")
    for key in keys:
        writer.know(Value(f"{name}[{key}]", value.dims, value.writable))
    if writer.one_in(2):
        writer.line(f"{name}[{keys[0]}] += 1" if value.writable else f"{name}[{keys[0]}] = {other} * 2")
    return True


def shrink(writer: Writer) -> bool:
    """A loop whose end depends on a size."""
    value = writer.pick(3)
    if value is None or writer.indent or not value.is_variable:
        return False
    c, h, w = value.dims
    name = writer.keep(f"{value.name} * 1", value.dims).name
    while w > 4:
        h, w = (h + 1) // 2, (w + 1) // 2
    writer.line(f"while {name}.shape[-1] > 4:")
    writer.line(f"    {name} = F.avg_pool2d({name}, 2, ceil_mode=True)")
    writer.know(Value(name, (c, h, w)))
    return True


def scale(writer: Writer) -> bool:
    """A parameter, or a plain tensor that is an attribute."""
    value = writer.pick()
    assert value is not None
    name = writer.attribute("scale")
    made = writer.among(("nn.Parameter(torch.rand({w}))", "torch.rand({w})", "nn.Parameter(torch.rand(()))"))
    writer.setup.append(f"self.{name} = {made.format(w=value.dims[-1])}")
    writer.keep(f"{value.name} * self.{name}", value.dims, value)
    return True


OPERATIONS = (compute, compute, compute, combine, combine, reshape, reshape, write, write, write, write_other)
RARE = (alias, swap, split, split, measure, count_calls, average, scale, stash, gather, shrink, exchange, hand_on)
