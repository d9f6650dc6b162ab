"""Put other values in the place of a running model's own: by hooks that return them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode_temporarily

from fxfeat.eager.look import Replacements
from fxfeat.ir.feature import OpOccurrence
from fxfeat.ir.tree import follow, replace_at
from fxfeat.ir.value_replacement import Replacement


@contextmanager
def replacing(
    model: nn.Module, replacements: Sequence[Replacement]
) -> Iterator[dict[tuple[nn.Module, int], Replacements]]:
    """Replace what modules return; yield what is to be replaced of what their code computes.

    Args:
        model: the model.
        replacements: what goes through which functions.
    """
    computed: dict[tuple[nn.Module, int], Replacements] = {}
    returned: dict[nn.Module, list[Replacement]] = {}
    for replacement in replacements:
        origin = replacement.origin
        if origin.path is not None:
            returned.setdefault(model.get_submodule(origin.path), []).append(replacement)
        elif isinstance(origin.sign, OpOccurrence):
            place = (model.get_submodule(origin.sign.path), origin.sign.call)
            computed.setdefault(place, []).append((replacement, origin.sign))
    with ExitStack() as undo:
        for module, mine in returned.items():
            undo.callback(module.register_forward_hook(_hook(mine)).remove)
        yield computed


def _hook(replacements: list[Replacement]) -> Callable[..., Any]:
    calls: Counter[str] = Counter()

    def put(module: nn.Module, inputs: Any, result: Any) -> Any:
        number = calls["run"]
        calls["run"] += 1
        for replacement in replacements:
            origin = replacement.origin
            if origin.call == number:
                with _unheard():
                    part = replacement.function(follow(result, origin.steps))
                result = replace_at(result, origin.steps, part)
        return result

    return put


def _unheard() -> contextlib.AbstractContextManager[Any]:
    """Keep what a function calls from being counted with the calls of the code around the module."""
    mode: TorchFunctionMode | None = _get_current_function_mode()
    return contextlib.nullcontext() if mode is None else _pop_mode_temporarily()
