"""Spell how to make one of torch's own modules, its arguments read from its attributes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxfeat.errors import TraceError

_BOOKKEEPING = frozenset(vars(nn.Module()))
_NEVER = ("device", "dtype")
_PLAIN = (bool, int, float, str, type(None))
_STATE = ("_parameters", "_buffers")


def spell_constructor(module: nn.Module, path: str) -> str:
    """Spell a call that makes a module like this one, but for its weights.

    >>> spell_constructor(nn.Conv2d(3, 8, 3, padding=1, bias=False), "stem")
    'nn.Conv2d(3, 8, 3, padding=1, bias=False)'

    Args:
        module: one of torch's own.
        path: where it is, for the error.

    Raises:
        TraceError: where its attributes do not tell.
    """
    try:
        spelled = _spell(module)
        with torch.device("meta"):
            again = eval(spelled, {"nn": nn, "torch": torch})
    except Exception as error:
        raise _cannot(module, path, f"{type(error).__name__}: {error}") from error
    difference = next(_differences(module, again), None)
    if difference is not None:
        raise _cannot(module, path, f"{spelled} makes one with another {difference!r}")
    return spelled


def _cannot(module: nn.Module, path: str, why: str) -> TraceError:
    return TraceError(
        f"{path!r} ({type(module).__name__}) cannot be written as a call of its class, for its attributes do not tell "
        f"all that it was made with ({why}). Save the code with modules='given', which takes the module as it is.",
        path=path,
    )


def _spell(module: nn.Module) -> str:
    kind = type(module)
    name = f"nn.{kind.__name__}"
    if getattr(nn, kind.__name__, None) is not kind:
        raise TypeError(f"torch.nn has no {kind.__name__}")
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        inner = ", ".join(map(_spell, module))
        return f"{name}({inner})" if isinstance(module, nn.Sequential) else f"{name}([{inner}])"
    positional, keywords = _ARGUMENTS.get(kind, _read_arguments)(module)
    keywords |= _spell_dtype(module)
    return f"{name}({', '.join([*positional, *(f'{key}={value}' for key, value in keywords.items())])})"


def _spell_dtype(module: nn.Module) -> dict[str, str]:
    dtypes = {tensor.dtype for tensor in module.parameters()}
    if len(dtypes) != 1 or dtypes == {torch.float32}:
        return {}
    return {"dtype": str(dtypes.pop())}


# -- arguments ---------------------------------------------------------------------------------------------------------

Arguments = tuple[list[str], dict[str, str]]


def _read_arguments(module: nn.Module, kind: type | None = None) -> Arguments:
    """Read each argument of a class from the attribute of that name; what is the default is left out."""
    positional: list[str] = []
    keywords: dict[str, str] = {}
    for name, parameter in inspect.signature(kind or type(module)).parameters.items():
        if name in _NEVER or name.startswith("_") or not hasattr(module, name):
            continue
        value = _shorten(module, _value_of(module, name, parameter.default))
        if parameter.default is inspect.Parameter.empty:
            positional.append(_literal(value))
        elif value != parameter.default or type(value) is not type(parameter.default):
            keywords[name] = _literal(value)
    return positional, keywords


def _value_of(module: nn.Module, name: str, default: Any) -> Any:
    """Read an attribute; that which holds a parameter or nothing was asked for by a truth value."""
    value = getattr(module, name)
    return value is not None if isinstance(default, bool) and not isinstance(value, bool) else value


def _shorten(module: nn.Module, value: Any) -> Any:
    """Write ``3`` for ``(3, 3)`` as people do; convolutions read both alike."""
    alike = type(value) is tuple and value and all(part == value[0] for part in value)
    return value[0] if alike and isinstance(module, nn.modules.conv._ConvNd) else value


def _literal(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_literal, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and value - value != 0:
        return f"float({str(value)!r})"
    if type(value) in _PLAIN:
        return repr(value)
    if isinstance(value, (torch.dtype, torch.memory_format)):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


def _read_recurrent(module: nn.Module) -> Arguments:
    positional, keywords = _read_arguments(module, nn.RNNBase)
    keywords |= {"nonlinearity": repr(module.nonlinearity)} if isinstance(module, nn.RNN) else {}
    return positional[1:] if positional[:1] == [repr(module.mode)] else positional, keywords


def _read_attention(module: Any) -> Arguments:
    keywords = {
        "dropout": (module.dropout, 0.0),
        "bias": (module.in_proj_bias is not None, True),
        "add_bias_kv": (module.bias_k is not None, False),
        "add_zero_attn": (module.add_zero_attn, False),
        "kdim": (module.kdim, module.embed_dim),
        "vdim": (module.vdim, module.embed_dim),
        "batch_first": (module.batch_first, False),
    }
    return [str(module.embed_dim), str(module.num_heads)], _without_defaults(keywords)


def _without_defaults(keywords: dict[str, tuple[Any, Any]]) -> dict[str, str]:
    return {name: _literal(value) for name, (value, default) in keywords.items() if value != default}


def _read_transformer_layer(module: Any) -> Arguments:
    activations = {F.relu: "relu", F.gelu: "gelu"}
    keywords = {
        "dim_feedforward": (module.linear1.out_features, 2048),
        "dropout": (module.dropout.p, 0.1),
        "activation": (activations[module.activation], "relu"),
        "layer_norm_eps": (module.norm1.eps, 1e-05),
        "batch_first": (module.self_attn.batch_first, False),
        "norm_first": (module.norm_first, False),
        "bias": (module.linear1.bias is not None, True),
    }
    return [str(module.self_attn.embed_dim), str(module.self_attn.num_heads)], _without_defaults(keywords)


def _read_transformer(module: Any) -> Arguments:
    keywords = {} if module.norm is None else {"norm": _spell(module.norm)}
    if not getattr(module, "enable_nested_tensor", True):
        keywords["enable_nested_tensor"] = "False"
    return [_spell(module.layers[0]), str(module.num_layers)], keywords


_ARGUMENTS: dict[type, Any] = {
    nn.LSTM: _read_recurrent,
    nn.GRU: _read_recurrent,
    nn.RNN: _read_recurrent,
    nn.MultiheadAttention: _read_attention,
    nn.TransformerEncoderLayer: _read_transformer_layer,
    nn.TransformerDecoderLayer: _read_transformer_layer,
    nn.TransformerEncoder: _read_transformer,
    nn.TransformerDecoder: _read_transformer,
}


# -- whether it is one like it -----------------------------------------------------------------------------------------


def _differences(module: nn.Module, again: nn.Module) -> Iterator[str]:
    """Yield the attributes, tensors and children in which two modules differ."""
    if type(module) is not type(again):
        yield "class"
        return
    yield from (name for name in _attributes(again) if _differ(module, again, name))
    # What the class knows nothing of changes nothing, unless it hides a method or is a hook.
    yield from (name for name in _attributes(module) if name not in _attributes(again) and hasattr(type(module), name))
    yield from (name for name, hooks in vars(module).items() if name.endswith("_hooks") and hooks)
    for table in _STATE:
        mine, other = vars(module)[table], vars(again)[table]
        yield from (name for name in mine.keys() | other.keys() if _form(mine.get(name)) != _form(other.get(name)))
    if module._modules.keys() != again._modules.keys():
        yield "children"
        return
    for name, child in module._modules.items():
        inner = again._modules[name]
        if child is not None and inner is not None:
            yield from (f"{name}.{one}" for one in _differences(child, inner))
        elif child is not inner:
            yield name


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _BOOKKEEPING}


def _differ(module: nn.Module, again: nn.Module, name: str) -> bool:
    mine, other = _attributes(module).get(name), _attributes(again).get(name)
    if name in _WEIGHTS and isinstance(module, nn.RNNBase):
        return False
    return bool(mine is not other and (type(mine) is not type(other) or mine != other))


_WEIGHTS = ("_flat_weights", "_flat_weight_refs")


def _form(tensor: Any) -> Any:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype, isinstance(tensor, nn.Parameter))
