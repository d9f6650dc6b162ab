"""Example inputs: the user's, or worked out from the model."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fxfeat.errors import RequestError, TraceError
from fxfeat.ir.example import Example, Sizes
from fxfeat.ir.tree import copy_tensors, tensors

_BATCH = 2
_SPREAD = 2.0
_TEXT_LENGTH = 16
_IMAGE_SIZES = (224, 256, 299, 64, 32, 28)
_CLIPS = ((16, 112, 112), (16, 224, 224), (64, 64, 64), (32, 32, 32))
_SIGNAL_LENGTHS = (16000, 1024, 128)
_PIXELS = "pixel_values"
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def sizes_of(example: Example) -> Sizes:
    """List the shape and dtype of each tensor in an example.

    >>> sizes_of(Example((torch.zeros(2, 3),)))
    (((2, 3), torch.float32),)
    """
    given = (tensor for _, tensor in tensors((example.args, example.kwargs)))
    rows = (row for tensor in given for row in (tensor.unbind() if tensor.is_nested else (tensor,)))
    return tuple((tuple(row.shape), row.dtype) for row in rows)


def copy_example(example: Example) -> Example:
    """Copy the tensors of an example, which a model may write to."""
    args, kwargs = copy_tensors((example.args, example.kwargs))
    return Example(args, kwargs)


def other_values(example: Example) -> Example:
    """Copy an example with other numbers in it, small ones and large ones of either sign; whole numbers stay.

    >>> other_values(Example((torch.zeros(2, 3),))).args[0].abs().sum() > 0
    tensor(True)
    """
    spread = copy_example(example)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _, tensor in tensors((spread.args, spread.kwargs)):
            if tensor.is_floating_point():
                tensor.normal_(std=_SPREAD)
    return spread


def read_call(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Example:
    """Read the arguments of a call, which may be one ``example_inputs`` that holds them all.

    >>> read_call(inspect.signature(lambda x, y: x), ({"x": 1, "y": 2},), {}).kwargs
    {'x': 1, 'y': 2}
    """
    if kwargs or len(args) != 1 or not (isinstance(args[0], Mapping) or type(args[0]) is tuple):
        return Example(args, kwargs)
    example = read_example(args[0])
    try:
        signature.bind(*example.args, **example.kwargs)
    except TypeError:
        return Example(args, kwargs)
    return example


def read_example(example_inputs: Any) -> Example:
    """Read what the user passed as ``example_inputs``.

    Args:
        example_inputs: a tensor, a tuple of positional arguments or a mapping of keyword arguments.

    Raises:
        RequestError: for anything else.

    Example:
        >>> read_example(torch.zeros(1)).args
        (tensor([0.]),)
    """
    if isinstance(example_inputs, Example):
        return example_inputs
    if isinstance(example_inputs, torch.Tensor):
        return Example((example_inputs,))
    if type(example_inputs) is tuple:
        return Example(example_inputs)
    if isinstance(example_inputs, Mapping):
        return Example((), {str(name): value for name, value in example_inputs.items()})
    raise RequestError(
        f"example_inputs is a {type(example_inputs).__name__}; it must be a tensor, a tuple of positional arguments or "
        "a dict of keyword arguments. For one argument that is a list, write example_inputs=([...],)."
    )


def bind(model: nn.Module, example: Example) -> inspect.BoundArguments:
    """Bind an example to the signature of ``model.forward``, defaults filled in.

    Raises:
        TraceError: where it does not fit.
    """
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*example.args, **example.kwargs)
    except TypeError as error:
        name = type(model).__name__
        raise TraceError(f"example_inputs do not fit {name}.forward{signature}: {error}. Pass others.") from error
    bound.apply_defaults()
    return bound


def guess_examples(model: nn.Module, concrete_args: dict[str, Any] | None = None) -> Iterator[Example]:
    """Yield examples that may suit ``model``, likeliest first.

    The size comes from a ``pretrained_cfg``, ``default_cfg`` or ``config``; else it is a usual one. What kind of input
    it is comes from the first convolution, embedding, recurrent or linear layer.
    """
    given = dict(concrete_args or {})
    wanted = [parameter for parameter in _inputs(model) if parameter.name not in given]
    if not wanted:
        yield Example((), given)
        return
    images = _images_beside(model, {*given, *(parameter.name for parameter in wanted)})
    if images is not None and len(wanted) == 1:
        text = next(_main_inputs(model, wanted[0].name))
        yield Example((), {wanted[0].name: text, _PIXELS: images, **given})
    for main in _main_inputs(model, wanted[0].name):
        values = {parameter.name: _like(parameter, main) for parameter in wanted}
        leading = _count_leading(model, wanted)
        positional = tuple(values[p.name] for p in wanted[:leading])
        named = {p.name: values[p.name] for p in wanted[leading:] if p.kind not in _VARIADIC}
        extra = (main,) if any(p.kind is p.VAR_POSITIONAL for p in wanted) else ()
        yield Example(positional + extra, {**named, **given})


def _images_beside(model: nn.Module, names: set[str]) -> torch.Tensor | None:
    """Draw images for a model that takes them beside its texts, as CLIP does."""
    config = getattr(model, "config", None)
    if not (hasattr(config, "text_config") and hasattr(config, "vision_config")) or _PIXELS in names:
        return None
    layer = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if layer is None or _PIXELS not in inspect.signature(model.forward).parameters:
        return None
    return next(_images(model, layer.in_channels))


def _count_leading(model: nn.Module, wanted: list[inspect.Parameter]) -> int:
    """Count the parameters that can be given by position, as users do: a hook sees no others among its arguments."""
    parameters = inspect.signature(model.forward).parameters.values()
    pairs = zip(parameters, wanted, strict=False)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    same = (p.name == other.name and p.kind in positional for p, other in pairs)
    return sum(1 for _ in itertools.takewhile(bool, same))


def _inputs(model: nn.Module) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    required = [p for p in parameters if p.default is p.empty and p.kind not in _VARIADIC]
    main = getattr(model, "main_input_name", None)
    if required or not parameters:
        return required
    named = [p for p in parameters if p.name == main]
    return named or parameters[:1]


def _like(parameter: inspect.Parameter, main: torch.Tensor) -> Any:
    annotation = str(parameter.annotation)
    if "mask" in parameter.name:
        return torch.ones(main.shape[:2], dtype=torch.long)
    if annotation.lower().removeprefix("typing.").startswith("list") and main.dim() == 4:
        return [image.clone() for image in main]
    return main


def _main_inputs(model: nn.Module, name: str) -> Iterator[torch.Tensor]:
    makers = {nn.Conv2d: _images, nn.Conv3d: _clips, nn.Conv1d: _signals, nn.Embedding: _texts}
    makers.update({nn.Linear: _rows, nn.RNNBase: _series, nn.MultiheadAttention: _series})
    seen: set[tuple[type, int]] = set()
    for layer in _likely_layers(model, name):
        kind = next(kind for kind in makers if isinstance(layer, kind))
        if (kind, _width(layer)) in seen or len(seen) >= 3:
            continue
        seen.add((kind, _width(layer)))
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        for value in makers[kind](model, _width(layer)):
            yield value if kind is nn.Embedding else value.to(dtype)


def _likely_layers(model: nn.Module, name: str) -> list[nn.Module]:
    kinds = (nn.Conv2d, nn.Conv3d, nn.Conv1d, nn.Embedding, nn.RNNBase, nn.MultiheadAttention, nn.Linear)
    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, kinds)]
    text = "ids" in name or "tokens" in name
    signal = name in ("input_values", "input_features", "waveform", "audio")
    image = "image" in name or "pixel" in name or name in ("img", "imgs")
    preferred: tuple[type, ...] = ()
    if text:
        preferred = (nn.Embedding,)
    elif signal:
        preferred = (nn.Conv1d, nn.Conv2d)
    elif image:
        preferred = (nn.Conv2d, nn.Conv3d)
    return sorted(layers, key=lambda layer: not isinstance(layer, preferred)) if preferred else layers


def _width(layer: Any) -> int:
    for attribute in ("in_channels", "num_embeddings", "input_size", "embed_dim", "in_features"):
        if hasattr(layer, attribute):
            return int(getattr(layer, attribute))
    return 0


def _config(model: nn.Module, *names: str) -> Any:
    config = getattr(model, "config", None)
    inner = (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None))
    values = (getattr(module, name, None) for module in inner for name in names)
    return next((value for value in values if value is not None), None)


def _sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
    if size:
        yield int(size[-2]), int(size[-1])
    size = _config(model, "image_size", "img_size")
    if isinstance(size, int):
        yield size, size
    elif isinstance(size, (tuple, list)) and len(size) >= 2:
        yield int(size[-2]), int(size[-1])
    yield from ((size, size) for size in _IMAGE_SIZES)


def _images(model: nn.Module, channels: int) -> Iterator[torch.Tensor]:
    frames = _config(model, "num_frames")
    channels = _config(model, "num_channels", "in_chans") or channels
    for height, width in _sizes(model):
        if frames:
            yield torch.rand(_BATCH, frames, channels, height, width)
        yield torch.rand(_BATCH, channels, height, width)


def _clips(model: nn.Module, channels: int) -> Iterator[torch.Tensor]:
    if _config(model, "num_frames"):
        yield from _images(model, channels)
    for frames, height, width in _CLIPS:
        yield torch.rand(_BATCH, channels, frames, height, width)


def _signals(model: nn.Module, channels: int) -> Iterator[torch.Tensor]:
    for length in _SIGNAL_LENGTHS:
        if channels == 1:
            yield torch.rand(_BATCH, length)
        yield torch.rand(_BATCH, channels, length)


def _texts(model: nn.Module, words: int) -> Iterator[torch.Tensor]:
    yield torch.randint(0, max(1, words), (_BATCH, _TEXT_LENGTH))


def _rows(model: nn.Module, features: int) -> Iterator[torch.Tensor]:
    yield torch.rand(_BATCH, features)
    yield torch.rand(_BATCH, _TEXT_LENGTH, features)


def _series(model: nn.Module, features: int) -> Iterator[torch.Tensor]:
    yield torch.rand(_BATCH, _TEXT_LENGTH, features)
