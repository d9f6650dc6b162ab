"""Save an extractor as a file of plain PyTorch."""

from __future__ import annotations

import copy
import re
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from fxfeat.codegen.extractor import FeatureExtractor, Modules
from fxfeat.deploy.constructors import spell_constructor
from fxfeat.deploy.flat_extractor import copy_extractor, example_of, flatten_extractor, refuse_tapped
from fxfeat.deploy.plain_forward import list_functions, write_forward
from fxfeat.deploy.plain_parts import UNPACK, Parts, take_given, write_parts
from fxfeat.eager.repeated_calls import equal_values
from fxfeat.errors import RequestError, TraceError
from fxfeat.ir.example import Example

_TAB = "    "
PART = '''\
class Part(nn.Module):
    """Holds modules and tensors under the names that the checkpoint has for them."""

    def __getitem__(self, index):
        return getattr(self, str(index))
'''


def save_code(extractor: FeatureExtractor, path: str | Path, modules: Modules, example_inputs: Any) -> None:
    """Write a file of plain PyTorch that computes what an extractor does.

    Raises:
        RequestError: for an unknown value of ``modules``.
        TraceError: naming what cannot be written.
    """
    if modules not in get_args(Modules):
        raise RequestError(f"modules is {modules!r}; it must be 'torch' or 'given'.")
    if extractor.is_mixed:
        raise TraceError(
            f"Some modules of {extractor.original} are in another mode than the rest. Call train() or eval() on the "
            "extractor, then save its code."
        )
    if modules == "given":
        refuse_tapped(extractor)
        text = write_file(extractor, extractor, take_given)
    else:
        example = example_of(extractor, example_inputs)
        flat = flatten_extractor(extractor, example)
        text = write_file(flat, extractor, spell_constructor)
        _check(text, extractor, example)
    Path(path).write_text(text)


def write_file(flat: FeatureExtractor, extractor: FeatureExtractor, make: Any) -> str:
    """Write the text of a file.

    Args:
        flat: what is to be written.
        extractor: what was asked for, for the words.
        make: spells how to get a module that runs whole.
    """
    given = make is take_given
    code, parts = write_forward(flat, any_package=given), write_parts(flat, make)
    imports = {"import torch", "from torch import nn", *code.imports}
    imports |= {"import base64", "import zlib"} if parts.packed else set()
    imports |= {"import torchvision"} if any("torch.ops.torchvision." in method for method in code.methods) else set()
    keys = (row.key for row in extractor.forms.emissions[0].rows)
    names = ", ".join(keys).replace("\\", "/").replace('"', "'")  # it stands between quotes
    above = [
        f'"""{names} of {extractor.original}, written by fxfeat. The class to use is the last one."""',
        "\n".join(sorted(imports, key=_order)),
    ]
    functions = [*list_functions(code), *([UNPACK] if parts.packed else []), *([PART] if parts.has_containers else [])]
    blocks = [
        "\n\n".join(above),
        *parts.packed.values(),
        *functions,
        _write_class(flat, extractor, code.methods, parts, given),
    ]
    return "\n\n\n".join(block.rstrip("\n") for block in blocks) + "\n"


def _write_class(
    flat: FeatureExtractor, extractor: FeatureExtractor, methods: tuple[str, ...], parts: Parts, given: bool
) -> str:
    name = re.sub(r"\W", "", extractor.original) + "Features"
    start = f"def __init__(self{', model' if given else ''}):"
    own = _write_own_modes(extractor, {name for name, _ in flat.named_modules()})
    mode = ["self.train()"] * bool(own) if flat.training else ["self.eval()"]
    body = "\n".join(f"{_TAB}{line}" for line in ("super().__init__()", *parts.lines, *mode))
    inner = "\n\n".join(textwrap.indent(text, _TAB).rstrip("\n") for text in (f"{start}\n{body}", *methods, *own))
    return f"class {name}(nn.Module):\n{inner}\n"


def _write_own_modes(extractor: FeatureExtractor, there: Collection[str]) -> list[str]:
    """Write a ``train`` of its own where the model has one that leaves modules in the other mode."""
    trial, lines = copy_extractor(extractor), []
    for training in (True, False):
        trial.train(training)
        unlike = [name for name, module in trial.named_modules() if module.training != training and name in there]
        if unlike:
            lines += [f"for name in {unlike!r} if mode is {training} else []:"]
            lines += [f"{_TAB}self.get_submodule(name).training = {not training}"]
    if not lines:
        return []
    head = ["def train(self, mode=True):", f"{_TAB}super().train(mode)"]
    return ["\n".join([*head, *(f"{_TAB}{line}" for line in lines), f"{_TAB}return self"])]


def _order(line: str) -> tuple[bool, str]:
    return line.startswith("from "), line


def load_code(text: str) -> type[nn.Module]:
    """Run the text of a saved file, and return its last class."""
    namespace: dict[str, Any] = {"__name__": "saved_code"}
    exec(compile(text, "<saved code>", "exec"), namespace)
    classes = [value for value in namespace.values() if isinstance(value, type) and value.__module__ == "saved_code"]
    return classes[-1]


def _check(text: str, extractor: FeatureExtractor, example: Example) -> None:
    """Raise unless the file gives bit for bit what the extractor does, with its weights."""
    with torch.random.fork_rng():
        plain = load_code(text)()
    # Copied, for both runs may write to it.
    plain.load_state_dict(extractor.state_dict(), strict=True)
    if any(tensor.is_meta for tensor in (*extractor.parameters(), *extractor.buffers())):
        return
    mine, theirs = (_run(module, example) for module in (copy_extractor(extractor), plain))
    if not equal_values(theirs, mine):
        raise TraceError(
            f"The code written for {extractor.original} gives other values: something of the model is neither in its "
            "parameters, buffers nor code. Save it with modules='given'."
        )


def _run(module: nn.Module, example: Example) -> Any:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return module(*copy.deepcopy(example.args), **copy.deepcopy(example.kwargs))
