"""Opened classes that change a checkpoint before it is loaded, which what stands for them would lose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def note_loading(original: nn.Module, part: nn.Module) -> None:
    """Give what stands for a module its version, and note whether the module changes what is loaded into it."""
    plain, name = nn.Module._load_from_state_dict, "_load_from_state_dict"
    is_own = name in original.__dict__ or getattr(type(original), name) is not plain
    changes = is_own or bool(getattr(original, "_load_state_dict_pre_hooks", None))
    part.__dict__["_version"] = original._version
    part.__dict__["_changes_loaded"] = type(original).__name__ if changes else ""


def explain_loading(part: nn.Module, state: Mapping[str, Any], prefix: str, metadata: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with loading a checkpoint that the class of an opened module would have changed.

    Args:
        part: what stands for the module.
        state: the checkpoint.
        prefix: where the module is in it.
        metadata: what the checkpoint says of the module.
    """
    name = part.__dict__["_changes_loaded"]
    is_current = metadata.get("version", part._version) == part._version
    if not name or (is_current and all(f"{prefix}{key}" in state for key in _list_keys(part))):
        return []
    return [
        f"{name} changes what is loaded into it, as for names in older checkpoints, and its code is written out, so "
        "that this would not run. Load the checkpoint into the model, then create the extractor again."
    ]


def _list_keys(module: nn.Module) -> list[str]:
    return [
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules(remove_duplicate=False)
        for name, value in (*part._parameters.items(), *part._buffers.items())
        if value is not None and name not in part._non_persistent_buffers_set
    ]
