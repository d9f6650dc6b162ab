"""The hooks that torch runs around every module."""

from __future__ import annotations

from typing import Any

from torch.nn.modules import module as torch_module

_TABLES = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_pre_hooks", "_global_backward_hooks")


def list_global_hooks() -> tuple[Any, ...]:
    """List the hooks on all modules, but for torch's own, which only look: counters of operations, trackers."""
    tables = [getattr(torch_module, table) for table in _TABLES]
    return tuple(hook for table in tables if table for hook in table.values() if not _only_looks(hook))


def has_global_backward_hooks() -> bool:
    """Say whether a hook waits for the gradients of every module."""
    return any(getattr(torch_module, table) for table in _TABLES[2:])


def _only_looks(hook: Any) -> bool:
    home = getattr(hook, "__module__", None) or ""
    return home.partition(".")[0] in ("torch", "fxfeat")
