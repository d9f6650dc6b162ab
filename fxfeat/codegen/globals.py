"""How objects are spelled in emitted source, and which imports that takes."""

from __future__ import annotations

import builtins
import importlib
import keyword
import math
import random
import re
import sys
import unicodedata
from collections.abc import Container
from typing import Any

import torch
import torch.nn.functional as F

_HOMES = (
    *(("torch", torch), ("F", F), ("math", math), ("random", random)),
    *(("torch.special", torch.special), ("torch.linalg", torch.linalg)),
)
_IMPORTS = {
    **{"torch": "import torch", "F": "import torch.nn.functional as F", "math": "import math"},
    **{"random": "import random", "np": "import numpy as np", "builtins": "import builtins"},
}


class Globals:
    """Names given to objects outside the function, with the import lines they need.

    ``carried`` are the objects that no import reaches: an extractor has to carry those itself.
    """

    def __init__(self, reserved: Container[str] = ()) -> None:
        self._reserved = reserved
        self.imports: dict[str, str] = {}
        self.objects: dict[str, Any] = {}
        self.carried: dict[str, Any] = {}

    def spell(self, thing: Any) -> str:
        """Return the expression that stands for a function, class or constant, importing what it takes."""
        thing = getattr(thing, "fxfeat_wraps", thing)
        name: str = getattr(thing, "__name__", None) or ""
        for home, namespace in _homes():
            if name and getattr(namespace, name, None) is thing:
                return f"{self._use(home, namespace)}.{name}"
        if getattr(builtins, name, None) is thing:
            return self.builtin(name)
        if isinstance(thing, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
            return f"{self._use('torch', torch)}.ops.{str(thing).replace('::', '.')}"
        if getattr(torch.Tensor, name, None) is thing:
            return f"{self._use('torch', torch)}.Tensor.{name}"
        return self._imported(thing) or self._carry(thing)

    def builtin(self, name: str) -> str:
        """Return what reaches one of Python's own functions, where an argument may be called like it."""
        return f"{self._use('builtins', builtins)}.{name}" if name in self._reserved else name

    def torch(self) -> str:
        """Return the name of torch."""
        return self._use("torch", torch)

    def _use(self, home: str, namespace: Any) -> str:
        root, dot, rest = home.partition(".")
        name = self._claim(root, {"torch": torch, "np": sys.modules.get("numpy")}.get(root, namespace))
        self.imports[name] = _IMPORTS[root] if name == root else f"{_IMPORTS[root].split(' as ')[0]} as {name}"
        return name + dot + rest

    def _imported(self, thing: Any) -> str | None:
        owner = getattr(thing, "__self__", None)
        if isinstance(owner, type):
            spelled = self._imported(owner)
            return f"{spelled}.{thing.__name__}" if spelled else None
        module, qualified = _home_of(thing)
        if not module or not qualified or "<" in qualified or module == "__main__":
            return None
        if module not in sys.modules:
            return None
        if _get(module, qualified) is not thing:
            # C++ names some classes otherwise than they are exported.
            qualified = getattr(thing, "__name__", "")
        if not qualified or _get(module, qualified) is not thing:
            return None
        first = qualified.split(".")[0]
        name = self._claim(first, getattr(importlib.import_module(module), first))
        renamed = "" if name == first else f" as {name}"
        self.imports[name] = f"from {module} import {first}{renamed}"
        return ".".join([name, *qualified.split(".")[1:]])

    def _carry(self, thing: Any) -> str:
        """Give a name to an object that no import reaches; the extractor carries the object itself."""
        kind = re.sub(r"\W", "_", getattr(thing, "__name__", type(thing).__name__)).strip("_").lower() or "held"
        name = self._claim(f"_{kind}", thing)
        self.carried[name] = thing
        return name

    def _claim(self, name: str, thing: Any) -> str:
        tried, count = name, 0
        while self._is_taken(tried, thing):
            count += 1
            tried = f"{name}_{count}"
        self.objects[tried] = thing
        return tried

    def _is_taken(self, name: str, thing: Any) -> bool:
        other = name in self.objects and self.objects[name] is not thing
        return other or name in self._reserved or keyword.iskeyword(name)

    def literal(self, value: Any) -> str:
        """Spell a constant."""
        if type(value).__module__ == "numpy" and hasattr(value, "item") and not value.shape:
            return f"{self.spell(type(value))}({self.literal(value.item())})"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{self.builtin('float')}('{value}')"
        if hasattr(type(value), "__members__"):  # an enum, of Python or of C++
            return f"{self.spell(type(value))}.{value.name}"
        if isinstance(value, (type(None), bool, int, float, complex, str, bytes)):
            return repr(value)
        if isinstance(value, range):
            return f"{self.builtin('range')}{repr(value).removeprefix('range')}"
        if value is Ellipsis:
            return "..."
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
            return f"{self.torch()}.{str(value).removeprefix('torch.')}"
        if isinstance(value, torch.device):
            return f"{self.torch()}.device({str(value)!r})"
        if isinstance(value, (set, frozenset)) and value:
            return "{" + ", ".join(sorted(self.literal(element) for element in value)) + "}"
        return self.spell(value)


def _homes() -> tuple[tuple[str, Any], ...]:
    numpy = sys.modules.get("numpy")
    return _HOMES if numpy is None else (*_HOMES, ("np.random", numpy.random))


def _get(module: str, qualified: str) -> Any:
    thing: Any = importlib.import_module(module)
    for part in qualified.split("."):
        thing = getattr(thing, part, None)
    return thing


def _home_of(thing: Any) -> tuple[str | None, str | None]:
    if isinstance(thing, torch._C.ScriptFunction):
        qualified = thing.qualified_name.removeprefix("__torch__.")
        module, _, name = qualified.rpartition(".")
        return module, name
    return getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)


def is_identifier(text: str) -> bool:
    """Say whether ``text`` can follow a dot in source.

    >>> is_identifier("layer1"), is_identifier("0"), is_identifier("class")
    (True, False, False)
    """
    # Python takes some letters of source for others.
    return text.isidentifier() and not keyword.iskeyword(text) and unicodedata.normalize("NFKC", text) == text


def to_identifier(text: str) -> str:
    """Make a variable's name out of a dotted one.

    >>> to_identifier("blocks.3"), to_identifier("0.conv"), to_identifier("x²")
    ('blocks_3', '_0_conv', 'x2')
    """
    name = re.sub(r"\W", "_", unicodedata.normalize("NFKC", text))
    name = f"_{name}" if not name[:1].isalpha() and not name.startswith("_") else name
    return f"{name}_" if keyword.iskeyword(name) else name
