"""Write the statements of ``__init__`` that make the parts of an extractor again."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from fxfeat.codegen.containers import Opened, step_to
from fxfeat.codegen.globals import is_identifier

_MOST_VALUES = 64
_WIDTH = 100

MakePart = Callable[[nn.Module, str], str]
"""Spells how to get a module that runs whole, by its path."""


@dataclass
class Parts:
    """The statements written so far, and how each module and tensor that was made is spelled."""

    make: MakePart
    lines: list[str] = field(default_factory=list)
    spelled: dict[int, str] = field(default_factory=dict)
    packed: dict[str, str] = field(default_factory=dict)

    @property
    def has_containers(self) -> bool:
        """Whether there is any module that stands for an opened one."""
        return any("Part()" in line for line in self.lines)


def write_parts(extractor: nn.Module, make: MakePart) -> Parts:
    """Write what hangs children and tensors on ``self`` as they hang on an extractor.

    Args:
        extractor: what is to be saved.
        make: spells how to make the modules that run whole.
    """
    parts = Parts(make)
    _write_container(parts, extractor, "self", "")
    return parts


def _write_container(parts: Parts, module: nn.Module, owner: str, path: str) -> None:
    for name, parameter in module._parameters.items():
        if parameter is not None:
            parts.lines.append(_hang(owner, name, _tensor(parts, parameter, _reach(owner, name)), "register_parameter"))
    for name, buffer in module._buffers.items():
        if buffer is not None:
            parts.lines.append(_write_buffer(parts, module, owner, name, buffer))
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            parts.lines.append(f"{owner}.register_buffer({name!r}, {_pack(parts, value)}, persistent=False)")
    for name, child in module._modules.items():
        if child is not None:
            _write_child(parts, child, owner, name, f"{path}.{name}" if path else name)


def _write_child(parts: Parts, child: nn.Module, owner: str, name: str, path: str) -> None:
    spelled = _reach(owner, name)
    if id(child) in parts.spelled:
        parts.lines.append(_hang(owner, name, parts.spelled[id(child)], "add_module"))
        return
    parts.spelled[id(child)] = spelled
    if isinstance(child, Opened):
        parts.lines.append(_hang(owner, name, "Part()", "add_module"))
        _write_container(parts, child, spelled, path)
        return
    parts.lines.append(_hang(owner, name, parts.make(child, path), "add_module"))
    parts.lines += _write_ties(parts, child, spelled)


def _write_ties(parts: Parts, module: nn.Module, spelled: str) -> Iterator[str]:
    """Write which tensors of a module are another's as well, and which take no gradients."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owner, _, last = name.rpartition(".")
        inner = f"{spelled}.get_submodule({owner!r})" if owner else spelled
        if id(parameter) in parts.spelled:
            yield _hang(inner, last, parts.spelled[id(parameter)], "register_parameter")
            continue
        parts.spelled[id(parameter)] = _reach(inner, last)
        if not parameter.requires_grad:
            yield f"{_reach(inner, last)}.requires_grad_(False)"


def _write_buffer(parts: Parts, module: nn.Module, owner: str, name: str, buffer: torch.Tensor) -> str:
    if id(buffer) in parts.spelled:
        return f"{owner}.register_buffer({name!r}, {parts.spelled[id(buffer)]})"
    parts.spelled[id(buffer)] = _reach(owner, name)
    if name in module._non_persistent_buffers_set:
        return f"{owner}.register_buffer({name!r}, {_pack(parts, buffer)}, persistent=False)"
    return f"{owner}.register_buffer({name!r}, {_empty(buffer)})"


# -- tensors -----------------------------------------------------------------------------------------------------------


def _tensor(parts: Parts, parameter: torch.Tensor, spelled: str) -> str:
    if id(parameter) in parts.spelled:
        return parts.spelled[id(parameter)]
    parts.spelled[id(parameter)] = spelled
    frozen = "" if parameter.requires_grad else ", requires_grad=False"
    return f"nn.Parameter({_empty(parameter)}{frozen})"


def _empty(tensor: torch.Tensor) -> str:
    dtype = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    return f"torch.empty({tuple(tensor.shape)!r}{dtype})"


def _pack(parts: Parts, tensor: torch.Tensor) -> str:
    """Write a tensor with its values, which no checkpoint has."""
    tensor = tensor.detach().cpu()
    if tensor.numel() <= _MOST_VALUES and not tensor.is_complex() and tensor.dtype != torch.bfloat16:
        spelled = repr(tensor.tolist()).replace("inf", "float('inf')").replace("nan", "float('nan')")
        return f"torch.tensor({spelled}, dtype={tensor.dtype})"
    name = f"_VALUES_{len(parts.packed)}"
    data = base64.b64encode(
        zlib.compress(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes(), 9)
    ).decode()
    rows = "\n".join(f'    "{data[start : start + _WIDTH]}"' for start in range(0, len(data), _WIDTH))
    parts.packed[name] = f"{name} = (\n{rows}\n)"
    return f"unpack({name}, {tensor.dtype}, {tuple(tensor.shape)!r})"


UNPACK = '''\
def unpack(text, dtype, shape):
    """Read a tensor that no checkpoint has from its bytes."""
    data = bytearray(zlib.decompress(base64.b64decode(text)))
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)
'''


# -- names -------------------------------------------------------------------------------------------------------------


def _reach(owner: str, name: str) -> str:
    return step_to(owner, name, name.isdecimal() and owner != "self")


def _hang(owner: str, name: str, value: str, method: str) -> str:
    return f"{owner}.{name} = {value}" if is_identifier(name) else f"{owner}.{method}({name!r}, {value})"


def take_given(module: nn.Module, path: str) -> str:
    """Spell how to take a module from the model that the class is given."""
    return f"model.get_submodule({path!r})"
